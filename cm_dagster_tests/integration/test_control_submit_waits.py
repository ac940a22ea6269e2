"""Submissions that fail by what passes wait, longer each time, and say so; nobody waits for more than he must."""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import NoReturn

import pytest

from cm_dagster.control import submit as submitting
from cm_dagster.control.queue import batches
from cm_dagster.control.waiting import wait_of
from cm_dagster.ledger.claims import BusyError, Claims
from cm_dagster.plan.names import group_folder
from cm_dagster.policy.backoff import Wait
from cm_dagster.policy.states import State
from cm_dagster.services.submitter import Prepared, SubmitResult
from cm_dagster.services.wms import WmsState
from cm_dagster_tests.integration.conftest import Clock
from cm_dagster_tests.integration.ledger_rig import STEP1, SUBMIT, Rig
from cm_dagster_tests.integration.stand_ins import Killed
from cm_dagster_tests.integration.test_control_submit import name


@pytest.fixture
def step(rig: Rig) -> Rig:
    rig.create()
    rig.plan(3)
    return rig


def due(step: Rig) -> list[str]:
    return [run_id for batch in batches(step.instance, step.site, SUBMIT) for run_id in batch.run_ids]


def waiting(step: Rig, run_id: str) -> Wait:
    found = wait_of(step.attempt(run_id))
    assert found is not None
    return found


def test_a_group_is_free_as_soon_as_its_run_knows_its_workflow(step: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitting, "_SOON", 0.0)
    runs = [step.queue(f"g000{n}") for n in range(3)]
    free: list[str] = []

    def look(one: Prepared) -> SubmitResult:
        for group in ("g0000", "g0001", "g0002"):
            with suppress(BusyError), Claims(group_folder(step.site.area, STEP1, group)).locked():
                free.append(group)
        assert step.state(runs[0]) is State.SUBMITTED
        return step.submitter.well(one)

    step.submitter.turns = [step.submitter.well, look]
    assert step.submit(*runs).submitted == 3
    assert free == ["g0000"]


def test_what_fails_while_the_wms_is_away_waits_whatever_the_plugin_says(step: Rig) -> None:
    run_id = step.queue("g0000")

    def fail(one: Prepared) -> SubmitResult:
        step.wms.down = True
        return step.submitter.bad(one)

    step.submitter.turns = [fail]
    assert step.submit(run_id).waiting == 1
    cause = waiting(step, run_id).cause
    assert "the pipeline is wrong" in cause
    assert "connection refused" in cause
    step.wms.down = False
    assert step.submit(run_id).submitted == 1


def test_a_transient_failure_waits_longer_each_time(step: Rig, clock: Clock) -> None:
    run_id, other = step.queue("g0000"), step.queue("g0001")
    step.submitter.turns = [step.submitter.shaky] * 5
    for tries, (least, most) in enumerate([(54, 60), (108, 120), (216, 240), (432, 480), (810, 900)], 1):
        assert step.submit(run_id).waiting == 1
        assert step.state(run_id) is State.CLAIMED
        assert due(step) == [other]  # it holds nobody back
        wait = waiting(step, run_id)
        assert (wait.tries, "locked" in wait.cause) == (tries, True)
        assert least <= wait.next - wait.last <= most
        assert str(wait) in step.notes(run_id)
        clock.forward(least - 2)
        assert due(step) == [other]
        clock.forward(most - least + 2)
        assert due(step) == [run_id, other]
    assert step.submit(run_id).submitted == 1
    assert wait_of(step.attempt(run_id)) is None
    assert step.submitter.submissions == {name("g0000"): 6}


def test_an_outage_of_a_day_is_given_up_and_says_so(step: Rig, clock: Clock) -> None:
    run_id = step.queue("g0000")
    step.submitter.turns = [step.submitter.shaky] * 99
    step.submit(run_id)
    clock.forward(24 * 3600 - 60)
    step.submit(run_id)
    assert step.state(run_id) is State.CLAIMED
    clock.forward(61)
    step.submit(run_id)
    assert step.state(run_id) is State.FAILED
    assert "locked" in step.end_message(run_id)
    assert "given up after 3 tries since" in step.end_message(run_id)
    assert step.submit(run_id).submitted == 0


def test_a_clock_that_is_set_back_holds_nobody_for_long(step: Rig, clock: Clock) -> None:
    run_id = step.queue("g0000")
    clock.forward(7200)
    step.submitter.turns = [step.submitter.shaky]
    step.submit(run_id)
    assert due(step) == []
    clock.forward(-7200)
    assert due(step) == [run_id]


