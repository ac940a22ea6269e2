"""Cutting a sequence: every item once, no limit broken, and no better balance possible."""

from __future__ import annotations

from itertools import combinations, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from cm_dagster.plan.cuts import cut

weights_ = st.lists(st.integers(0, 30), min_size=1, max_size=40)
short = st.lists(st.integers(0, 9), min_size=1, max_size=9)


def loads(parts: list[range], weights: list[int]) -> list[int]:
    return [sum(weights[place] for place in part) for part in parts]


@settings(deadline=None)
@given(weights_, st.one_of(st.none(), st.integers(1, 12)), st.one_of(st.none(), st.integers(1, 50)), st.data())
def test_every_item_is_in_one_part_and_no_limit_is_broken(
    weights: list[int], size: int | None, count: int | None, data: st.DataObject
) -> None:
    length = len(weights)
    costs = data.draw(st.lists(st.integers(0, 20), min_size=length, max_size=length))
    blocks = sorted(data.draw(st.lists(st.integers(0, 2), min_size=length, max_size=length)))
    max_cost = data.draw(st.one_of(st.none(), st.integers(1, 40)))
    parts = cut(weights, size=size, count=count, costs=costs, max_cost=max_cost, blocks=blocks)
    assert [place for part in parts for place in part] == list(range(len(weights)))
    assert all(parts)
    for part in parts:
        assert size is None or len(part) <= size
        assert max_cost is None or len(part) == 1 or sum(costs[place] for place in part) <= max_cost
        assert len({blocks[place] for place in part}) == 1
    assert count is None or len(parts) >= min(count, len(weights))


@settings(deadline=None)
@given(weights_, st.integers(1, 50))
def test_count_gives_that_many_parts_or_one_per_item(weights: list[int], count: int) -> None:
    assert len(cut(weights, count=count)) == min(count, len(weights))


@settings(deadline=None)
@given(weights_, st.integers(1, 12))
def test_size_gives_the_fewest_parts(weights: list[int], size: int) -> None:
    assert len(cut(weights, size=size)) == -(-len(weights) // size)


@settings(deadline=None)
@given(short, st.integers(1, 5), st.integers(1, 5))
def test_no_other_cut_has_a_lighter_heaviest_part(weights: list[int], size: int, count: int) -> None:
    parts = cut(weights, size=size, count=count)
    best = min(
        max(loads([range(a, b) for a, b in pairwise((0, *places, len(weights)))], weights))
        for places in combinations(range(1, len(weights)), len(parts) - 1)
        if all(b - a <= size for a, b in pairwise((0, *places, len(weights))))
    )
    assert max(loads(parts, weights)) == best


def test_the_last_part_is_not_a_left_over() -> None:
    assert [len(part) for part in cut([1] * 101, size=50)] == [34, 34, 33]


def test_parts_are_balanced_by_weight_not_by_number() -> None:
    weights = [100] * 10 + [1] * 1000
    parts = cut(weights, count=2)
    assert max(loads(parts, weights)) == 1000


def test_nothing_gives_no_part() -> None:
    assert cut([], size=3) == []


def test_a_hundred_thousand_items_are_no_trouble() -> None:
    # A cut whose cost grew with the square of the number would not come back.
    assert len(cut(range(100_000), count=5000)) == 5000
