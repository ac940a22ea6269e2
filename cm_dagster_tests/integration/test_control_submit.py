"""How an attempt becomes a workflow: at most once, whatever fails, dies or is terminated meanwhile."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import NoReturn
from unittest.mock import Mock

import dagster as dg
import pytest

from cm_dagster.control import claim as taking
from cm_dagster.control import submit as submitting
from cm_dagster.control.health import read_health
from cm_dagster.control.twins import read_alarms
from cm_dagster.ledger import events
from cm_dagster.ledger.claims import Claims
from cm_dagster.plan.names import group_folder
from cm_dagster.policy.states import State
from cm_dagster.services.submitter import Prepared, SubmitResult
from cm_dagster.services.wms import WmsState
from cm_dagster_tests.integration.ledger_rig import SITE, STEP1, Rig
from cm_dagster_tests.integration.stand_ins import Killed


@pytest.fixture
def step(rig: Rig) -> Rig:
    """A campaign whose first step has three groups."""
    rig.create()
    rig.plan(3)
    return rig


def name(group: str, number: int = 1) -> str:
    return f"camp.step1.{SITE}.{group}.a{number:02d}"


def test_a_batch_is_submitted_and_recorded(step: Rig) -> None:
    runs = [step.queue(f"g000{n}") for n in range(3)]
    done = step.submit(*runs)
    assert (done.submitted, done.waiting, done.errors) == (3, 0, [])
    assert sorted(step.wms.alive()) == [name(f"g000{n}") for n in range(3)]
    assert step.wms.asked["list"] == 1  # one look-up for all
    assert len(step.submitter.locks) == 3
    for run_id in runs:
        attempt = step.attempt(run_id)
        assert attempt.state is State.SUBMITTED
        assert step.wms.workflows[attempt.wms_id].name == attempt.id.workflow
        assert attempt.submit_dir.endswith(f"{attempt.id.group}/a01/submit-1")
        assert attempt.output_run == f"u/camp/step1/{attempt.id.group}/a01/run"
        claims = Claims(group_folder(step.site.area, STEP1, attempt.id.group))
        assert claims.owners() == {1: run_id}
        recorded = claims.recorded(1)
        assert recorded is not None
        assert (recorded["wms_id"], recorded["run"]) == (attempt.wms_id, run_id)
        assert f"workflow {attempt.wms_id}" in step.notes(run_id)
        run = step.instance.get_run_by_id(run_id)
        assert run is not None
        assert run.status is dg.DagsterRunStatus.STARTED


def test_submitting_again_does_nothing(step: Rig) -> None:
    run_id = step.queue("g0000")
    step.submit(run_id)
    before = step.attempt(run_id)
    assert step.submit(run_id).submitted == 0
    assert step.attempt(run_id) == before
    assert step.submitter.submissions == {name("g0000"): 1}


def test_nothing_is_submitted_while_the_look_up_fails(step: Rig) -> None:
    run_id = step.queue("g0000")
    step.wms.down = True
    for _ in range(2):
        done = step.submit(run_id)
        assert (done.submitted, done.waiting) == (0, 1)
    assert step.state(run_id) is State.CLAIMED
    health = read_health(step.instance, [SITE])[SITE]
    assert not health.answers
    assert "connection refused" in health.cause
    assert step.submitter.submissions == {}
    step.wms.down = False
    assert step.submit(run_id).submitted == 1
    assert step.wms.alive() == [name("g0000")]


def test_a_workflow_that_is_found_by_name_is_adopted(step: Rig) -> None:
    run_id = step.queue("g0000")
    wms_id = step.wms.add(name("g0000"))
    assert step.submit(run_id).submitted == 1
    assert step.attempt(run_id).wms_id == wms_id
    assert step.submitter.submissions == {}
    assert "found by name" in step.notes(run_id)


@pytest.mark.parametrize("ended", [False, True])
def test_a_twin_is_cancelled_with_an_alarm(step: Rig, ended: bool) -> None:
    run_id = step.queue("g0000")
    for _ in range(9):
        step.wms.add("other", WmsState.SUCCEEDED)
    own, twin = step.wms.add(name("g0000")), step.wms.add(name("g0000"))
    assert (own, twin) == ("10", "11")
    if ended:
        step.wms.set(twin, WmsState.FAILED)
    assert step.submit(run_id).submitted == 1
    assert step.attempt(run_id).wms_id == own
    assert step.wms.workflows[twin].state is (WmsState.FAILED if ended else WmsState.CANCELLED)
    assert "ALARM" in step.notes(run_id)
    assert f"{twin};" in step.notes(run_id)


@pytest.mark.parametrize("known", ["recorded", "in the files of the try"])
def test_of_twins_the_recorded_one_stays(step: Rig, monkeypatch: pytest.MonkeyPatch, known: str) -> None:
    """Also if another one is older, or has succeeded."""
    older = step.wms.add(name("g0000"), WmsState.SUCCEEDED)
    step.wms.hidden = {older}
    run_id = step.queue("g0000")
    if known == "recorded":
        step.wms.add(name("g0000"))  # to be adopted
    with monkeypatch.context() as patch:
        at_point(patch, step, "after the record" if known == "recorded" else "after the submission", die)
        with pytest.raises(Killed):
            step.submit(run_id)
    step.wms.hidden = set()
    third = step.wms.add(name("g0000"))
    step.submit(run_id)
    assert step.attempt(run_id).wms_id == "2"
    states = [step.wms.workflows[each].state for each in (older, "2", third)]
    assert states == [WmsState.SUCCEEDED, WmsState.RUNNING, WmsState.CANCELLED]
    assert step.submitter.submissions[name("g0000")] == (0 if known == "recorded" else 1)


def die() -> NoReturn:
    raise Killed


def test_a_twin_is_one_alarm_however_often_its_cancellation_is_repeated(
    step: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = step.queue("g0000")
    own, twin = step.wms.add(name("g0000")), step.wms.add(name("g0000"))
    with monkeypatch.context() as patch:
        patch.setattr(events, "submitted", die_once := Mock(side_effect=Killed))
        with pytest.raises(Killed):
            step.submit(run_id)
    assert die_once.called
    with caplog.at_level(logging.ERROR):
        step.submit(run_id)
    assert "ALARM" in caplog.text
    (alarm,) = read_alarms(step.instance, [SITE])[SITE]
    assert (alarm.own, alarm.twin, alarm.workflow, alarm.run_id) == (own, twin, name("g0000"), run_id)


def test_an_unknown_outcome_is_asked_for_and_adopted(step: Rig) -> None:
    run_id = step.queue("g0000")
    step.submitter.turns = [step.submitter.sent]
    assert step.submit(run_id).waiting == 1
    assert step.state(run_id) is State.UNKNOWN
    assert "not known" in step.notes(run_id)
    assert step.submit(run_id).submitted == 1
    assert step.state(run_id) is State.SUBMITTED
    assert step.submitter.submissions == {name("g0000"): 1}
    assert step.attempt(run_id).submit_dir.endswith("submit-1")


def test_what_is_not_found_is_submitted_again_after_the_settle_time_and_once(step: Rig) -> None:
    step.restrict(wms=step.site.spec.wms.model_copy(update={"settle": 30.0}))
    run_id = step.queue("g0000")
    step.submitter.turns = [step.submitter.lost]
    step.submit(run_id)
    for _ in range(2):
        assert step.submit(run_id).waiting == 1
    assert step.submitter.submissions == {name("g0000"): 1}
    step.age(step.attempt(run_id).id, 31)
    assert step.submit(run_id).submitted == 1
    assert step.submit(run_id).submitted == 0
    assert step.submitter.submissions == {name("g0000"): 2}
    assert step.attempt(run_id).submit_dir.endswith("submit-2")


def test_after_a_clock_was_set_back_the_settle_time_begins_anew_and_no_more(step: Rig) -> None:
    step.restrict(wms=step.site.spec.wms.model_copy(update={"settle": 30.0}))
    run_id = step.queue("g0000")
    step.submitter.turns = [step.submitter.lost]
    step.submit(run_id)
    step.age(step.attempt(run_id).id, -7200)
    assert step.submit(run_id).waiting == 1
    step.age(step.attempt(run_id).id, 31)
    assert step.submit(run_id).submitted == 1

    again = step.queue("g0001")
    step.submitter.turns = [step.submitter.lost]
    step.submit(again)
    step.age(step.attempt(again).id, -7200)
    step.submit(again)
    files = [*step.attempt(again).id.folder(step.site.area).glob("*")]
    assert files
    assert all(path.stat().st_mtime <= time.time() for path in files)


def test_a_workflow_that_the_wms_shows_late_is_not_submitted_twice(step: Rig) -> None:
    step.restrict(wms=step.site.spec.wms.model_copy(update={"settle": 30.0}))
    run_id = step.queue("g0000")
    step.submitter.turns = [step.submitter.sent]
    step.submit(run_id)
    step.wms.hidden = {"1"}
    assert step.submit(run_id).waiting == 1
    step.wms.hidden = set()
    assert step.submit(run_id).submitted == 1
    assert step.submitter.submissions == {name("g0000"): 1}


def test_a_list_that_lacks_what_is_known_by_its_id_shows_nothing(step: Rig) -> None:
    other, run_id = step.queue("g0001"), step.queue("g0000")
    step.submit(other)
    step.submitter.turns = [step.submitter.sent]
    step.submit(run_id)
    step.wms.unlisted = {"1", "2"}  # one of several schedulers is away
    assert step.submit(run_id).waiting == 1
    assert "it may lack others too" in step.notes(run_id)
    step.wms.unlisted = set()
    step.submit(run_id)
    assert step.attempt(run_id).wms_id == "2"
    assert step.submitter.submissions == {name("g0000"): 1, name("g0001"): 1}


def test_before_an_attempt_fails_its_earlier_tries_are_looked_for_once_more(step: Rig) -> None:
    run_id = step.queue("g0000")
    step.submitter.turns = [step.submitter.sent]
    step.submit(run_id)
    step.wms.hidden = {"1"}

    def bad(one: Prepared) -> SubmitResult:
        step.wms.hidden = set()
        return step.submitter.bad(one)

    step.submitter.turns = [bad]
    assert step.submit(run_id).submitted == 1
    assert (step.attempt(run_id).wms_id, step.state(run_id)) == ("1", State.SUBMITTED)
    assert step.wms.alive() == [name("g0000")]


def test_a_permanent_failure_fails_the_attempt_with_its_cause_and_not_the_others(step: Rig) -> None:
    bad, good = step.queue("g0000"), step.queue("g0001")
    step.submitter.turns = [step.submitter.bad]
    step.submit(bad, good)
    assert (step.state(bad), step.state(good)) == (State.FAILED, State.SUBMITTED)
    assert step.end_message(bad).startswith("Not submitted: bps submit failed: RuntimeError: the pipeline is wrong")


def test_what_cannot_be_written_fails_its_attempt_alone(step: Rig) -> None:
    stray, good = step.queue("g0009"), step.queue("g0001")
    step.submit(stray, good)
    assert step.state(stray) is State.FAILED
    assert "has no group 'g0009'" in step.end_message(stray)
    assert step.state(good) is State.SUBMITTED


def test_what_is_no_attempt_is_left_alone(step: Rig) -> None:
    good = step.queue("g0001")
    run = step.instance.create_run_for_job(dg.GraphDefinition(name="other", node_defs=[]).to_job())
    done = step.submit(run.run_id, "no-such-run", good)
    assert (done.submitted, done.errors) == (1, [])


def test_two_runs_of_one_number_give_one_workflow(step: Rig) -> None:
    """Two coordinators at one moment may give one number twice."""
    one, other = step.queue("g0000"), step.queue("g0000")
    step.submit(one, other)
    step.submit(other)
    assert (step.state(one), step.state(other)) == (State.SUBMITTED, State.CANCELLED)
    assert f"belongs to run {one}" in step.end_message(other)
    assert step.wms.alive() == [name("g0000")]


def test_a_run_that_another_was_faster_than_does_nothing(step: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have read the attempt; the other has locked it, submitted it and is gone."""
    run_id = step.queue("g0000")
    with monkeypatch.context() as patch:
        at_point(patch, step, "before the lock", lambda: step.submit(run_id))
        assert step.submit(run_id).submitted == 0
    assert step.state(run_id) is State.SUBMITTED
    assert step.submitter.submissions == {name("g0000"): 1}