def test_an_unknown_outcome_is_asked_for_later_and_nothing_is_unknown_once_it_is_known(step: Rig, clock: Clock) -> None:
    run_id = step.queue("g0000")
    step.submitter.turns = [step.submitter.lost, step.submitter.shaky]
    step.submit(run_id)
    assert step.state(run_id) is State.UNKNOWN
    assert due(step) == []
    assert "not known whether the WMS has the workflow" in waiting(step, run_id).cause
    clock.forward(61)
    assert due(step) == [run_id]
    step.submit(run_id)
    assert step.state(run_id) is State.CLAIMED  # the WMS has nothing: that is known now
    assert waiting(step, run_id).tries == 2


def test_the_second_look_after_an_interrupted_batch_is_one_for_all_its_attempts(step: Rig, clock: Clock) -> None:
    runs = [step.queue(f"g000{number}") for number in range(3)]
    step.submitter.turns = [step.submitter.lost] * 3
    step.submit(*runs)
    clock.forward(3600)
    before = step.wms.asked["list"]
    assert step.submit(*runs).submitted == 3
    assert step.wms.asked["list"] - before == 2


def test_outcomes_that_stay_unknown_for_a_day_are_given_up_when_the_wms_has_nothing(step: Rig, clock: Clock) -> None:
    run_id = step.queue("g0000")
    step.submitter.turns = [step.submitter.lost] * 3
    step.submit(run_id)
    clock.forward(24 * 3600 + 1)
    step.submit(run_id)
    assert step.state(run_id) is State.FAILED
    assert "given up after 1 tries" in step.end_message(run_id)
    assert step.wms.alive() == []
    assert step.submitter.submissions == {name("g0000"): 1}


def full(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


FULL = {
    "life line": "cm_dagster.control.submit.hold_life_line",
    "claim": "cm_dagster.ledger.claims.Claims.claim",
    "group folder": "pathlib.Path.mkdir",
    "files of a try": "cm_dagster.services.submitter.write_text",
    "batch": "cm_dagster_tests.integration.stand_ins.ScriptedSubmitter.submit",
}


@pytest.mark.parametrize("place", FULL)
def test_a_full_disk_fails_nothing(step: Rig, clock: Clock, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    runs = [step.queue("g0000"), step.queue("g0001")]
    with monkeypatch.context() as patch:
        patch.setattr(FULL[place], full)
        done = step.submit(*runs)
    assert (done.submitted, done.waiting, done.errors) == (0, 2, [])
    for run_id in runs:
        assert step.state(run_id) in (State.QUEUED, State.CLAIMED)
        assert "No space left on device" in waiting(step, run_id).cause
        assert "No space left on device" in step.notes(run_id)
    assert due(step) == []
    clock.forward(61)
    assert sorted(due(step)) == sorted(runs)
    assert step.submit(*due(step)).submitted == 2
    assert step.submitter.submissions == {name("g0000"): 1, name("g0001"): 1}
    assert [path.name for path in step.site.area.rglob(".*") if path.is_file()] == []  # nothing half-written


def test_the_id_of_a_workflow_is_not_lost_when_the_disk_is_full(step: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = step.queue("g0000")
    with monkeypatch.context() as patch:
        patch.setattr(Claims, "record", full)
        assert step.submit(run_id).submitted == 1
    attempt = step.attempt(run_id)
    assert (attempt.wms_id, attempt.state) == ("1", State.SUBMITTED)
    assert Claims(group_folder(step.site.area, STEP1, "g0000")).recorded(1) is None


def test_a_fault_of_ours_is_shown_and_tried_again_later(step: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = step.queue("g0000"), step.queue("g0001")
    record = Claims.record

    def fault(claims: Claims, number: int, content: dict[str, str]) -> None:
        if content["run"] == bad:
            raise ZeroDivisionError("a bug")
        record(claims, number, content)

    with monkeypatch.context() as patch:
        patch.setattr(Claims, "record", fault)
        done = step.submit(bad, good)
    assert (done.submitted, done.waiting, len(done.errors)) == (1, 1, 1)
    assert "a bug" in waiting(step, bad).cause
    assert step.submit(bad).submitted == 1
    assert step.submitter.submissions[name("g0000")] == 1


@pytest.mark.parametrize("how", ["dies", "sent"])
def test_a_host_that_is_away_for_longer_than_the_wms_is_asked_back(step: Rig, clock: Clock, how: str) -> None:
    """What the WMS has done meanwhile is neither done again nor given up."""
    run_id = step.queue("g0000")
    step.submitter.turns = [getattr(step.submitter, how)]
    with suppress(Killed):
        step.submit(run_id)
    step.wms.set("1", WmsState.SUCCEEDED)
    clock.forward((step.site.spec.wms.history + 1.0) * 86400.0)
    assert step.submit(run_id).submitted == 1
    assert step.attempt(run_id).wms_id == "1"
    assert step.submitter.submissions[name("g0000")] == 1
