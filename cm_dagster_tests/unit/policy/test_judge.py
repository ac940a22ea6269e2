"""The verdict on a workflow that has ended rests on the registry, and errs on the safe side."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm_dagster.policy.judge import FINAL_JOB_TRIES, Ended, Outcome, TaskCount, judge, threshold_of, unknown_labels

FRACTIONS = st.floats(0, 1, allow_nan=False)
STATES = ("succeeded", "failed", "cancelled")


@st.composite
def endings(draw: st.DrawFn) -> Ended:
    expected = draw(st.integers(1, 200))
    return Ended(
        wms_state=draw(st.sampled_from(STATES)),
        expected=expected,
        succeeded=draw(st.none() | st.integers(0, expected)),
        registered=draw(st.none() | st.integers(0, expected)),
        finalized=draw(st.integers(0, FINAL_JOB_TRIES + 1)),
    )


def good(expected: int = 100, registered: int | None = 100, **changes: object) -> Ended:
    ended = Ended("succeeded", expected, expected, registered, 0)
    return replace(ended, **changes)  # type: ignore[arg-type]


@given(ended=endings(), quanta=FRACTIONS)
def test_without_output_nothing_is_accepted(ended: Ended, quanta: float) -> None:
    for registered in (0, None):
        assert judge(replace(ended, registered=registered), quanta).outcome is not Outcome.ACCEPT


@given(ended=endings(), quanta=FRACTIONS)
def test_accepted_means_enough_is_registered(ended: Ended, quanta: float) -> None:
    verdict = judge(ended, quanta)
    if verdict.outcome is Outcome.ACCEPT:
        assert ended.wms_state != "cancelled"
        assert ended.registered is not None
        assert ended.registered >= 1
        assert ended.registered / ended.expected >= quanta
        assert ended.registered >= (ended.succeeded or 0)
    assert verdict.reason


@given(ended=endings(), quanta=FRACTIONS)
def test_the_final_job_is_run_again_a_few_times_at_most(ended: Ended, quanta: float) -> None:
    outcome = judge(replace(ended, finalized=FINAL_JOB_TRIES), quanta).outcome
    assert outcome is not Outcome.FINALIZE
    if judge(ended, quanta).outcome is Outcome.FINALIZE:
        assert ended.finalized < FINAL_JOB_TRIES
        assert ended.registered is None or ended.registered < ended.expected


@given(ended=endings(), more=st.integers(1, 50), quanta=FRACTIONS)
def test_more_output_is_never_worse(ended: Ended, more: int, quanta: float) -> None:
    ranks = {Outcome.FAIL: 0, Outcome.FINALIZE: 0, Outcome.ACCEPT: 1}
    better = replace(ended, registered=min((ended.registered or 0) + more, ended.expected))
    assert ranks[judge(better, quanta).outcome] >= ranks[judge(ended, quanta).outcome]


@given(ended=endings(), low=FRACTIONS, high=FRACTIONS)
def test_a_lower_threshold_is_never_stricter(ended: Ended, low: float, high: float) -> None:
    low, high = sorted((low, high))
    if judge(ended, high).outcome is Outcome.ACCEPT:
        assert judge(ended, low).outcome is Outcome.ACCEPT


def test_complete() -> None:
    verdict = judge(good(), 1.0)
    assert (verdict.outcome, verdict.reason) == (Outcome.ACCEPT, "100 of 100 quanta succeeded")


def test_threshold() -> None:
    ended = good(registered=95, succeeded=95, wms_state="failed")
    assert judge(ended, 0.95).outcome is Outcome.ACCEPT
    assert "threshold 95.0%" in judge(ended, 0.95).reason
    assert judge(replace(ended, registered=94, succeeded=94), 0.95).outcome is Outcome.FAIL
    assert judge(ended, 1.0).outcome is Outcome.FAIL


def test_succeeded_without_a_run_collection() -> None:
    absent = good(registered=None, succeeded=None)
    for tries in range(FINAL_JOB_TRIES):
        verdict = judge(replace(absent, finalized=tries), 1.0)
        assert verdict.outcome is Outcome.FINALIZE
        assert "no RUN collection" in verdict.reason
    verdict = judge(replace(absent, finalized=FINAL_JOB_TRIES), 1.0)
    assert verdict.outcome is Outcome.FAIL
    assert "did not help" in verdict.reason


def test_succeeded_with_an_empty_run_collection() -> None:
    assert judge(good(registered=0, succeeded=None), 1.0).outcome is Outcome.FINALIZE
    assert judge(good(registered=0), 0.0).outcome is Outcome.FINALIZE


def test_outputs_that_succeeded_but_are_not_registered() -> None:
    assert judge(good(registered=60, succeeded=80, wms_state="failed"), 0.5).outcome is Outcome.FINALIZE


def test_a_final_job_that_died_is_no_failure_of_the_payload() -> None:
    """The WMS says FAILED of a workflow whose quanta all went well and whose final job was killed."""
    died = good(registered=0, succeeded=None, wms_state="failed")
    assert judge(died, 1.0).outcome is Outcome.FINALIZE
    assert judge(replace(died, registered=30), 1.0).outcome is Outcome.FINALIZE


def test_a_stack_without_provenance_is_judged_by_its_counts_in_the_end() -> None:
    ended = good(registered=96, succeeded=None, wms_state="failed", finalized=FINAL_JOB_TRIES)
    assert judge(ended, 0.95).outcome is Outcome.ACCEPT
    assert judge(ended, 1.0).outcome is Outcome.FAIL


def test_cancelled_at_the_wms() -> None:
    verdict = judge(good(wms_state="cancelled"), 1.0)
    assert verdict.outcome is Outcome.FAIL
    assert "not through cm_dagster" in verdict.reason


def test_all_quanta_failed() -> None:
    verdict = judge(good(registered=0, succeeded=0, wms_state="failed"), 0.0)
    assert verdict.outcome is Outcome.FAIL
    assert "no output" in verdict.reason


# --------------------------------------------------------------------------------------------------- task by task

LABELS = st.sampled_from(["isr", "calibrateImage", "calibrateLater", "warp"])
NAMES = LABELS | st.sampled_from(["calibrate*", "*", "i?r", "[cw]*", "nosuch", "no*"])
TASKS = st.dictionaries(LABELS, st.tuples(st.integers(1, 50), st.integers(0, 50)), min_size=1).map(
    lambda found: {name: TaskCount(expected, min(expected, done)) for name, (expected, done) in found.items()}
)
PER_TASK = st.dictionaries(NAMES, FRACTIONS, max_size=4)


def by_task(tasks: dict[str, TaskCount]) -> Ended:
    """A workflow with provenance, of which the registry has all that succeeded."""
    done = sum(count.registered for count in tasks.values())
    return Ended("failed", sum(count.expected for count in tasks.values()), done, done, 0, tasks)


@given(tasks=TASKS, per_task=PER_TASK, quanta=FRACTIONS)
def test_accepted_means_that_no_task_is_below_its_threshold(
    tasks: dict[str, TaskCount], per_task: dict[str, float], quanta: float
) -> None:
    verdict = judge(by_task(tasks), quanta, per_task)
    least = {label: threshold_of(label, per_task) for label in tasks}
    low = [label for label, count in tasks.items() if count.registered / count.expected < (least[label] or 0.0)]
    done = any(count.registered for count in tasks.values())
    if low and done:
        assert verdict.outcome is Outcome.FAIL
        assert verdict.reason.startswith(f"{low[0]}: ")
        assert all(f"{label}: " in verdict.reason for label in low)
    else:
        assert verdict.outcome is judge(by_task(tasks), quanta).outcome
    assert all(name in verdict.reason for name in unknown_labels(tasks, per_task))


@given(tasks=TASKS, per_task=PER_TASK, label=LABELS, more=st.integers(1, 50), quanta=FRACTIONS)
def test_more_output_of_a_task_is_never_worse(
    tasks: dict[str, TaskCount], per_task: dict[str, float], label: str, more: int, quanta: float
) -> None:
    if label in tasks:
        count = tasks[label]
        better = {**tasks, label: replace(count, registered=min(count.expected, count.registered + more))}
        if judge(by_task(tasks), quanta, per_task).outcome is Outcome.ACCEPT:
            assert judge(by_task(better), quanta, per_task).outcome is Outcome.ACCEPT


@given(label=LABELS, per_task=PER_TASK, own=FRACTIONS)
def test_a_label_goes_before_patterns(label: str, per_task: dict[str, float], own: float) -> None:
    assert threshold_of(label, {**per_task, label: own}) == own
    backwards = dict(reversed(per_task.items()))
    assert threshold_of(label, per_task) == threshold_of(label, backwards)
    without = {name: value for name, value in per_task.items() if name in ("nosuch", "no*")}
    assert threshold_of(label, without) is None


@given(expected=st.integers(1, 1000), percent=st.integers(0, 100))
def test_a_threshold_means_the_decimal_of_the_file(expected: int, percent: int) -> None:
    """0.07 * 100 is more than 7 in floating point."""
    for done in range(1, expected + 1, max(1, expected // 100)):
        accepted = judge(good(expected, done, succeeded=done), percent / 100).outcome is Outcome.ACCEPT
        assert accepted == (Fraction(done, expected) >= Fraction(percent, 100))


def test_the_verdict_names_the_task_below_its_threshold_first() -> None:
    tasks = {"isr": TaskCount(96, 90), "calibrateImage": TaskCount(96, 90)}
    verdict = judge(by_task(tasks), 0.9, {"isr": 1.0, "calibrate*": 0.9, "nosuch": 1.0})
    assert verdict.outcome is Outcome.FAIL
    assert verdict.reason == (
        "isr: 90 of 96 quanta succeeded, below its threshold of 100.0%; 180 of 192 quanta succeeded in all;"
        " no task is named nosuch, which has a threshold"
    )
    assert judge(by_task(tasks), 0.9, {"isr": 0.9}).outcome is Outcome.ACCEPT


@pytest.mark.parametrize(("pattern", "matches"), [("calibrate*", True), ("Calibrate*", False), ("isr", False)])
def test_patterns_are_those_of_the_shell(pattern: str, matches: bool) -> None:
    assert (threshold_of("calibrateImage", {pattern: 0.5}) is not None) == matches
