"""Groups go to sites by shares, at every moment of a step; moves bring shares back and are never for nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm_dagster.errors import PlanError
from cm_dagster.plan.allocation import allocate, measure_of, rebalance, site_totals
from cm_dagster.plan.groups import Group

SITES = ["usdf", "frdf", "ukdf", "idf", "x5", "x6"]
share = st.integers(1, 50).map(lambda number: number / 10) | st.floats(0.001, 1000)
some_shares = st.lists(share, min_size=1, max_size=6).map(lambda values: dict(zip(SITES, values, strict=False)))
some_weights = st.lists(st.integers(1, 10) | st.integers(1, 100_000), max_size=60)


def groups_of(weights: Sequence[int], sites: Sequence[str] = ()) -> list[Group]:
    """Groups of known quanta, whose other numbers would balance otherwise."""
    return [
        Group(f"g{place:04d}", "", 100 - place % 7, weight, "", sites[place] if sites else "", datasets=place % 3)
        for place, weight in enumerate(weights)
    ]


def loads_of(groups: Sequence[Group]) -> Counter[str]:
    loads = Counter[str]()
    for group, weight in zip(groups, measure_of(groups)[1], strict=True):
        loads[group.site] += weight
    return loads


def parts_of(shares: Mapping[str, float]) -> dict[str, Fraction]:
    """What each site should have of 1: shares as they are written."""
    exact = {site: Fraction(str(value)) for site, value in shares.items()}
    return {site: value / sum(exact.values()) for site, value in exact.items()}


@given(some_weights, some_shares)
def test_every_prefix_is_within_the_bound(weights: list[int], shares: dict[str, float]) -> None:
    made = allocate(groups_of(weights), shares)
    assert [replace(group, site="") for group in made] == groups_of(weights)
    number, parts = len(shares), parts_of(shares)
    above = 1 - Fraction(1, number)
    below = sum((Fraction(1, k) for k in range(2, number + 1)), Fraction(0))
    loads, heaviest = Counter[str](), 0
    for group, weight in zip(made, weights, strict=True):
        loads[group.site] += weight
        heaviest = max(heaviest, weight)
        for site, part in parts.items():
            excess = loads[site] - part * loads.total()
            assert -below * heaviest <= excess <= above * heaviest


@given(some_weights, some_shares, st.sampled_from([2, 0.5, 10]))
def test_only_the_ratios_of_shares_count(weights: list[int], shares: dict[str, float], factor: float) -> None:
    tenfold = {site: float(Fraction(str(value)) * Fraction(str(factor))) for site, value in shares.items()}
    if parts_of(tenfold) == parts_of(shares):  # what a float can't hold is another share
        assert allocate(groups_of(weights), tenfold) == allocate(groups_of(weights), shares)


def test_shares_are_taken_as_they_are_written() -> None:
    """As floats, 0.1 is a little more than a third of 0.3, and the second of these groups would go to frdf."""
    made = allocate(groups_of([1] * 8), {"usdf": 0.3, "frdf": 0.1})
    assert "".join(group.site[0] for group in made) == "uufu" * 2


def test_the_first_of_equals_comes_first() -> None:
    made = allocate(groups_of([5] * 6), {"usdf": 1, "frdf": 1})
    assert [group.site for group in made] == ["usdf", "frdf"] * 3


def test_a_site_without_a_share_gets_nothing() -> None:
    made = allocate(groups_of([3, 1, 4]), {"usdf": 0, "frdf": 1})
    assert {group.site for group in made} == {"frdf"}
    with pytest.raises(PlanError, match="no site has a share"):
        allocate(made, {"usdf": 0})
    with pytest.raises(PlanError, match="no site has a share"):
        rebalance(made, {}, {})


def test_what_groups_are_balanced_by() -> None:
    known = [Group("g0000", "", 2, 10, "", datasets=7), Group("g0001", "", 3, 0, "", datasets=8)]
    assert measure_of(known) == ("quanta", [10, 1])
    one_unknown = [known[0], replace(known[1], quanta=None)]
    assert measure_of(one_unknown) == ("datasets", [7, 8])
    assert measure_of([replace(group, quanta=None, datasets=0) for group in known]) == ("values", [2, 3])
    assert measure_of([replace(group, quanta=0, datasets=0, size=0) for group in known]) == ("groups", [1, 1])
    made = allocate(groups_of([9, 1, 1, 1, 9, 9]), {"usdf": 1, "frdf": 2})
    assert "".join(group.site[0] for group in made) == "fuuufu"  # by their number it would be fuffuf
    assert loads_of(made) == {"usdf": 12, "frdf": 18}


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Group], dict[str, float], dict[str, str]]:
    """Groups somewhere, shares of some sites, groups that stay."""
    weights = draw(st.lists(st.integers(1, 9) | st.integers(1, 1000), min_size=1, max_size=40))
    sites = draw(st.lists(st.sampled_from(SITES[:4]), min_size=len(weights), max_size=len(weights)))
    groups = groups_of(weights, sites)
    shares = draw(st.dictionaries(st.sampled_from(SITES[:5]), st.just(0.0) | share, min_size=1))
    shares[draw(st.sampled_from(SITES[:5]))] = draw(share)
    stay = draw(st.sets(st.sampled_from([group.name for group in groups])))
    return groups, shares, {group.name: group.site for group in groups if group.name in stay}


def after(groups: Sequence[Group], moves: Sequence[tuple[Group, str, str]]) -> list[Group]:
    to = {group.name: site for group, _, site in moves}
    return [replace(group, site=to.get(group.name, group.site)) for group in groups]


def off(groups: Sequence[Group], shares: Mapping[str, float], fixed: Mapping[str, str]) -> Fraction:
    """How far the sites with shares are from what they should have, all together, by a definition of its own.

    What they should have is what is free and what stays among them, where no site can have less than stays with it.
    """
    weights = dict(zip([group.name for group in groups], measure_of(groups)[1], strict=True))
    parts = parts_of({site: value for site, value in shares.items() if value})
    stay = {site: sum(weights[name] for name, at in fixed.items() if at == site) for site in parts}
    loose = sum(weight for name, weight in weights.items() if name not in fixed)
    low, high = Fraction(0), Fraction(10**12)
    for _ in range(120):  # the level to which water rises: max(stay, part * level) adds up to all
        middle = (low + high) / 2
        full = sum(max(Fraction(stay[site]), parts[site] * middle) for site in parts)
        low, high = (low, middle) if full >= loose + sum(stay.values()) else (middle, high)
    loads = loads_of(groups)
    wanted = {site: max(Fraction(stay[site]), parts[site] * high) for site in parts}
    return sum((abs(loads[site] - wanted[site]) for site in parts), Fraction(0))


@given(worlds())
def test_moves_are_allowed(world: tuple[list[Group], dict[str, float], dict[str, str]]) -> None:
    groups, shares, fixed = world
    moves = rebalance(groups, shares, fixed)
    names = [group.name for group, _, _ in moves]
    assert names == sorted(set(names))
    for group, old, new in moves:
        assert group in groups
        assert group.name not in fixed
        assert old == group.site != new
        assert shares[new] > 0
    left = {group.site for group in after(groups, moves) if group.name not in fixed}
    assert all(shares.get(site, 0) > 0 for site in left)


@given(worlds())
def test_moves_are_for_the_better_and_no_single_one_is_left(
    world: tuple[list[Group], dict[str, float], dict[str, str]],
) -> None:
    groups, shares, fixed = world
    moves = rebalance(groups, shares, fixed)
    better = after(groups, moves)
    tiny = Fraction(1, 10**6)
    if all(shares.get(group.site, 0) > 0 for group in groups if group.name not in fixed):
        assert off(better, shares, fixed) < off(groups, shares, fixed) - tiny or not moves
    assert rebalance(better, shares, fixed) == []
    level = off(better, shares, fixed)
    for place, group in enumerate(better):
        for site, value in shares.items():
            if group.name not in fixed and value > 0:
                other = [*better[:place], replace(group, site=site), *better[place + 1 :]]
                assert off(other, shares, fixed) >= level - tiny


@given(some_weights, some_shares)
def test_a_step_with_equal_groups_is_left_as_it_was_allocated(weights: list[int], shares: dict[str, float]) -> None:
    made = allocate(groups_of([7] * len(weights)), shares)
    assert len(rebalance(made, shares, {})) <= len(shares) - 1  # the bound allows a site to lack more than a group


def test_a_site_in_trouble_gives_its_free_groups_to_the_others() -> None:
    sites = ["usdf"] * 6 + ["frdf"] * 3 + ["ukdf"] * 3
    groups = groups_of([10] * 12, sites)
    moves = rebalance(groups, {"frdf": 1, "ukdf": 1}, {"g0000": "usdf", "g0001": "usdf"})
    assert [(group.name, old) for group, old, _ in moves] == [(f"g{place:04d}", "usdf") for place in range(2, 6)]
    assert Counter(new for _, _, new in moves) == {"frdf": 2, "ukdf": 2}


def test_what_stays_leaves_less_to_the_others() -> None:
    """One site is full of what stays; the rest is evened out among the others."""
    groups = groups_of([90, 5, 5, 5, 5], ["usdf", "frdf", "frdf", "frdf", "frdf"])
    moves = rebalance(groups, {"usdf": 1, "frdf": 1, "ukdf": 1}, {"g0000": "usdf"})
    assert [(group.name, new) for group, _, new in moves] == [("g0003", "ukdf"), ("g0004", "ukdf")]


def test_a_large_step_is_quick_to_share_out_and_to_rebalance() -> None:
    groups = allocate(groups_of([1 + place % 977 for place in range(10_000)]), {"usdf": 0.35, "frdf": 0.4, "ukdf": 25})
    moves = rebalance(groups, {"usdf": 0.35, "frdf": 0.4, "idf": 0.25}, {})
    loads = loads_of(after(groups, moves))
    assert {site: round(load / loads.total(), 4) for site, load in sorted(loads.items())} == {
        "frdf": 0.4,
        "idf": 0.25,
        "usdf": 0.35,
    }


def test_totals_of_sites() -> None:
    groups = groups_of([30, 30, 40, 100], ["usdf", "frdf", "usdf", "ukdf"])
    usdf, frdf, idf, ukdf = site_totals(groups, ["usdf", "frdf", "idf"], {"usdf": 6, "frdf": 3, "idf": 1})
    assert (usdf.groups, usdf.amount, usdf.unit, usdf.wanted, usdf.got) == (2, 70, "quanta", 0.6, 0.7)
    assert (frdf.wanted, frdf.got) == (0.3, 0.3)
    assert (idf.groups, idf.amount, idf.wanted, idf.got) == (0, 0, 0.1, 0)
    assert (ukdf.groups, ukdf.amount, ukdf.wanted, ukdf.got) == (1, 100, None, None)
    assert str(usdf) == "usdf: 2 groups, 70 quanta, 70.0% of what is shared (wanted: 60.0%)"
    assert str(ukdf) == "ukdf: 1 group, 100 quanta"
    (only,) = site_totals([Group("g0000", "", 0, None, "", "usdf")], ["usdf"], {"usdf": 1})
    assert str(only) == "usdf: 1 group, 100.0% of what is shared (wanted: 100.0%)"
