"""Workflows beside an attempt's own, of the same name: cancelled with an alarm, or followed."""

from __future__ import annotations

import logging

import pytest

from cm_dagster.control.twins import read_alarms
from cm_dagster.crashpoints import set_crash_hook
from cm_dagster.ledger import events
from cm_dagster.ledger.claims import Claims
from cm_dagster.plan.names import group_folder
from cm_dagster.policy.states import State
from cm_dagster.services.wms import WmsState
from cm_dagster_tests.integration.conftest import Judge
from cm_dagster_tests.integration.ledger_rig import SITE, Rig
from cm_dagster_tests.integration.stand_ins import Killed


@pytest.fixture
def step(rig: Rig) -> Rig:
    rig.create()
    rig.plan(6)
    return rig


def test_a_twin_that_runs_beside_the_recorded_workflow_is_cancelled_with_an_alarm(
    step: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = step.begin("g0000")
    own = step.attempt(run_id)
    twin = step.wms.add(own.id.workflow)
    with caplog.at_level(logging.ERROR):
        step.watch()
        step.watch()
    assert step.wms.workflows[twin].state is WmsState.CANCELLED
    assert step.wms.workflows[own.wms_id].state is WmsState.RUNNING
    assert caplog.text.count("ALARM") == 1
    assert f"{twin}; it was cancelled, {own.wms_id} stays" in step.notes(run_id)
    assert [alarm.twin for alarm in read_alarms(step.instance, [SITE])[SITE]] == [twin]


def test_a_twin_of_a_workflow_that_has_succeeded_is_cancelled_before_it_is_judged(step: Rig, judge: Judge) -> None:
    run_id = step.begin("g0000")
    own = step.attempt(run_id)
    twin = step.wms.add(own.id.workflow)
    step.wms.set(own.wms_id, WmsState.SUCCEEDED)
    step.watch()
    assert step.wms.workflows[twin].state is WmsState.CANCELLED
    assert [alarm.twin for alarm in read_alarms(step.instance, [SITE])[SITE]] == [twin]
    assert step.state(run_id) is State.ACCEPTED


def test_what_a_person_restarted_is_no_twin_and_is_followed(step: Rig, judge: Judge) -> None:
    """Some WMSs give a restarted workflow a new id; the old one has ended."""
    run_id = step.begin("g0000")
    own = step.attempt(run_id)
    step.wms.set(own.wms_id, WmsState.FAILED)
    again = step.wms.add(own.id.workflow)
    step.watch()
    step.watch()
    assert step.wms.workflows[again].state is WmsState.RUNNING
    assert read_alarms(step.instance, [SITE]) == {SITE: []}
    assert (step.state(run_id), step.attempt(run_id).wms_id) == (State.RUNNING, again)
    assert f"{own.wms_id} has failed, and another of its name runs" in step.notes(run_id)


@pytest.mark.parametrize("accepted", [True, False])
def test_what_runs_for_an_attempt_that_is_over_is_cancelled_with_an_alarm(step: Rig, accepted: bool) -> None:
    """A twin that the WMS showed too late: its attempt is accepted, or another one follows it."""
    run_id = step.begin("g0000")
    own = step.attempt(run_id)
    if accepted:
        events.accept(step.instance, events.Acceptance(own, "good", {}))
        step.begin("g0001")  # so that the WMS is asked at all
    else:
        events.fail(step.instance, own, "bad")
        stray = step.wms.add(own.id.workflow)
        step.begin("g0001")
        step.watch()
        assert step.wms.workflows[stray].state is WmsState.RUNNING  # a person may have restarted it
        step.begin("g0000", 2)
    stray = step.wms.add(own.id.workflow)
    step.wms.add("somebody.elses.work")
    step.watch()
    assert step.wms.workflows[stray].state is WmsState.CANCELLED
    assert {alarm.run_id for alarm in read_alarms(step.instance, [SITE])[SITE]} == {run_id}
    assert "somebody.elses.work" in step.wms.alive()


def test_a_workflow_that_was_done_before_it_could_be_recorded_and_cancelled_is_on_record(step: Rig) -> None:
    """Its submitter died, a person terminated it, and it had succeeded meanwhile: what it has done can be rescued."""
    run_id = step.queue("g0000")
    own = step.attempt(run_id)
    events.start(step.instance, own)
    claims = Claims(group_folder(step.site.area, own.id.step, own.id.group))
    claims.claim(1, run_id)
    done, twin = step.wms.add(own.id.workflow, WmsState.SUCCEEDED), step.wms.add(own.id.workflow)
    claims.record(1, {"wms_id": done, "submit_dir": "/there", "run": run_id})
    step.terminate(run_id)
    step.watch()
    step.watch()
    cancelled = step.attempt(run_id)
    assert (cancelled.state, cancelled.wms_id, cancelled.submit_dir) == (State.CANCELLED, done, "/there")
    told = step.end_message(run_id)
    assert told == f"Cancelled: workflow {done} had succeeded before; workflow {twin} was cancelled."


def test_a_workflow_is_cancelled_though_its_submitter_died_before_the_run_said_that_it_has_begun(step: Rig) -> None:
    """It had written the event, not the tag; a forced end leaves the tag as it is for ever."""
    run_id = step.queue("g0000")
    own = step.attempt(run_id)

    def die(point: str) -> None:
        if point == "start.written":
            raise Killed

    set_crash_hook(die)
    try:
        with pytest.raises(Killed):
            events.start(step.instance, own)
    finally:
        set_crash_hook(None)
    claims = Claims(group_folder(step.site.area, own.id.step, own.id.group))
    claims.claim(1, run_id)
    wms_id = step.wms.add(own.id.workflow)
    step.terminate(run_id, force=True)
    step.watch()
    assert step.wms.workflows[wms_id].state is WmsState.CANCELLED
    step.watch()
    assert step.attempt(run_id).wms_id == wms_id


def test_twins_of_what_is_terminated_are_cancelled_too(step: Rig) -> None:
    run_id = step.begin("g0000")
    step.wms.add(step.attempt(run_id).id.workflow)
    step.terminate(run_id)
    step.watch()
    assert step.wms.alive() == []
    step.watch()
    assert step.state(run_id) is State.CANCELLED
