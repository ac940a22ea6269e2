"""Sites that take what predicates select: each value goes to one site as a whole, or it is said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm_dagster.errors import NoInputsError, PlanError
from cm_dagster.plan.division import REST, divide, in_turn, limits_of, site_predicates
from cm_dagster.plan.groups import Count, Group, Limits
from cm_dagster.plan.predicates import Row
from cm_dagster_tests.unit.plan.evaluate import holds

VISIT = ("instrument", "visit")
TERMS = ["visit < 30", "visit > 40 OR visit = 3", "instrument = 'HSC'", "visit IN (20..50)", "NOT (visit = 7)"]


@given(
    wheres=st.lists(st.sampled_from(TERMS), min_size=1, max_size=4).map(
        lambda terms: dict(zip(["usdf", "frdf", "ukdf", "idf"], terms, strict=False))
    ),
    instrument=st.sampled_from(["HSC", "LATISS"]),
    visit=st.integers(0, 60),
)
def test_the_first_site_that_matches_takes_a_value(wheres: dict[str, str], instrument: str, visit: int) -> None:
    row: dict[str, int | str] = {"instrument": instrument, "visit": visit}
    wanted = next((site for site, where in wheres.items() if holds(where, row)), REST)
    predicates = site_predicates(wheres)
    assert [site for site, where in predicates.items() if holds(where, row)] == [wanted]
    assert list(predicates) == [*wheres, REST]


def counts(*visits: int) -> list[Count]:
    return [Count(("HSC", visit), 4) for visit in visits]


def test_each_value_goes_to_who_takes_it() -> None:
    found = counts(1, 2, 3)
    parts = divide(
        VISIT, found, {"usdf": {("HSC", 2): 4}, "frdf": {}, REST: {("HSC", 3): 4, ("HSC", 1): 4}}, shared=True
    )
    assert parts == {"usdf": [found[1]], "frdf": [], REST: [found[0], found[2]]}


@pytest.mark.parametrize(("shared", "number", "first", "last"), [(False, 7, 3, 7), (True, 3, 7, 9)])
def test_values_that_nobody_takes_are_named(shared: bool, number: int, first: int, last: int) -> None:
    rest: dict[Row, int] = {("HSC", visit): 4 for visit in range(3, 7)}  # no predicate at all selects the other three
    taken: dict[str, dict[Row, int]] = {"usdf": {("HSC", 1): 4, ("HSC", 2): 4}, REST: rest}
    with pytest.raises(NoInputsError) as caught:
        divide(VISIT, counts(*range(1, 10)), taken, shared=shared)
    assert caught.value.cause.startswith(f"no site takes {number} of 9 values: instrument HSC, visit {first}; instr")
    assert caught.value.cause.endswith(f"visit {last}" + ("" if shared else "; ..."))
    assert "a share" in caught.value.advice


@pytest.mark.parametrize(
    "taken",
    [
        {"usdf": {("HSC", 1): 4}, "frdf": {("HSC", 1): 1}},
        {"usdf": {("HSC", 1): 3}, "frdf": {}},
        {"usdf": {("HSC", 1): 4}, REST: {("HSC", 1): 4}},
    ],
)
def test_a_value_is_never_divided(taken: dict[str, dict[tuple[str | int, ...], int]]) -> None:
    """Two sites would take parts of it, or one takes a part and nobody the rest."""
    with pytest.raises(PlanError, match="divides 1 of 1 values: instrument HSC, visit 1") as caught:
        divide(VISIT, counts(1), taken, shared=False)
    assert "selects each visit as a whole" in caught.value.advice


def test_the_number_of_groups_is_that_of_all_parts() -> None:
    whole = counts(*range(10))
    assert [limits_of(Limits(count=5), whole[:n], whole).count for n in (1, 2, 7)] == [1, 1, 4]
    assert limits_of(Limits(size=3), whole[:2], whole) == Limits(size=3)


@given(st.lists(st.integers(0, 30), max_size=5))
def test_parts_are_spread_evenly_over_the_order_of_submission(sizes: list[int]) -> None:
    parts = [
        [Group(f"g{place:04d}", f"{site} {place}", 1, None, "", str(site)) for place in range(size)]
        for site, size in enumerate(sizes)
    ]
    made = in_turn(parts)
    assert [group.name for group in made] == [f"g{place:04d}" for place in range(sum(sizes))]
    for site, part in enumerate(parts):
        mine = [place for place, group in enumerate(made) if group.site == str(site)]
        assert [made[place].where for place in mine] == [group.where for group in part]
        for nth, place in enumerate(mine):
            expected = (nth + 0.5) * len(made) / len(part)
            assert abs(place + 0.5 - expected) <= len([size for size in sizes if size]) / 2
