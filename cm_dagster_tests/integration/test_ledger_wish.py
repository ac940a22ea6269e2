"""Nothing but a person's wish ends an attempt; Dagster's own loops are run on attempts as its daemon runs them."""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent
from dagster._core.execution.backfill import (
    BulkActionStatus,
    PartitionBackfill,
    cancel_backfill_runs_and_cancellation_complete,
)
from dagster._daemon.monitoring import run_monitoring
from dagster_shared.error import SerializableErrorInfo

from cm_dagster.errors import LedgerError
from cm_dagster.ledger import events, tags
from cm_dagster.ledger.instance import CampaignInstance
from cm_dagster.ledger.wish import UnwishedError
from cm_dagster.policy.states import State
from cm_dagster_tests.integration.ledger_rig import LOG, Rig, open_launcher

BACKFILL = "abcdefgh"
MARK = {"dagster/backfill": BACKFILL}
CAUSE = SerializableErrorInfo("Partition g0002 was deleted\n", ["line 1\n"], "DagsterError")


def backfill(rig: Rig) -> PartitionBackfill:
    found = rig.instance.get_backfill(BACKFILL)
    assert found is not None
    return found


def become(rig: Rig, status: BulkActionStatus, error: SerializableErrorInfo | None = None) -> None:
    """Write what the daemon, or a person's call, writes."""
    rig.instance.update_backfill(backfill(rig)._replace(status=status, error=error))


def daemon_pass(rig: Rig) -> bool:
    """What the daemon does in each pass over a backfill that is to end; True if all of its runs are over."""
    return cancel_backfill_runs_and_cancellation_complete(rig.instance, BACKFILL, logging.getLogger("daemon"))


def status(rig: Rig, run_id: str) -> dg.DagsterRunStatus:
    run = rig.instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


@pytest.fixture
def both(rig: Rig) -> tuple[str, str]:
    """Two attempts of an open backfill: one waits, one's workflow runs."""
    made = PartitionBackfill(BACKFILL, BulkActionStatus.REQUESTED, from_failure=False, tags={}, backfill_timestamp=1.0)
    rig.instance.add_backfill(made)
    running = rig.begin("g0000")
    rig.instance.add_run_tags(running, MARK)
    return rig.queue("g0001", more=MARK), running


def test_a_failing_backfill_leaves_its_attempts_alone(rig: Rig, both: tuple[str, str]) -> None:
    become(rig, BulkActionStatus.FAILING, CAUSE)
    for _ in range(2):
        with pytest.raises(UnwishedError):
            daemon_pass(rig)
        # The daemon writes the error of each pass onto the backfill.
        become(rig, BulkActionStatus.FAILING, SerializableErrorInfo("UnwishedError: ...", [], "UnwishedError"))
    assert [rig.state(run_id) for run_id in both] == [State.QUEUED, State.RUNNING]
    assert not events.cancel_asked(rig.instance, both)
    for run_id in both:
        (said,) = [line for line in rig.notes(run_id).splitlines() if "Its backfill" in line]
        assert said == f"Its backfill {BACKFILL} has failed: Partition g0002 was deleted"
        assert "This attempt goes on; to cancel its workflow, terminate its run" in rig.notes(run_id)
    error = backfill(rig).error
    assert error is not None
    assert error.message.startswith("Partition g0002 was deleted\nThe workflows of its attempts are not cancelled")


def test_attempts_of_a_failing_backfill_come_to_their_own_ends(rig: Rig, both: tuple[str, str]) -> None:
    waiting, running = both
    rig.create()
    rig.plan(2)
    become(rig, BulkActionStatus.FAILING, CAUSE)
    assert rig.submit(waiting).submitted == 1
    for run_id in both:
        events.accept(rig.instance, events.Acceptance(rig.attempt(run_id), "good", {}))
    assert daemon_pass(rig)
    assert rig.state(running) is State.ACCEPTED


def test_a_launched_attempt_with_no_backfill_is_not_the_daemons_to_end(rig: Rig) -> None:
    run_id = rig.begin("g0000")
    with pytest.raises(UnwishedError, match=r"goes on.*terminate its run"):
        rig.instance.run_launcher.terminate(run_id)
    assert rig.state(run_id) is State.RUNNING


def test_a_backfill_that_a_person_cancels_cancels_its_attempts(rig: Rig, both: tuple[str, str]) -> None:
    become(rig, BulkActionStatus.CANCELING)
    assert not daemon_pass(rig)
    assert [rig.state(run_id) for run_id in both] == [State.CANCELLED, State.CANCELLING]
    rig.watch()
    rig.watch()
    assert rig.state(both[1]) is State.CANCELLED
    assert daemon_pass(rig)


