"""Cancelling workflows: what was asked for counts when the WMS shows that it has happened."""

from __future__ import annotations

import pytest

from cm_dagster.policy.states import State
from cm_dagster.services.submitter import Prepared, SubmitResult
from cm_dagster.services.wms import WmsState
from cm_dagster_tests.integration.conftest import Clock
from cm_dagster_tests.integration.ledger_rig import Rig
from cm_dagster_tests.integration.test_control_deaths import death_at


@pytest.fixture
def step(rig: Rig) -> Rig:
    rig.create()
    rig.plan(6)
    return rig


@pytest.mark.parametrize("force", [False, True], ids=["safe", "force"])
def test_terminate_cancels_the_workflow(step: Rig, force: bool) -> None:
    run_id = step.begin("g0000")
    other = step.begin("g0001")
    step.terminate(run_id, force=force)
    assert step.state(run_id) is (State.CANCELLED if force else State.CANCELLING)
    step.watch()
    assert step.wms.workflows["1"].state is WmsState.CANCELLED
    assert not step.attempt(run_id).swept  # it was asked to: that is all that is known
    step.watch()
    assert step.state(run_id) is State.CANCELLED
    assert step.attempt(run_id).swept
    assert step.state(other) is State.RUNNING
    step.watch()
    assert step.wms.asked["cancel"] == 1


def test_who_waits_for_something_else_is_cancelled_at_once(step: Rig, clock: Clock) -> None:
    run_id = step.begin("g0000")
    step.wms.hidden = {"1"}
    for _ in range(4):
        step.watch()
        clock.forward(1000.0)
    step.watch()
    step.wms.hidden = set()
    step.terminate(run_id)
    step.watch()
    assert step.wms.alive() == []
    step.watch()
    assert step.state(run_id) is State.CANCELLED


@pytest.mark.parametrize("said", [WmsState.RUNNING, WmsState.UNKNOWN])
def test_a_cancellation_that_has_no_effect_is_asked_for_again(step: Rig, clock: Clock, said: WmsState) -> None:
    run_id = step.begin("g0000")
    step.wms.set("1", said)
    step.wms.deaf = True
    step.terminate(run_id)
    for asked in (1, 1, 2, 2, 2, 3):
        step.watch()
        assert step.wms.asked["cancel"] == asked
        assert step.state(run_id) is State.CANCELLING
        clock.forward(50.0)
    assert "the WMS is asked to cancel workflow 1" in step.notes(run_id)
    step.wms.deaf = False
    clock.forward(3600.0)
    step.watch()
    step.watch()
    assert step.wms.alive() == []
    assert step.state(run_id) is State.CANCELLED
    assert step.end_message(run_id) == "Cancelled: workflow 1 was cancelled."


@pytest.mark.parametrize("force", [False, True], ids=["safe", "force"])
def test_a_submitter_that_dies_before_it_cancels_what_was_terminated_meanwhile(step: Rig, force: bool) -> None:
    run_id = step.queue("g0000")

    def terminated_meanwhile(one: Prepared) -> SubmitResult:
        step.terminate(run_id, force=force)
        return step.submitter.well(one)

    step.submitter.turns = [terminated_meanwhile]
    with death_at("record.cancelled"):
        step.submit(run_id)
    assert step.wms.alive() == ["camp.step1.here.g0000.a01"]
    step.watch()
    assert step.wms.alive() == []
    step.watch()
    assert step.state(run_id) is State.CANCELLED
    assert step.attempt(run_id).swept
    assert step.submitter.submissions.total() == 1


def test_terminate_while_the_wms_is_down_is_not_forgotten(step: Rig) -> None:
    run_id = step.begin("g0000")
    step.wms.down = True
    step.terminate(run_id)
    step.watch()
    assert step.state(run_id) is State.CANCELLING
    step.wms.down = False
    step.watch()
    assert step.wms.alive() == []
    step.watch()
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
