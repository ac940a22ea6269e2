"""The run coordinator: what every new run of a step's asset passes through, and every person's Terminate.

Uses of ``dagster._core``: `QueuedRunCoordinator` and `SubmitRunContext`; a coordinator named in dagster.yaml is
Dagster's extension point, but the classes are not re-exported.
"""

from __future__ import annotations

import dagster as dg
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext

from cm_dagster.crashpoints import crash_point
from cm_dagster.ledger import events, tags
from cm_dagster.ledger.admission import Selection, admit, refuse_check, selected_keys, split
from cm_dagster.ledger.wish import is_attempt

__all__ = ["CampaignRunCoordinator"]


class CampaignRunCoordinator(QueuedRunCoordinator):
    """Queues all runs; makes an attempt of each run of a step's asset, or turns it away with the reason."""

    def submit_run(self, context: SubmitRunContext) -> dg.DagsterRun:
        """Queue a run, after marking it as an attempt if it is one."""
        run = context.dagster_run
        if run.status is not dg.DagsterRunStatus.NOT_STARTED:
            return super().submit_run(context)
        selection = _selected(self._instance, context)
        if not selection[0]:
            return refuse_check(self._instance, run) or super().submit_run(context)
        user = context.get_request_header("X-Forwarded-User") or ""
        admitted = admit(self._instance, run, selection, user=user)
        if admitted.status is not dg.DagsterRunStatus.NOT_STARTED:
            return admitted
        # The tags must be on the run that is queued, or Dagster's queue would take it for an ordinary one.
        queued = super().submit_run(context._replace(dagster_run=admitted))
        crash_point("coordinator.queued")
        return queued

    def cancel_run(self, run_id: str) -> bool:
        """Do what a person's Terminate asks for: nobody but a person comes here, Dagster's daemons ask the launcher.

        Returns
        -------
        done : `bool`
            False if the run is over, or its worker can't be reached.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or not is_attempt(run):
            return super().cancel_run(run_id)
        if run.is_finished:
            return False
        if run.status is dg.DagsterRunStatus.QUEUED:
            events.ask_cancel(self._instance, run, "Terminated while it waited; nothing will be submitted.")
            self._instance.report_run_canceled(run)
        else:
            events.ask_cancel(self._instance, run, "Terminated; its workflow will be cancelled at the WMS.")
        return True


def _selected(instance: dg.DagsterInstance, context: SubmitRunContext) -> Selection:
    """Tell the steps whose assets a run selects, and the other assets that it selects."""
    keys = selected_keys(instance, context.dagster_run)
    if not keys:
        return [], []
    graph = context.workspace.asset_graph
    return split(keys, [key for key in keys if graph.has(key) and graph.get(key).tags.get(tags.KIND) == tags.WORKFLOW])