def test_an_attempt_beside_an_open_one_is_turned_away(step: Rig) -> None:
    step.begin("g0000")
    Claims(group_folder(step.site.area, STEP1, "g0000")).claim(1, step.queue("g0000", 1))
    late = step.queue("g0000", 2)
    step.submit(late)
    assert step.state(late) is State.CANCELLED
    assert step.submitter.submissions == {}


def test_an_accepted_group_is_not_processed_again_unless_it_is_asked_for(step: Rig) -> None:
    first = step.queue("g0000")
    step.submit(first)
    events.accept(step.instance, events.Acceptance(step.attempt(first), "good", {}))
    again = step.queue("g0000", 2)
    step.submit(again)
    assert step.state(again) is State.CANCELLED
    assert "is accepted" in step.end_message(again)
    assert step.submitter.submissions == {name("g0000"): 1}


def test_a_group_whose_second_attempt_failed_can_go_on_after_an_accepted_first(step: Rig) -> None:
    first = step.queue("g0000")
    step.submit(first)
    events.accept(step.instance, events.Acceptance(step.attempt(first), "good", {}))
    second = step.queue("g0000", 2, parent=first)
    assert step.submit(second).submitted == 1
    events.fail(step.instance, step.attempt(second), "bad")
    assert step.submit(step.queue("g0000", 3)).submitted == 1


