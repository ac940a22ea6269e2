"""The brake: holds when too much fails, says why, and is released by a person or by a new success."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cm_dagster.policy.brake import Brake, BrakeRule, End

RULE = BrakeRule(failed=0.5, ended=4, in_a_row=5)
NEVER = BrakeRule(failed=1.0, ended=1, in_a_row=None)


def ends(text: str, *, began: float = -1.0) -> list[End]:
    """Make ends of groups, one a second: ``+`` accepted, ``-`` failed, of the group of its place."""
    return [End(float(place), f"run{place}", f"g{place}", sign == "+", began) for place, sign in enumerate(text, 1)]


def held(text: str, rule: BrakeRule = RULE) -> float | None:
    return Brake.after(rule, 0.0, ends(text)).held


def test_the_fraction_counts_from_enough_groups_on() -> None:
    assert held("---") is None
    assert held("+---") == 4.0
    assert held("++--") is None
    assert held("+-+--") == 5.0
    assert held("++--" * 25) is None


def test_a_row_of_failures_counts_whatever_was_before() -> None:
    assert held("+" * 90 + "----") is None
    assert held("+" * 90 + "-----") == 95.0
    assert held("+" * 90 + "-----+") is None


def test_the_reason_has_the_numbers() -> None:
    brake = Brake.after(RULE, 0.0, ends("+---"))
    assert brake.reason == "3 of 4 groups that ended have failed (more than 50% are too many)"
    brake = Brake.after(RULE, 0.0, ends("+" * 90 + "-----"))
    assert brake.reason == "the last 5 groups that ended have failed (5 in a row are too many)"


def test_a_group_that_fails_again_and_again_is_one_group() -> None:
    again = [End(float(n), f"run{n}", "g0000", False, 0.0) for n in range(1, 50)]
    assert Brake.after(RULE, 0.0, again).held is None


def test_a_group_that_was_accepted_at_last_has_not_failed() -> None:
    cured = [*ends("---"), *(End(10.0 + n, f"again{n}", f"g{n}", True, 5.0) for n in (1, 2, 3))]
    brake = Brake.after(RULE, 0.0, [*cured, End(20.0, "last", "g9", False, 15.0)])
    assert brake.held is None


def test_a_success_that_was_on_its_way_before_does_not_release_what_a_fraction_holds() -> None:
    early = End(9.0, "early", "g9", True, began=1.0)
    late = End(9.0, "late", "g9", True, began=8.0)
    assert Brake.after(RULE, 0.0, [*ends("----"), early]).held == 4.0
    assert Brake.after(RULE, 0.0, [*ends("----"), late]).held is None
    # It counts anew from there.
    after = [End(10.0 + n, f"more{n}", f"h{n}", False, 9.5) for n in range(3)]
    assert Brake.after(RULE, 0.0, [*ends("----"), late, *after[:2]]).held is None
    assert Brake.after(RULE, 0.0, [*ends("----"), late, *after]).held == 12.0


def test_enough_successes_on_their_way_release_it_too() -> None:
    assert held("+---++") is None


def test_a_person_releases_it_and_it_counts_anew() -> None:
    assert Brake.after(RULE, 4.0, ends("+---")).held is None
    assert Brake.after(RULE, 4.0, ends("+---" + "---")).held is None
    assert Brake.after(RULE, 4.0, ends("+---" + "----")).held == 8.0


RULES = st.builds(BrakeRule, failed=st.floats(0, 1), ended=st.integers(1, 6), in_a_row=st.none() | st.integers(1, 6))
ENDS = st.lists(
    st.builds(
        End,
        time=st.integers(1, 60).map(float),
        run_id=st.uuids().map(str),
        group=st.sampled_from(["a", "b", "c", "d", "e", "f"]),
        good=st.booleans(),
        began=st.integers(0, 60).map(float),
    ),
    max_size=30,
)


@given(rule=RULES, since=st.integers(0, 20).map(float), every=ENDS, cut=st.integers(0, 30))
def test_following_the_ends_is_the_same_as_looking_back_at_them(
    rule: BrakeRule, since: float, every: list[End], cut: int
) -> None:
    following = Brake.after(rule, since, sorted(every)[:cut])
    for end in sorted(every)[cut:]:
        following.add(end)
    looking_back = Brake.after(rule, since, every)
    assert (following.held, following.reason) == (looking_back.held, looking_back.reason)


@given(rule=RULES, every=ENDS)
def test_it_holds_only_for_a_reason_and_never_without_failures(rule: BrakeRule, every: list[End]) -> None:
    brake = Brake.after(rule, 0.0, every)
    assert (brake.held is None) == (brake.reason == "")
    if brake.held is not None:
        assert any(not end.good and end.time <= brake.held for end in every)
    assert Brake.after(NEVER, 0.0, every).held is None
    assert Brake.after(rule, 61.0, every).held is None
