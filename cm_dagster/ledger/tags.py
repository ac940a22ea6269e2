"""The run tags of cm_dagster: few, each for a query or for the reader of a run's page.

Those that begin with ``.dagster/`` are for programs; Dagster's UI does not show tags of this kind.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ATTEMPT",
    "BY",
    "CANCELLED",
    "FINALIZED",
    "GROUP",
    "KIND",
    "OF",
    "OUTPUT_RUN",
    "PARTITION",
    "RETRY_DEAD",
    "STATE",
    "STATE_TAGS",
    "STEP",
    "SUBMIT_DIR",
    "USER",
    "WANT",
    "WMS_ID",
    "WORKFLOW",
]

KIND: Final = "cm/kind"
"""What the run is for: ``workflow`` on attempts, the name of the stage on other runs."""
WORKFLOW: Final = "workflow"
"""Value of `KIND` on attempts, and of the asset tag of the same name on step assets."""
STEP: Final = "cm/step"
"""``<campaign>/<step>/<site>``: one tag answers all questions about a step."""
GROUP: Final = ".dagster/cm_group"
"""``<campaign>/<step>/<site>|<group>``: all attempts at one group."""
ATTEMPT: Final = "cm/attempt"
"""Number of the attempt, from 1."""
WANT: Final = ".dagster/cm_want"
"""Number that the dispatcher meant the attempt to have; another number is refused."""
BY: Final = "cm/by"
"""``dispatch`` where the dispatcher asked for the attempt, else a person did."""
STATE: Final = "cm/state"
WMS_ID: Final = "cm/wms_id"
SUBMIT_DIR: Final = ".dagster/cm_submit_dir"
OUTPUT_RUN: Final = ".dagster/cm_run"
"""RUN collection of the attempt."""
FINALIZED: Final = "cm/finalized"
"""How often the workflow's final job was run again."""
CANCELLED: Final = "cm/cancelled"
"""``yes`` once the workflow of a cancelled attempt is known to be cancelled."""
OF: Final = ".dagster/cm_of"
"""Id of the run that the state tags belong to: a re-execution copies tags, which are then not its own."""
USER: Final = "cm/user"
PARTITION: Final = "dagster/partition"

RETRY_DEAD: Final = {"dagster/max_retries": "3", "dagster/retry_on_asset_or_op_failure": "false"}
"""For runs that may be repeated: Dagster does so when their worker dies, but not when they fail by themselves."""

STATE_TAGS: Final = (STATE, WMS_ID, SUBMIT_DIR, OUTPUT_RUN, FINALIZED, CANCELLED)
"""Tags that tell how an attempt went; a re-execution must not inherit them."""