# ------------------------------------------------------------------------------------------ cancellations and crashes

type Strike = Callable[[], object]


def at_point(monkeypatch: pytest.MonkeyPatch, step: Rig, point: str, strike: Strike) -> None:
    """Have something happen once, at a point of the protocol."""
    struck: list[bool] = []

    def once() -> None:
        if not struck:
            struck.append(True)
            strike()

    def wrap(owner: object, attribute: str, *, before: bool) -> None:
        real = getattr(owner, attribute)

        def wrapped(*args: object, **kwargs: object) -> object:
            if before:
                once()
            result = real(*args, **kwargs)
            if not before:
                once()
            return result

        monkeypatch.setattr(owner, attribute, wrapped)

    match point:
        case "before the lock":
            wrap(Claims, "locked", before=True)
        case "before the claim":
            wrap(taking, "_claim", before=True)
        case "after the claim":
            wrap(taking, "_claim", before=False)
        case "after the start":
            wrap(events, "start", before=False)
        case "at the look-up":
            wrap(step.wms, "find", before=True)
        case "after the look-up":
            wrap(submitting, "next_try", before=True)
        case "before the submission":
            wrap(step.submitter, "prepare", before=False)
        case "after the submission":
            wrap(step.submitter, "well", before=False)
        case "after the record":
            wrap(Claims, "record", before=False)
        case "after the tags":
            wrap(events, "submitted", before=False)
        case _:
            raise AssertionError(point)


