"""What holds a step: who passes it, and what it says."""

from __future__ import annotations

from cm_dagster.policy.brake import Brake, BrakeRule, End
from cm_dagster.policy.holds import Hold, HoldKind, braked, paused, scouting, stopped
from cm_dagster.policy.line import Latest
from cm_dagster.policy.states import State

NOW = 1_000_000_000.0
PAUSE = paused("campaign rc2", "anna", NOW, "disk is full", "cm campaign resume rc2")
RULE = BrakeRule(failed=0.5, ended=2, in_a_row=None)


def test_nothing_passes_a_pause() -> None:
    assert not PAUSE.lets("g0000", singly=True)
    assert PAUSE.reason == (
        "campaign rc2 is paused by anna since 2001-09-09 01:46 UTC: disk is full;"
        " `cm campaign resume rc2` lets it go on"
    )


def test_what_a_person_launches_singly_passes_the_brake() -> None:
    ends = [End(NOW + n, f"r{n}", f"g{n}", False, NOW) for n in range(2)]
    hold = braked(Brake.after(RULE, 0.0, ends), "step1 of rc2 at local", "cm step resume rc2 step1")
    assert hold is not None
    assert hold.kind is HoldKind.BRAKE
    assert (hold.lets("g0009", singly=True), hold.lets("g0009", singly=False)) == (True, False)
    assert hold.reason == (
        "step1 of rc2 at local has stopped since 2001-09-09 01:46 UTC: 2 of 2 groups that ended have failed (more than"
        " 50% are too many); put the cause right, then `cm step resume rc2 step1`, or launch one of its groups: its"
        " success releases the brake too"
    )
    assert braked(Brake(RULE), "step1", "x") is None


def scouts(left: dict[str, Latest | None], retries: int = 0, causes: dict[str, str] | None = None) -> Hold:
    hold = scouting(left, "step1 of rc2 at local", retries=retries, causes=causes)
    assert hold is not None
    return hold


def test_scouts_pass_alone() -> None:
    hold = scouts({"g0000": None, "g0001": Latest(1, State.RUNNING)})
    assert [hold.lets(name, singly=False) for name in ("g0000", "g0001", "g0002")] == [True, True, False]
    assert hold.lets("g0002", singly=True)
    assert not hold.news
    assert hold.reason == "step1 of rc2 at local waits for its scouts g0000 (not begun), g0001 (running)"
    assert scouting({}, "step1", retries=0) is None


def test_a_failing_scout_holds_the_step_with_its_reason() -> None:
    left: dict[str, Latest | None] = {"g0000": Latest(1, State.FAILED)}
    hold = scouts(left, causes={"g0000": "no calibs"})
    assert hold.news
    assert hold.reason == (
        "step1 of rc2 at local waits for its scouts g0000 (failed: no calibs); the others go when these are accepted"
    )
    again = scouts(left, retries=1)
    assert not again.news
    assert again.reason == "step1 of rc2 at local waits for its scouts g0000 (failed, is tried again)"
    assert scouts({"g0000": Latest(1, State.CANCELLED)}).news


def test_the_first_that_stops_a_group_is_said() -> None:
    hold = scouts({"g0000": None})
    assert stopped([hold, PAUSE], "g0000", singly=False) == PAUSE.reason
    assert stopped([PAUSE, hold], "g0001", singly=False) == PAUSE.reason
    assert stopped([hold], "g0001", singly=True) == ""
    assert stopped([], "g0001", singly=False) == ""
