"""Turning a run away so that nothing of it shows but the run itself.

Uses of ``dagster._core``: `DagsterEvent` and the data of a planned materialization. Dagster takes a partition's status
from the run that was the last to plan it: a run that was turned away would hide that another attempt at the group is
under way, or has failed. So the attempt that counts plans its group once more.
"""

from __future__ import annotations

import dagster as dg
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent

from cm_dagster.crashpoints import crash_point
from cm_dagster.ledger import tags

__all__ = ["attempts_at", "group_tag", "show_former", "turn_away"]

_SHOWN = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED)
"""Statuses of runs that need not be shown: a materialization stays, and a cancelled run counts for nothing."""


def group_tag(step: str, group: str) -> str:
    """Value of the run tag that all attempts at a group of a step (``campaign/step/site``) share."""
    return f"{step}|{group}"


def attempts_at(instance: dg.DagsterInstance, step: str, group: str, *, but: str) -> list[dg.DagsterRun]:
    """Find the runs that are attempts at a group, one run left out, the latest that counts last."""
    found = instance.get_runs(dg.RunsFilter(tags={tags.GROUP: group_tag(step, group)}))
    own = [other for other in found if other.run_id != but and other.tags.get(tags.OF) == other.run_id]
    # Two coordinators at one moment may give one number twice; the claim then turns one of them away (CANCELED).
    canceled = dg.DagsterRunStatus.CANCELED
    return sorted(own, key=lambda other: (int(other.tags[tags.ATTEMPT]), other.status is not canceled))


def turn_away(instance: dg.DagsterInstance, run: dg.DagsterRun, reason: str) -> None:
    """End a run that is not to become an attempt as cancelled, with the reason."""
    instance.report_run_canceled(run, f"cm_dagster does not take this run: {reason}")
    crash_point("turn-away.cancelled")
    show_former(instance, run)


def show_former(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Let the groups of a run that was turned away show again what they showed before."""
    planned = dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
    for record in instance.get_records_for_run(run.run_id, of_type=planned).records:
        event = record.event_log_entry.dagster_event
        if event is not None and event.asset_key is not None and event.partition is not None:
            _plan_again(instance, run, event.asset_key, event.partition)


def _plan_again(instance: dg.DagsterInstance, run: dg.DagsterRun, key: dg.AssetKey, group: str) -> None:
    attempts = attempts_at(instance, "/".join(key.path), group, but=run.run_id)
    if attempts and attempts[-1].status not in _SHOWN:
        former = attempts[-1]
        data = AssetMaterializationPlannedData(key, partition=group)
        event = DagsterEvent.build_asset_materialization_planned_event(former.job_name, "__".join(key.path), data)
        instance.report_dagster_event(event, run_id=former.run_id)
