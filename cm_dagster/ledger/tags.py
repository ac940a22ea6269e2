"""The run tags of cm_dagster: few, each for a query or for the reader of a run's page.

Those that begin with ``.dagster/`` are for programs; Dagster's UI does not show tags of this kind.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "AGAIN",
    "ATTEMPT",
    "BY",
    "CANCELLED",
    "FINALIZED",
    "GROUP",
    "HOW",
    "KIND",
    "NO_RETRIES",
    "OF",
    "OUTPUT_RUN",
    "PARTITION",
    "RESTARTED",
    "SENT",
    "STATE",
    "STATE_TAGS",
    "STEP",
    "SUBMIT_DIR",
    "TRIP",
    "USER",
    "WAIT",
    "WANT",
    "WMS_ID",
    "WORKFLOW",
    "place_at",
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
SENT: Final = ".dagster/cm_sent"
"""When the workflow was recorded as submitted, in seconds since the epoch: what the limits per hour count."""
FINALIZED: Final = "cm/finalized"
"""How often the workflow's final job was run again."""
CANCELLED: Final = "cm/cancelled"
"""``yes`` once the workflow of a cancelled attempt is known to be cancelled."""
OF: Final = ".dagster/cm_of"
"""Id of the run that the state tags belong to: a re-execution copies tags, which are then not its own."""
USER: Final = "cm/user"
PARTITION: Final = "dagster/partition"

WAIT: Final = ".dagster/cm_wait"
"""Why an attempt waits to be submitted or finalized again, since when, until when; empty if it does not."""
HOW: Final = ".dagster/cm_how"
"""In what an attempt differs from a plain one (`cm_dagster.plan.recipe.Recipe`); absent from a plain one."""
RESTARTED: Final = ".dagster/cm_restarted"
"""How often the attempt's workflow was restarted, and when last (seconds since the epoch): ``NUMBER TIME``."""
AGAIN: Final = ".dagster/cm_again"
"""How often what a run makes had failed before, since when, and when it is tried again should it fail once more."""

TRIP: Final = ".dagster/cm_trip"
"""``<kind> <campaign>/<step>/<site>`` on runs that bring data of a step to a site, or home."""


def place_at(stage: str, site: str) -> dict[str, str]:
    """Give the tag by which dagster.yaml limits the runs of a stage at a site: those of others do not count.

    Parameters
    ----------
    stage
        Name of the stage, e.g. ``submit``.
    site
        Name of the site.
    """
    return {f".dagster/cm_{stage}": site}


NO_RETRIES: Final = {"dagster/max_retries": "0"}
"""For runs that the sensors ask for again by themselves, after a while and with what is left to do."""

STATE_TAGS: Final = (STATE, WMS_ID, SENT, SUBMIT_DIR, OUTPUT_RUN, FINALIZED, CANCELLED, WAIT, RESTARTED)
"""Tags that tell how an attempt went; a re-execution must not inherit them."""