POINTS = [
    "before the claim",
    "after the claim",
    "after the start",
    "at the look-up",
    "after the look-up",
    "before the submission",
    "after the submission",
    "after the record",
    "after the tags",
]


UNSENT = POINTS[:3]
"""Points at which a termination is seen before anything is submitted."""


def settle(step: Rig, run_id: str) -> None:
    """Let all that follows by itself follow: what the sensors do, some times."""
    for _ in range(3):
        attempt = step.attempt(run_id)
        if attempt.is_open and attempt.state is not State.CANCELLING and not attempt.wms_id:
            step.submit(run_id)
        step.watch()


@pytest.mark.parametrize("point", POINTS)
def test_terminated_at_any_point_nothing_is_left_running(
    step: Rig, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    for group, force in (("g0000", False), ("g0001", True)):
        run_id = step.queue(group)
        with monkeypatch.context() as patch:
            at_point(patch, step, point, partial(step.terminate, run_id, force=force))
            step.submit(run_id)
        assert step.wms.alive() == []  # also before the watch sensor looks
        settle(step, run_id)
        assert step.wms.alive() == []
        assert step.state(run_id) is State.CANCELLED
        assert step.attempt(run_id).swept
        assert step.submitter.submissions[name(group)] <= (0 if point in UNSENT else 1)


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point_there_is_one_workflow(step: Rig, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    for group, then in (("g0000", "safe"), ("g0001", "force"), ("g0002", "nothing")):
        run_id = step.queue(group)
        with monkeypatch.context() as patch:
            at_point(patch, step, point, die)
            with pytest.raises(Killed):
                step.submit(run_id)
        if then != "nothing":
            step.terminate(run_id, force=then == "force")
        settle(step, run_id)
        assert len(step.wms.named(name(group))) <= 1
        assert step.submitter.submissions[name(group)] <= 1
        if then == "nothing":
            assert step.wms.named(name(group)) == [step.attempt(run_id).wms_id]
            assert step.wms.alive() == [name(group)]
        else:
            assert step.state(run_id) is State.CANCELLED
            assert step.wms.alive() == []


def test_killed_in_the_talk_with_the_wms(step: Rig) -> None:
    run_id = step.queue("g0000")
    step.submitter.turns = [step.submitter.dies]
    with pytest.raises(Killed):
        step.submit(run_id)
    assert step.submit(run_id).submitted == 1
    assert len(step.wms.named(name("g0000"))) == 1


@pytest.mark.parametrize("force", [False, True], ids=["safe", "force"])
def test_killed_and_terminated_while_the_wms_does_not_show_it_yet(step: Rig, force: bool) -> None:
    step.restrict(wms=step.site.spec.wms.model_copy(update={"settle": 30.0}))
    run_id = step.queue("g0000")
    step.submitter.turns = [step.submitter.dies]
    with pytest.raises(Killed):
        step.submit(run_id)
    step.wms.hidden = {"1"}
    step.terminate(run_id, force=force)
    step.watch()
    assert not step.attempt(run_id).swept
    step.wms.hidden = set()
    step.watch()
    assert step.wms.alive() == []
    step.watch()
    assert step.state(run_id) is State.CANCELLED


def test_the_wms_goes_down_when_the_cancellation_is_due(step: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = step.queue("g0000")

    def strike() -> None:
        step.terminate(run_id)
        step.wms.down = True

    with monkeypatch.context() as patch:
        at_point(patch, step, "after the submission", strike)
        step.submit(run_id)
    assert step.wms.alive() == [name("g0000")]
    step.wms.down = False
    step.watch()
    assert step.wms.alive() == []
    assert step.state(run_id) is State.CANCELLED


def test_terminated_during_an_outage_it_is_not_submitted_afterwards(step: Rig) -> None:
    """RUN_START overwrites the status of a run that was cancelled a moment before; its event log tells."""
    run_id = step.queue("g0000")
    attempt = step.attempt(run_id)
    step.wms.down = True
    step.submit(run_id)
    step.terminate(run_id, force=True)
    events.start(step.instance, attempt)
    assert step.state(run_id) is State.CLAIMED
    step.wms.down = False
    step.submit(run_id)
    assert step.state(run_id) is State.CANCELLED
    assert step.submitter.submissions == {}
