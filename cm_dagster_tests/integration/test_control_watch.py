"""Following workflows: what the WMS says is taken for what it is, and what it does not say is never made up."""

from __future__ import annotations

import logging

import pytest

from cm_dagster.control.health import read_health, read_progress
from cm_dagster.control.queue import batches
from cm_dagster.policy.states import SHOWN_AS, RunStatus, State
from cm_dagster.services.wms import WmsState
from cm_dagster_tests.integration.ledger_rig import SITE, SUBMIT, Rig

IN_HANDS = [state for state, shown in SHOWN_AS.items() if shown is RunStatus.STARTED and state is not State.CLAIMED]


@pytest.fixture
def step(rig: Rig) -> Rig:
    rig.create()
    rig.plan(6)
    return rig


def test_states_follow_the_wms(step: Rig) -> None:
    run_id = step.begin("g0000", state=State.SUBMITTED)
    wms_id = step.attempt(run_id).wms_id
    for said, shown in [
        (WmsState.PENDING, State.SUBMITTED),
        (WmsState.RUNNING, State.RUNNING),
        (WmsState.HELD, State.RUNNING),
        (WmsState.UNKNOWN, State.UNKNOWN),
        (WmsState.RUNNING, State.RUNNING),
    ]:
        step.wms.set(wms_id, said)
        step.watch()
        assert step.state(run_id) is shown
    assert read_progress(step.instance, SITE)[run_id].jobs == {"running": 2}


def test_one_query_for_all(step: Rig) -> None:
    for group in range(6):
        step.begin(f"g000{group}")
    step.watch()
    assert dict(step.wms.asked) == {"list": 1}


def test_nothing_is_written_where_nothing_changed(step: Rig) -> None:
    run_id = step.begin("g0000")
    step.watch()
    before = step.instance.get_run_record_by_id(run_id)
    step.watch()
    assert step.instance.get_run_record_by_id(run_id) == before


def test_a_workflow_that_the_list_lacks_is_asked_for_by_id(step: Rig) -> None:
    run_id = step.begin("g0000")
    step.wms.unlisted = {"1"}
    step.watch()
    assert step.state(run_id) is State.RUNNING


@pytest.mark.parametrize("before", IN_HANDS)
def test_a_workflow_that_the_wms_does_not_know_is_unknown_never_failed(step: Rig, before: State) -> None:
    run_id = step.begin("g0000", state=before)
    step.wms.hidden = {"1"}
    for _ in range(3):
        seen = step.watch()
        assert step.state(run_id) is State.UNKNOWN
        assert "fault" not in seen.summary
    step.wms.hidden = set()
    step.watch()
    assert step.state(run_id) is State.RUNNING


@pytest.mark.parametrize("before", IN_HANDS)
def test_a_workflow_that_was_restarted_runs_again(step: Rig, before: State) -> None:
    run_id = step.begin("g0000", state=before)
    step.watch()
    assert step.state(run_id) is State.RUNNING


def test_an_outage_changes_nothing_but_the_health_of_the_site(step: Rig) -> None:
    run_id = step.begin("g0000")
    queued = step.queue("g0001")
    assert [batch.run_ids for batch in batches(step.instance, step.site, SUBMIT)] == [(queued,)]
    step.wms.down = True
    seen = step.watch()
    assert "unknown since" in seen.summary
    assert step.state(run_id) is State.RUNNING
    health = read_health(step.instance, [SITE])[SITE]
    assert not health.answers
    assert "connection refused" in health.cause
    assert batches(step.instance, step.site, SUBMIT) == []
    step.watch()
    assert read_health(step.instance, [SITE])[SITE] == health  # since when is not forgotten
    step.wms.down = False
    step.watch()
    assert read_health(step.instance, [SITE])[SITE].answers
    assert [batch.run_ids for batch in batches(step.instance, step.site, SUBMIT)] == [(queued,)]


def test_an_outage_ends_also_where_nothing_is_in_flight(step: Rig) -> None:
    """The look-up of a submission finds the WMS down; then its attempt is terminated, and nothing is open."""
    run_id = step.queue("g0000")
    step.wms.down = True
    step.submit(run_id)
    step.terminate(run_id, force=True)
    waiting = step.queue("g0001")
    step.wms.down = False
    for _ in range(2):
        step.watch()
    assert [batch.run_ids for batch in batches(step.instance, step.site, SUBMIT)] == [(waiting,)]


def test_a_fault_of_one_attempt_does_not_stop_the_others(step: Rig, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = step.begin("g0000"), step.begin("g0001", state=State.SUBMITTED)
    step.wms.set(step.attempt(bad).wms_id, WmsState.SUCCEEDED)
    step.wms.on_one = lambda: 1 / 0
    step.wms.unlisted = {step.attempt(bad).wms_id}
    with caplog.at_level(logging.ERROR):
        seen = step.watch()
    assert "1 fault" in seen.summary
    assert bad in caplog.text
    assert step.state(good) is State.RUNNING
    assert step.attempt(bad).is_open


def test_a_workflow_that_cannot_be_judged_for_good_fails_with_the_reason(step: Rig) -> None:
    run_id = step.begin("g0000")  # it has no submit directory
    step.wms.set("1", WmsState.SUCCEEDED)
    step.watch()
    assert step.state(run_id) is State.FAILED
    assert "can't be judged: there is no quantum graph" in step.end_message(run_id)
    assert read_progress(step.instance, SITE) == {}


@pytest.mark.parametrize("force", [False, True], ids=["safe", "force"])
def test_terminate_cancels_the_workflow(step: Rig, force: bool) -> None:
    run_id = step.begin("g0000")
    other = step.begin("g0001")
    step.terminate(run_id, force=force)
    assert step.state(run_id) is (State.CANCELLED if force else State.CANCELLING)
    step.watch()
    assert step.state(run_id) is State.CANCELLED
    assert step.attempt(run_id).swept
    assert step.wms.workflows["1"].state is WmsState.CANCELLED
    assert step.state(other) is State.RUNNING
    step.watch()
    assert step.wms.asked["cancel"] == 1


def test_terminate_while_the_wms_is_down_is_not_forgotten(step: Rig) -> None:
    run_id = step.begin("g0000")
    step.wms.down = True
    step.terminate(run_id)
    step.watch()
    assert step.state(run_id) is State.CANCELLING
    step.wms.down = False
    step.watch()
    assert step.wms.alive() == []
    assert step.state(run_id) is State.CANCELLED


def test_terminate_of_what_has_ended_at_the_wms(step: Rig) -> None:
    run_id = step.begin("g0000")
    step.terminate(run_id)
    step.wms.set("1", WmsState.SUCCEEDED)
    step.watch()
    assert step.state(run_id) is State.CANCELLED
    assert step.wms.asked["cancel"] == 0


def test_terminate_of_what_the_wms_has_forgotten(step: Rig) -> None:
    run_id = step.begin("g0000")
    step.terminate(run_id)
    step.wms.hidden = {"1"}
    step.watch()
    assert step.state(run_id) is State.CANCELLED


def test_a_queued_attempt_that_is_terminated_asks_nothing_of_the_wms(step: Rig) -> None:
    run_id = step.queue("g0000")
    step.terminate(run_id)
    assert step.state(run_id) is State.CANCELLED
    step.watch()
    assert step.wms.asked == {}
