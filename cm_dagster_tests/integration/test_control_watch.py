"""Following workflows: what the WMS says is taken for what it is, and what it does not say is never made up."""

from __future__ import annotations

import logging
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent
from dagster._core.test_utils import create_run_for_test

from cm_dagster.control.finalize import finalize
from cm_dagster.control.health import read_health, read_progress
from cm_dagster.control.queue import batches
from cm_dagster.control.waiting import wait_of, why_waits
from cm_dagster.errors import ButlerError, ServiceError
from cm_dagster.ledger import events
from cm_dagster.ledger.attempts import Attempt
from cm_dagster.policy.backoff import Wait
from cm_dagster.policy.states import SHOWN_AS, RunStatus, State
from cm_dagster.services.quanta import FinalJobResult, QuantaSummary, TaskQuanta
from cm_dagster.services.wms import WmsState
from cm_dagster_tests.integration.conftest import Clock, Judge
from cm_dagster_tests.integration.ledger_rig import FINALIZE, LOG, SITE, SUBMIT, Rig

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


@pytest.mark.parametrize("days", [0.5, 5.0])
def test_what_ended_before_the_oldest_open_attempt_was_submitted_is_not_listed_again(
    step: Rig, clock: Clock, judge: Judge, days: float
) -> None:
    clock.forward(-2 * days * 86400.0)
    old = step.wms.add("camp.step1.here.g0000.a01")
    step.wms.set(old, WmsState.SUCCEEDED)
    clock.forward(days * 86400.0)
    run_id = step.begin("g0001")
    wms_id = step.attempt(run_id).wms_id
    step.wms.set(wms_id, WmsState.SUCCEEDED)  # at once, when nobody could look
    clock.forward(days * 86400.0)
    step.watch()
    assert step.wms.listed == [wms_id]
    assert step.state(run_id) is State.ACCEPTED
    assert step.wms.asked["one"] == 0


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


