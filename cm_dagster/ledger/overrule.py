"""Writing over the end of an attempt: accepted by hand, rejected, restarted.

Dagster gives a run's status to whatever ended or began it last, and a partition's to the run that was the last to plan
it, unless the partition was materialized since. So a rejected attempt plans its group once more and fails: the
partition is red, though its materialization stays in the log (Dagster's own storage can't wipe a partition).

Uses of ``dagster._core``: as `cm_dagster.ledger.events`.
"""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent

from cm_dagster.crashpoints import crash_point
from cm_dagster.ledger import checks, tags
from cm_dagster.ledger.attempts import Attempt
from cm_dagster.ledger.events import Metadata, materialize, note
from cm_dagster.ledger.writing import writing
from cm_dagster.policy.states import OVERRULED, State

__all__ = ["accept_by_hand", "reject", "reopen", "restarted"]


def accept_by_hand(instance: dg.DagsterInstance, attempt: Attempt, message: str, metadata: Metadata) -> None:
    """Materialize the group of an attempt that failed or was cancelled, and make it accepted.

    Raises
    ------
    ValueError
        If the attempt has not ended so.
    """
    _check(attempt, State.ACCEPTED)
    with writing(instance, [attempt]) as writer:
        materialize(writer, attempt, message, metadata)
        crash_point("overrule.materialized")
        target = writer.flush().get(attempt.run_id) or checks.latest_made(instance, attempt)
        checks.follow(writer, attempt, target)
        writer.event(attempt, dg.DagsterEventType.RUN_SUCCESS, message)
        crash_point("overrule.accepted")
        writer.tag(attempt, {tags.STATE: State.ACCEPTED.value})


def reject(instance: dg.DagsterInstance, attempt: Attempt, message: str) -> None:
    """Make an accepted attempt a failed one; its partition shows it.

    Raises
    ------
    ValueError
        If the attempt is not accepted.
    """
    _check(attempt, State.FAILED)
    _plan(instance, attempt)
    crash_point("overrule.planned")
    instance.report_run_failed(attempt.run, message)
    crash_point("overrule.rejected")
    instance.add_run_tags(attempt.run_id, {tags.STATE: State.FAILED.value})


def reopen(instance: dg.DagsterInstance, attempt: Attempt, message: str) -> None:
    """Put an attempt that failed or was cancelled into the site's hands again; what its workflow does is unknown.

    Raises
    ------
    ValueError
        If the attempt has not ended so.
    """
    _check(attempt, State.UNKNOWN)
    # First: the run must not be open for a moment in the state of its end.
    again: Mapping[str, str] = {tags.STATE: State.UNKNOWN.value, tags.CANCELLED: "", tags.FINALIZED: ""}
    instance.add_run_tags(attempt.run_id, dict(again))
    _plan(instance, attempt)
    crash_point("overrule.reopening")
    with writing(instance, [attempt]) as writer:
        writer.event(attempt, dg.DagsterEventType.RUN_START, message)
    crash_point("overrule.reopened")


def restarted(
    instance: dg.DagsterInstance, attempt: Attempt, wms_id: str, now: float, how: str = "was restarted"
) -> None:
    """Write that the workflow of an attempt in the site's hands was restarted, and which one it is from now on.

    Parameters
    ----------
    instance
        The Dagster instance.
    attempt
        The attempt.
    wms_id
        Id of the workflow at the WMS; some give a new one.
    now
        Seconds since the epoch.
    how
        What happened to the former one.
    """
    how_often = f"{attempt.restarts + 1} {int(now)}"
    found = {tags.WMS_ID: wms_id, tags.RESTARTED: how_often, tags.FINALIZED: "", tags.STATE: State.SUBMITTED.value}
    instance.add_run_tags(attempt.run_id, found)
    note(instance, attempt.run, f"Workflow {attempt.wms_id} {how}; it is {wms_id} now.")


def _check(attempt: Attempt, after: State) -> None:
    if (attempt.state, after) not in OVERRULED:
        raise ValueError(f"{after} may not follow {attempt.state} (run {attempt.run_id})")


def _plan(instance: dg.DagsterInstance, attempt: Attempt) -> None:
    key = dg.AssetKey(attempt.id.step.asset)
    data = AssetMaterializationPlannedData(key, partition=attempt.id.group)
    event = DagsterEvent.build_asset_materialization_planned_event(attempt.run.job_name, "__".join(key.path), data)
    instance.report_dagster_event(event, run_id=attempt.run_id)