@pytest.mark.parametrize("force", [False, True])
def test_a_person_terminates_single_attempts_of_a_failing_backfill(
    rig: Rig, both: tuple[str, str], *, force: bool
) -> None:
    become(rig, BulkActionStatus.FAILING, CAUSE)
    for run_id in both:
        assert rig.instance.run_coordinator.cancel_run(run_id)
        run = rig.instance.get_run_by_id(run_id)
        if force and run and not run.is_finished:  # what GraphQL's MARK_AS_CANCELED_IMMEDIATELY does next
            rig.instance.report_run_canceled(run)
    assert [rig.state(run_id) for run_id in both] == [State.CANCELLED, State.CANCELLED if force else State.CANCELLING]
    rig.watch()
    rig.watch()
    assert rig.attempt(both[1]).swept
    assert daemon_pass(rig)


def test_a_persons_wish_is_not_overwritten_by_a_failure(rig: Rig, both: tuple[str, str]) -> None:
    become(rig, BulkActionStatus.FAILING, CAUSE)
    become(rig, BulkActionStatus.CANCELING)
    become(rig, BulkActionStatus.FAILING, CAUSE)  # by a pass that began before
    assert backfill(rig).status is BulkActionStatus.CANCELING
    daemon_pass(rig)
    assert rig.state(both[0]) is State.CANCELLED


def test_a_backfill_without_attempts_fails_as_ever(rig: Rig) -> None:
    rig.instance.add_backfill(
        PartitionBackfill(BACKFILL, BulkActionStatus.REQUESTED, from_failure=False, tags={}, backfill_timestamp=1.0)
    )
    other = rig.queue("g0000", more={**MARK, tags.KIND: "chain"})
    become(rig, BulkActionStatus.FAILING, CAUSE)
    assert backfill(rig).error == CAUSE
    assert not daemon_pass(rig)
    assert daemon_pass(rig)
    assert status(rig, other) is dg.DagsterRunStatus.CANCELED


# ------------------------------------------------------------------------------------------------ run monitoring


def monitor(rig: Rig, monkeypatch: pytest.MonkeyPatch, **limits: int) -> list[Any]:
    """Let Dagster's run monitoring look at all runs, a month from now; gives its errors."""
    for name, seconds in limits.items():
        monkeypatch.setattr(CampaignInstance, f"run_monitoring_{name}_seconds", seconds)
    monkeypatch.setattr(run_monitoring, "get_current_timestamp", lambda: time.time() + 30 * 86400)
    process: Any = SimpleNamespace(instance=rig.instance, create_request_context=lambda: None)
    return [error for error in run_monitoring.execute_run_monitoring_iteration(process, LOG) if error]


@pytest.mark.parametrize("launched_with", [{}, {"dagster/max_runtime": "60"}], ids=["setting", "tag"])
def test_no_workflow_takes_too_long_for_run_monitoring(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, launched_with: dict[str, str]
) -> None:
    rig.create()
    rig.plan(1)
    with open_launcher(rig.instance) as ui:
        run_id = ui.launch("g0000", more=launched_with).run_id
        ordinary = ui.launch(None, assets=[("camp", "step1", "inputs")]).run_id
    for each in (run_id, ordinary):
        begin = DagsterEvent(dg.DagsterEventType.RUN_START.value, "job")
        rig.instance.report_dagster_event(begin, run_id=each)
    assert monitor(rig, monkeypatch, max_runtime=60) == []
    assert status(rig, run_id) is dg.DagsterRunStatus.STARTED
    assert status(rig, ordinary) is dg.DagsterRunStatus.FAILURE


def test_an_attempt_that_is_not_queued_in_time_waits_for_its_site(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    late = rig.instance.add_run(dg.DagsterRun("job", run_id="late", tags={tags.KIND: tags.WORKFLOW}))
    rig.instance.add_run(dg.DagsterRun("job", run_id="ordinary"))
    (error,) = monitor(rig, monkeypatch)
    assert "will be queued by the sensor `submit` of its site" in error.message
    assert status(rig, late.run_id) is dg.DagsterRunStatus.NOT_STARTED
    assert status(rig, "ordinary") is dg.DagsterRunStatus.FAILURE


# ---------------------------------------------------------------------------------------------------- deletion


def test_an_attempt_under_way_is_not_deleted(rig: Rig) -> None:
    run_id = rig.begin("g0000")
    with pytest.raises(LedgerError, match="terminate it first"):
        rig.instance.delete_run(run_id)
    events.fail(rig.instance, rig.attempt(run_id), "bad")
    rig.instance.delete_run(run_id)
    assert rig.instance.get_run_by_id(run_id) is None