def test_an_acceptance_that_can_not_be_written_does_not_stop_the_others(
    step: Rig, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [step.begin(f"g000{place}") for place in range(3)]
    for run_id in runs:
        step.wms.set(step.attempt(run_id).wms_id, WmsState.SUCCEEDED)
    write = events.accept

    def refuse(instance: dg.DagsterInstance, *accepted: events.Acceptance) -> None:
        if runs[1] in [each.attempt.run_id for each in accepted]:
            raise ValueError("bad text")
        write(instance, *accepted)

    with monkeypatch.context() as patch:
        patch.setattr(events, "accept", refuse)
        assert step.watch().summary == "2 accept, 1 fault (see the log of this tick)"
    assert [step.state(run_id) for run_id in runs] == [State.ACCEPTED, State.RUNNING, State.ACCEPTED]
    assert "ValueError: bad text" in step.notes(runs[1])
    assert judge.asked == 3


def test_a_state_that_can_not_be_written_does_not_stop_the_others(step: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [step.begin(f"g000{place}", state=State.SUBMITTED) for place in range(3)]
    write = events.set_states

    def refuse(instance: dg.DagsterInstance, *now: tuple[Attempt, State]) -> None:
        if runs[1] in [attempt.run_id for attempt, _ in now]:
            raise ValueError("bad text")
        write(instance, *now)

    monkeypatch.setattr(events, "set_states", refuse)
    step.watch()
    assert [step.state(run_id) for run_id in runs] == [State.RUNNING, State.SUBMITTED, State.RUNNING]


def test_a_workflow_that_cannot_be_judged_for_good_fails_with_the_reason(step: Rig) -> None:
    run_id = step.begin("g0000")  # it has no submit directory
    step.wms.set("1", WmsState.SUCCEEDED)
    step.watch()
    assert step.state(run_id) is State.FAILED
    assert "can't be judged: there is no quantum graph" in step.end_message(run_id)
    assert read_progress(step.instance, SITE) == {}


# ------------------------------------------------------------------------------------------------------ what waits


def wait(step: Rig, run_id: str) -> Wait:
    found = read_progress(step.instance, SITE)[run_id].wait
    assert found is not None
    return found


def test_what_the_list_lacks_is_asked_for_in_turn_and_less_and_less_often(step: Rig, clock: Clock) -> None:
    runs = [step.begin(f"g{n:04d}") for n in range(45)]
    step.wms.hidden = set(step.wms.workflows)
    for asked in (20, 40, 45, 45):
        step.watch()
        assert step.wms.asked["one"] == asked
    assert {step.state(run_id) for run_id in runs} == {State.UNKNOWN}
    since = wait(step, runs[0]).since
    clock.forward(61)
    for asked in (65, 85, 90, 90):
        step.watch()
        assert step.wms.asked["one"] == asked
    assert {wait(step, run_id).tries for run_id in runs} == {2}
    clock.forward(61)
    step.watch()
    assert step.wms.asked["one"] == 90  # it is twice as long now
    found = wait(step, runs[0])
    assert (found.since, found.cause) == (since, "the WMS does not show workflow 1")
    assert step.notes(runs[0]).count("Waits: the WMS does not show workflow 1; tried once since") == 1
    assert found.next - found.last > 100


def test_nobody_is_asked_for_twice_before_all_are_asked_for_once(step: Rig, clock: Clock) -> None:
    runs = [step.begin(f"g{n:04d}") for n in range(45)]
    step.wms.hidden = set(step.wms.workflows)
    for _ in range(3):
        step.watch()
        clock.forward(1000)  # the time of all has come
    progress = read_progress(step.instance, SITE)
    assert all(progress[run_id].wait for run_id in runs)


def test_a_workflow_that_comes_back_is_seen_at_once(step: Rig, clock: Clock) -> None:
    run_id = step.begin("g0000")
    step.wms.hidden = {"1"}
    for _ in range(5):
        step.watch()
        clock.forward(1000)
    assert wait(step, run_id).tries == 5
    step.watch()
    step.wms.hidden = set()
    step.watch()
    assert step.state(run_id) is State.RUNNING
    assert read_progress(step.instance, SITE)[run_id].wait is None
    assert step.wms.asked["one"] == 6


def test_what_is_known_by_id_alone_stays_what_it_is_between_two_questions(step: Rig, clock: Clock) -> None:
    run_id = step.begin("g0000")
    step.wms.unlisted = {"1"}
    for _ in range(3):
        step.watch()
        assert step.state(run_id) is State.RUNNING
        assert read_progress(step.instance, SITE)[run_id].jobs == {"running": 2}
    assert step.wms.asked["one"] == 1
    assert why_waits(step.attempt(run_id), read_progress(step.instance, SITE)[run_id]) is None
    clock.forward(61)
    step.wms.set("1", WmsState.PENDING)
    step.watch()
    assert step.state(run_id) is State.SUBMITTED
    assert step.wms.asked["one"] == 2


def test_a_wms_that_goes_away_in_between_makes_nothing_unknown(step: Rig) -> None:
    runs = [step.begin(f"g000{n}") for n in range(3)]
    step.wms.unlisted = set(step.wms.workflows)

    def goes_away() -> None:
        step.wms.down = True
        step.wms.cancel("1")

    step.wms.on_one = goes_away
    seen = step.watch()
    assert step.state(runs[0]) is State.RUNNING
    assert "not asked: the WMS does not answer" in seen.summary
    assert read_progress(step.instance, SITE) == {}
    assert step.wms.asked["one"] == 1  # the others are not asked


def test_the_age_of_an_outage_is_told(step: Rig) -> None:
    step.begin("g0000")
    step.wms.down = True
    for _ in range(3):
        seen = step.watch()
    assert "asked 3 times" in seen.summary
    assert read_health(step.instance, [SITE])[SITE].asked == 3


# ------------------------------------------------------------------------------------------------------- judgement


def end(step: Rig, groups: int) -> list[str]:
    """Make attempts whose workflow has succeeded."""
    runs = [step.begin(f"g000{n}") for n in range(groups)]
    for wms_id in step.wms.workflows:
        step.wms.set(wms_id, WmsState.SUCCEEDED)
    return runs


@pytest.mark.parametrize(
    "error",
    [
        ButlerError("no route to the database", transient=True),
        ButlerError("password authentication failed", advice="ask for it"),
        OSError(5, "Input/output error"),
    ],
    ids=["away", "refuses", "files"],
)
def test_what_can_not_be_judged_now_waits_and_is_never_failed(
    step: Rig, judge: Judge, clock: Clock, error: Exception
) -> None:
    (run_id,) = end(step, 1)
    judge.error = error
    for tries in (1, 2, 3):
        seen = step.watch()
        assert "waiting for the Butler" in seen.summary
        assert step.state(run_id) is State.ENDED
        assert (wait(step, run_id).tries, judge.asked) == (tries, tries)
        assert str(error) in wait(step, run_id).cause
        step.watch()
        assert judge.asked == tries  # not before its time
        clock.forward(1000)
    assert step.notes(run_id).count("Waits: it has ended and can't be judged") == 1
    judge.error = None
    step.watch()
    assert step.state(run_id) is State.ACCEPTED
    assert read_progress(step.instance, SITE) == {}


def test_a_butler_that_is_away_is_asked_once_for_all_and_all_are_judged_when_it_is_back(
    step: Rig, judge: Judge, clock: Clock
) -> None:
    runs = end(step, 4)
    judge.error = ButlerError("no route to the database", transient=True)
    step.watch()
    assert judge.asked == 1
    assert {wait(step, run_id).tries for run_id in runs} == {1}
    clock.forward(61)
    late = step.begin("g0005")
    step.wms.set(step.attempt(late).wms_id, WmsState.SUCCEEDED)
    step.watch()
    assert judge.asked == 2
    judge.error = None
    clock.forward(60)  # time for the one that came late, not for the others
    step.watch()
    assert {step.state(run_id) for run_id in [*runs, late]} == {State.ACCEPTED}


# ------------------------------------------------------------------------------------------------------ final jobs


@pytest.fixture
def final_jobs(step: Rig, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> list[ServiceError | OSError | None]:
    """What final jobs come to, one after the other; the registry lacks what they would register."""
    results: list[ServiceError | OSError | None] = []

    def run(submit_dir: Path, *_: object, **__: object) -> FinalJobResult:
        error = results.pop(0)
        if isinstance(error, OSError):
            raise error
        return FinalJobResult(error is None, submit_dir, 1.0, error)

    monkeypatch.setattr("cm_dagster.control.finalize.run_final_job", run)
    unregistered = QuantaSummary("a/run", {"isr": TaskQuanta(2, 2)}, provenance=True, registered=None)
    monkeypatch.setattr("cm_dagster.control.judge.read_quanta", lambda *_: unregistered)
    return results


def test_a_final_job_that_fails_by_an_outage_waits_and_does_not_count(
    step: Rig, clock: Clock, final_jobs: list[ServiceError | OSError | None]
) -> None:
    (run_id,) = end(step, 1)
    away = ServiceError("the final job failed: OperationalError: connection refused", transient=True)
    final_jobs.extend([away, OSError(28, "No space left on device"), away, away])
    for tries in range(1, 5):
        assert step.watch().finalize == [run_id]
        finalize(step.instance, step.site, [run_id], f"a finalize run {tries}", LOG)
        assert step.state(run_id) is State.FINALIZING
        assert step.attempt(run_id).finalized == 0
        why = wait_of(step.attempt(run_id))
        assert why is not None
        assert why.tries == tries
        assert step.watch().finalize == []  # not before its time
        clock.forward(1000)
    final_jobs.extend([None, ServiceError("the final job failed: ValueError")])
    for count in (1, 2):
        assert step.watch().finalize == [run_id]
        finalize(step.instance, step.site, [run_id], f"another finalize run {count}", LOG)
        assert (step.state(run_id), step.attempt(run_id).finalized) == (State.ENDED, count)
        assert wait_of(step.attempt(run_id)) is None
    step.watch()
    assert step.state(run_id) is State.FAILED
    assert "did not help" in step.end_message(run_id)


@pytest.mark.usefixtures("final_jobs")
def test_a_dead_finalize_worker_is_taken_up_again(step: Rig, clock: Clock) -> None:
    (run_id,) = end(step, 1)
    (batch,) = [seen.batch for seen in [step.watch()] if seen.batch]
    run: dg.DagsterRun = create_run_for_test(
        step.instance, job_name=FINALIZE, run_config=batch.config("finalize_attempts")
    )
    step.instance.report_dagster_event(DagsterEvent(dg.DagsterEventType.RUN_START.value, FINALIZE), run.run_id)
    assert step.watch().batch is None
    clock.forward(61)  # nobody holds its life line
    again = step.watch().batch
    assert again is not None
    assert again.run_ids == (run_id,)
    assert again.run_key != batch.run_key
    assert "process is gone" in step.end_message(run.run_id)
