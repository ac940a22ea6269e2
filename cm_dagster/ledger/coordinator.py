"""The run coordinator: what every new run of a step's asset passes through, whoever launches it.

Uses of ``dagster._core``: `QueuedRunCoordinator` and `SubmitRunContext`; a coordinator named in dagster.yaml is
Dagster's extension point, but the classes are not re-exported. The execution plan's snapshot is read because the run
of a job backfill does not name its assets.

A run that makes no sense is reported as CANCELED with the reason and returned: raising would leave it FAILURE with a
failed partition (and an HTTP 500 for the person).
"""

from __future__ import annotations

import dagster as dg
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext

from cm_dagster.crashpoints import crash_point
from cm_dagster.ledger import tags
from cm_dagster.ledger.refusal import attempts_at, group_tag, turn_away
from cm_dagster.plan.names import GROUP, StepId
from cm_dagster.policy.states import State

__all__ = ["CampaignRunCoordinator"]

_RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


class CampaignRunCoordinator(QueuedRunCoordinator):
    """Queues all runs; makes an attempt of each run of a step's asset, or turns it away with the reason."""

    def submit_run(self, context: SubmitRunContext) -> dg.DagsterRun:
        """Queue a run, after marking it as an attempt if it is one."""
        run = context.dagster_run
        if run.status is not dg.DagsterRunStatus.NOT_STARTED:
            return super().submit_run(context)
        steps, others = _selected(self._instance, context)
        if not steps:
            return super().submit_run(context)
        crash_point("coordinator.begun")
        reason = _misfit(run, steps, others) or self._conflict(run, steps[0])
        if reason:
            turn_away(self._instance, run, reason)
            return self._read(run.run_id)
        self._instance.add_run_tags(run.run_id, self._tags(context, steps[0]))
        crash_point("coordinator.tagged")
        # The tags must be on the run that is queued, or Dagster's queue would take it for an ordinary one.
        queued = super().submit_run(context._replace(dagster_run=self._read(run.run_id)))
        crash_point("coordinator.queued")
        return queued

    def _read(self, run_id: str) -> dg.DagsterRun:
        run = self._instance.get_run_by_id(run_id)
        if run is None:
            raise dg.DagsterInvariantViolationError(f"run {run_id} was deleted while it was being queued")
        return run

    def _attempts(self, run: dg.DagsterRun, step: StepId) -> list[dg.DagsterRun]:
        return attempts_at(self._instance, step.tag, run.tags[tags.PARTITION], but=run.run_id)

    def _conflict(self, run: dg.DagsterRun, step: StepId) -> str | None:
        attempts = self._attempts(run, step)
        group = run.tags[tags.PARTITION]
        for other in attempts:
            if not other.is_finished:
                return (
                    f"attempt {other.tags[tags.ATTEMPT]} at {group} is {other.status.value}"
                    f" (run {other.run_id}); terminate it first, or wait for its end"
                )
        last = attempts[-1] if attempts else None
        if last and last.is_success and run.parent_run_id != last.run_id:
            return f"{group} is accepted; re-execute run {last.run_id} if it is to be processed again"
        number = _next(attempts)
        want = run.tags.get(tags.WANT)
        # A re-execution has copied the wish of the run that it follows.
        if run.tags.get(tags.BY) == "dispatch" and not run.parent_run_id and want != str(number):
            return f"it was meant as attempt {want} at {group}, which is at attempt {number} by now"
        return None

    def _tags(self, context: SubmitRunContext, step: StepId) -> dict[str, str]:
        run = context.dagster_run
        reset = {name: "" for name in tags.STATE_TAGS if run.tags.get(name)}
        user = context.get_request_header("X-Forwarded-User")
        return {
            **reset,
            **({tags.USER: user} if user else {}),
            **({tags.BY: ""} if run.parent_run_id and run.tags.get(tags.BY) else {}),
            tags.KIND: tags.WORKFLOW,
            tags.STEP: step.tag,
            tags.GROUP: group_tag(step.tag, run.tags[tags.PARTITION]),
            tags.ATTEMPT: str(_next(self._attempts(run, step))),
            tags.STATE: State.QUEUED.value,
            tags.OF: run.run_id,
            # Dagster's own retries would resubmit a failed workflow behind our back.
            "dagster/max_retries": "0",
        }


def _next(attempts: list[dg.DagsterRun]) -> int:
    return int(attempts[-1].tags[tags.ATTEMPT]) + 1 if attempts else 1


def _selected(instance: dg.DagsterInstance, context: SubmitRunContext) -> tuple[list[StepId], list[dg.AssetKey]]:
    """Tell the steps whose assets a run selects, and the other assets that it selects."""
    run = context.dagster_run
    keys = set(run.asset_selection or ()) or _planned_keys(instance, run)
    if not keys:
        return [], []
    graph = context.workspace.asset_graph
    steps = [key for key in keys if graph.has(key) and graph.get(key).tags.get(tags.KIND) == tags.WORKFLOW]
    return [StepId(*key.path) for key in sorted(steps)], [key for key in keys if key not in steps]


def _planned_keys(instance: dg.DagsterInstance, run: dg.DagsterRun) -> set[dg.AssetKey]:
    if not run.execution_plan_snapshot_id:
        return set()
    snapshot = instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
    outputs = (output for step in snapshot.steps for output in step.outputs)
    return {o.properties.asset_key for o in outputs if o.properties and o.properties.asset_key}


def _misfit(run: dg.DagsterRun, steps: list[StepId], others: list[dg.AssetKey]) -> str | None:
    """Say why a run can't be an attempt by its shape alone."""
    if others or len(steps) > 1:
        names = sorted([step.tag for step in steps] + [key.to_user_string() for key in others])
        return f"{len(names)} assets are selected ({', '.join(names)}); launch a step's groups alone"
    first, last = (run.tags.get(name) for name in _RANGE)
    if first != last:
        return f"one run is one attempt at one group; this one covers {first} to {last}: launch a backfill"
    group = run.tags.get(tags.PARTITION)
    if not group:
        return "no group (partition) is selected"
    if not GROUP.fullmatch(group):  # anybody can add a partition in the UI
        return f"{group!r} is no group"
    return None
