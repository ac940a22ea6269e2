"""``cm quanta``: quanta of accepted groups, added up by step and task, and truthful about what is not counted."""

from __future__ import annotations

import pytest

from cm_dagster.control.taskrows import TaskRow, group_rows, quanta_table
from cm_dagster.ledger import events, overrule
from cm_dagster.ledger.attempts import Attempt, read_attempt
from cm_dagster.policy.states import State
from cm_dagster.services.quanta import QuantaSummary, TaskQuanta
from cm_dagster_tests.unit.cli.conftest import Cm, Rig


def judged(done: int, rescued: int = 0) -> events.Metadata:
    """What a group's page says, of ten quanta of each of two tasks some of which were done."""
    tasks = {"isr": TaskQuanta(10, 10), "calibrate": TaskQuanta(10, done, failed=10 - done)}
    quanta = QuantaSummary("run", tasks, provenance=True, registered={"isr": 10, "calibrate": done})
    rows = group_rows(quanta, {"isr": rescued} if rescued else {})
    return {"verdict": "so and so", "quanta": quanta_table(rows, quanta)}


@pytest.fixture
def step1(rig: Rig) -> Rig:
    """Six groups: whole, rescued, incomplete, accepted after failing, accepted without a verdict, and running."""
    rig.plan("step1", 6)
    for place, metadata in enumerate((judged(10), judged(10, rescued=90), judged(7))):
        accept(rig, rig.attempt("step1", place, State.RUNNING), metadata)
    failed = rig.attempt("step1", 3, State.RUNNING)
    events.fail(rig.instance, attempt(rig, failed), "bad", judged(1))
    overrule.accept_by_hand(rig.instance, attempt(rig, failed), "good enough", {"verdict": "accepted by ann"})
    accept(rig, rig.attempt("step1", 4, State.RUNNING), {"verdict": "accepted by ann"})
    rig.attempt("step1", 5, State.RUNNING)
    return rig


def attempt(rig: Rig, run_id: str) -> Attempt:
    found = read_attempt(rig.instance, run_id)
    assert found is not None
    return found


def accept(rig: Rig, run_id: str, metadata: events.Metadata) -> None:
    events.accept(rig.instance, events.Acceptance(attempt(rig, run_id), "accepted", metadata))


def test_json(step1: Rig, cm_run: Cm) -> None:
    found = cm_run("quanta", "rc2", "--json").json
    first, second, third = found["steps"]
    assert first["groups"] == {"total": 6, "accepted": 5, "below": 2, "uncounted": 1}
    zero = {"failed": 0, "blocked": 0, "no_record": 0}
    isr, calibrate = first["tasks"]
    assert isr == {"task": "isr", "expected": 130, "succeeded": 130, **zero, "registered": 130}
    assert calibrate == {
        "task": "calibrate",
        "expected": 40,
        "succeeded": 28,
        **zero,
        "failed": 12,
        "registered": 28,
    }
    assert (
        found["total"] == first["total"] == {**zero, "expected": 170, "succeeded": 158, "failed": 12, "registered": 158}
    )
    assert [(each["step"], each["groups"]["total"], each["tasks"]) for each in (second, third)] == [
        ("step2", 0, []),
        ("step3", 0, []),
    ]
    assert cm_run("quanta", "rc2", "step1", "--json").json["steps"] == [first]


def test_an_attempt_that_counts_no_more_is_not_counted(step1: Rig, cm_run: Cm) -> None:
    """Group 0 is processed again, and its new attempt is accepted with less."""
    accept(step1, step1.attempt("step1", 0, State.RUNNING, number=2), judged(9))
    calibrate = cm_run("quanta", "rc2", "step1", "--json").json["steps"][0]["tasks"][1]
    assert (calibrate["expected"], calibrate["succeeded"]) == (40, 27)


def test_table(step1: Rig, cm_run: Cm) -> None:
    lines = cm_run("quanta", "rc2").out.splitlines()
    assert lines[0].split()[:5] == ["step", "groups", "task", "expected", "succeeded"]
    assert lines[0].split()[5:] == ["failed", "blocked", "no", "record", "registered"]
    assert lines[1].split() == ["step1", "5/6", "isr", "130", "130", "0", "0", "0", "130"]
    assert lines[2].split() == ["calibrate", "40", "28", "12", "0", "0", "28"]
    assert any(line.split()[:3] == ["step2", "not", "planned"] for line in lines)
    assert "step1: 2 of the accepted groups lack some of their quanta" in lines
    assert any(line.startswith("step1: 1 of the accepted groups are not counted") for line in lines)


def test_a_step_that_is_not_there(step1: Rig, cm_run: Cm) -> None:
    done = cm_run("quanta", "rc2", "step9")
    assert done.code == 1
    assert "rc2 has no step 'step9'" in done.err


def test_the_rows_of_an_older_release_are_read() -> None:
    assert TaskRow.read({"task": "isr", "expected": 3, "succeeded": 2}) == TaskRow("isr", 3, 2)


def test_without_provenance_the_registry_tells_what_succeeded() -> None:
    tasks = {"isr": TaskQuanta(10), "warp": TaskQuanta(5)}
    quanta = QuantaSummary("run", tasks, provenance=False, registered={"isr": 8})
    rows = group_rows(quanta, {"isr": 1, "gone": 4})
    assert {row.task: (row.succeeded, row.no_record, row.all_expected, row.all_registered) for row in rows} == {
        "gone": (0, 0, 4, 4),
        "isr": (8, 2, 11, 9),
        "warp": (0, 5, 5, 0),
    }
    table = quanta_table(rows, quanta)
    assert [column.name for column in table.schema.columns] == [
        "task",
        "expected",
        "succeeded",
        "failed",
        "blocked",
        "no record",
        "caveats",
        "exceptions",
        "registered",
        "rescued",
        "memory max (MB)",
        "time total (min)",
    ]
