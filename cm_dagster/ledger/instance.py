"""The Dagster instance of a deployment: what Dagster's daemons must not do to attempts is refused here.

Uses of ``dagster._core``: the data of a backfill and of a failed run, and the class of an instance's settings. A class
of one's own in place of `dagster.DagsterInstance` (``instance_class`` in dagster.yaml) is what Dagster's cloud agent
uses; it is not documented. The launcher alone is not enough: the daemon cancels what waits without asking it, and fails
what it takes to be stuck.

A failing backfill: its pass (every 30 s) ends at the first attempt that is not to be cancelled, by the error raised
here. So the backfill stays FAILING, with its cause, until its attempts have come to their own ends, and is FAILED then.
Returning instead would have the daemon ask again without a pause, since it does so until no run is left to cancel.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import dagster as dg
from dagster._core.events import JobFailureData, RunFailureReason
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.instance.ref import InstanceRef
from dagster._core.scheduler.instigation import InstigatorState
from dagster._core.storage.event_log.base import EventLogStorage

from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import LedgerError
from cm_dagster.ledger import events
from cm_dagster.ledger.admission import find_steps
from cm_dagster.ledger.attempts import UNFINISHED
from cm_dagster.ledger.checks import is_planned
from cm_dagster.ledger.checkstates import tell_states
from cm_dagster.ledger.clock import without_future
from cm_dagster.ledger.wish import HOW_TO_CANCEL, UnwishedError, is_attempt, of_failing_backfill

__all__ = ["CampaignInstance"]

_GO_ON = "The workflows of its attempts are not cancelled: each attempt goes on to its own end."


class CampaignInstance(dg.DagsterInstance):
    """A Dagster instance on which only a person ends an attempt."""

    @classmethod
    def config_schema(cls) -> dict[str, Any]:
        """Settings of ours in dagster.yaml: none."""
        return {}

    @staticmethod
    def config_defaults(base_dir: str) -> Any:
        """Give Dagster's own defaults."""
        return InstanceRef.config_defaults(base_dir)

    def report_run_canceling(self, run: dg.DagsterRun, message: str | None = None) -> None:
        """Write that a run is to be cancelled.

        Raises
        ------
        UnwishedError
            For an attempt of a backfill that Dagster has given up.
        """
        if is_attempt(run) and of_failing_backfill(self, run):
            raise UnwishedError(f"the attempt of run {run.run_id} goes on", advice=HOW_TO_CANCEL)
        super().report_run_canceling(run, message)

    def report_run_failed(
        self, dagster_run: dg.DagsterRun, message: str | None = None, job_failure_data: JobFailureData | None = None
    ) -> Any:
        """Write that a run has failed.

        Raises
        ------
        UnwishedError
            For the launch of an attempt that Dagster gives up since it was not queued in time: its site queues it.
        """
        if job_failure_data and job_failure_data.failure_reason is RunFailureReason.START_TIMEOUT:
            now = self.get_run_by_id(dagster_run.run_id)
            if now and (is_attempt(now) or find_steps(self, now)[0]):
                raise UnwishedError(f"run {now.run_id} will be queued by the sensor `submit` of its site")
        return super().report_run_failed(dagster_run, message, job_failure_data)

    def should_store_event(self, event: dg.EventLogEntry) -> bool:
        """Say whether an event is kept: a planned evaluation of our check is not, since no run of a worker makes it."""
        planned = event.dagster_event is not None and is_planned(event.dagster_event)
        return not planned and super().should_store_event(event)

    @property
    def event_log_storage(self) -> EventLogStorage:
        """Storage of the events, which tells the UI the states of our checks."""
        storage = super().event_log_storage
        tell_states(self, storage)
        return storage

    def update_backfill(self, partition_backfill: PartitionBackfill) -> None:
        """Write a backfill; one that fails tells its attempts, and forgets neither its cause nor a person's wish."""
        backfill = partition_backfill
        before = self.get_backfill(backfill.backfill_id) if backfill.status is BulkActionStatus.FAILING else None
        if before is not None and before.status is BulkActionStatus.CANCELING:
            backfill = backfill._replace(status=BulkActionStatus.CANCELING)
        elif before is not None and before.status is BulkActionStatus.FAILING:
            backfill = backfill._replace(error=before.error)
        elif before is not None:
            backfill = self._tell_attempts(backfill)
        super().update_backfill(backfill)

    def _tell_attempts(self, backfill: PartitionBackfill) -> PartitionBackfill:
        """Note on the attempts of a backfill that begins to fail that they go on, and say so on the backfill."""
        wanted = dg.RunsFilter(tags={"dagster/backfill": backfill.backfill_id}, statuses=UNFINISHED)
        ending = dg.DagsterRunStatus.CANCELING
        attempts = [run for run in self.get_runs(wanted) if is_attempt(run) and run.status is not ending]
        error = backfill.error
        cause = error.message.strip() if error else "no cause given"
        for run in attempts:
            said = f"Its backfill {backfill.backfill_id} has failed: {cause}"
            events.note(self, run, f"{said}\nThis attempt goes on; {HOW_TO_CANCEL}.")
        crash_point("backfill.noted")
        told = error._replace(message=f"{cause}\n{_GO_ON}\n") if error and attempts else error
        return backfill._replace(error=told)

    def get_instigator_state(self, origin_id: str, selector_id: str) -> InstigatorState | None:
        """Read what is known of a sensor or schedule; not ticks in a future that was called off."""
        found = super().get_instigator_state(origin_id, selector_id)
        return found and without_future(found, time.time())

    def all_instigator_state(self, *args: Any, **kwargs: Any) -> Sequence[InstigatorState]:
        """Read what is known of all sensors and schedules; not ticks in a future that was called off."""
        now = time.time()
        return [without_future(state, now) for state in super().all_instigator_state(*args, **kwargs)]

    def delete_run(self, run_id: str) -> None:
        """Delete a run with its events.

        Raises
        ------
        LedgerError
            If it is an open attempt: its workflow would go on, unknown to everybody.
        """
        run = self.get_run_by_id(run_id)
        if run and is_attempt(run) and not run.is_finished:
            raise LedgerError(f"run {run_id} is an attempt under way", advice="terminate it first")
        super().delete_run(run_id)
