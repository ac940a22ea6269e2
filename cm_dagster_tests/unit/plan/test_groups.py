"""Groups: every value in exactly one, in an order that nothing but the data decides."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cm_dagster.errors import PlanError
from cm_dagster.plan.groups import Count, Limits, expand, explicit_groups, found_groups, natural, whole_group
from cm_dagster.plan.predicates import MAX_TERMS
from cm_dagster_tests.unit.plan.evaluate import holds

VISIT = ("instrument", "visit")
PATCH = ("skymap", "tract", "patch")
some = st.one_of(st.none(), st.integers(1, 10))
limits_ = st.one_of(
    st.builds(Limits, size=some, max_quanta=st.none() | st.integers(1, 60)),
    st.builds(Limits, count=some, max_quanta=st.none() | st.integers(1, 60)),
)
visits = st.dictionaries(
    st.tuples(st.sampled_from(["HSC", "LATISS", "LSSTCam"]), st.integers(0, 60)),
    st.tuples(st.integers(1, 20), st.integers(0, 30)),
    min_size=1,
    max_size=40,
)
patches = st.dictionaries(
    st.tuples(st.sampled_from(["a_rings", "b_rings"]), st.integers(0, 4), st.integers(0, 8)),
    st.tuples(st.integers(1, 20), st.integers(0, 30)),
    min_size=1,
    max_size=40,
)
filters = st.dictionaries(
    st.tuples(
        st.sampled_from(["HSC", "DECam"]), st.sampled_from(["HSC-R", "HSC-R2", "u DECam c1", "N921", "r_03", "i_6"])
    ),
    st.tuples(st.integers(1, 20), st.integers(0, 30)),
    min_size=1,
    max_size=12,
)
found_ = visits | patches | filters


def counts_of(found: dict[tuple[int | str, ...], tuple[int, int]]) -> list[Count]:
    return [Count(row, datasets, quanta) for row, (datasets, quanta) in found.items()]


def columns_of(counts: list[Count]) -> tuple[str, ...]:
    return PATCH if len(counts[0].row) == 3 else VISIT


@settings(deadline=None)
@given(found_, limits_)
def test_every_value_is_selected_by_exactly_one_group(
    found: dict[tuple[int | str, ...], tuple[int, int]], limits: Limits
) -> None:
    counts = counts_of(found)
    columns = columns_of(counts)
    groups = found_groups(
        columns, 1, counts, limits, ["visit > -1" if columns == VISIT and isinstance(counts[0].row[1], int) else ""]
    )
    selected = {
        group.name: [count for count in counts if holds(group.where, dict(zip(columns, count.row, strict=True)))]
        for group in groups
    }
    assert sorted(count.row for part in selected.values() for count in part) == sorted(count.row for count in counts)
    for group in groups:
        part = selected[group.name]
        assert group.size == len(part)
        assert group.datasets == sum(count.datasets for count in part)
        assert len({count.row[0] for count in part}) == 1  # one instrument or skymap
        assert limits.size is None or group.size <= limits.size
        if limits.max_quanta is not None:
            assert group.quanta == sum(count.quanta or 0 for count in part)
            assert group.quanta <= limits.max_quanta or (group.size == 1 and "more than max_quanta" in group.label)
    assert [group.name for group in groups] == [f"g{place:04d}" for place in range(len(groups))]


@settings(deadline=None)
@given(found_, limits_, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(
    found: dict[tuple[int | str, ...], tuple[int, int]], limits: Limits, dice: random.Random
) -> None:
    counts = counts_of(found)
    shuffled = dice.sample(counts, len(counts))
    assert found_groups(columns_of(counts), 1, shuffled, limits) == found_groups(columns_of(counts), 1, counts, limits)


def test_another_process_makes_the_same_groups() -> None:
    code = (
        "from cm_dagster.plan.groups import *\n"
        "names = {f'f{i}' for i in range(50)}\n"
        "counts = [Count(('HSC', name), len(name)) for name in names]\n"
        "print(found_groups(['instrument', 'physical_filter'], 1, counts, Limits(count=7)))"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(answers) == 1
    assert b"f49" in answers.pop()


def test_values_sort_as_people_count() -> None:
    names = ["r10", "r9", "r1", "r01", "i2", "10", "9"]
    assert sorted(names, key=lambda name: natural((name,))) == ["9", "10", "i2", "r01", "r1", "r9", "r10"]


def test_without_limits_each_value_is_a_group() -> None:
    groups = found_groups(VISIT, 1, [Count(("HSC", visit), 3) for visit in (30, 4)], Limits())
    assert [group.where for group in groups] == [
        "(instrument = 'HSC' AND visit = 4)",
        "(instrument = 'HSC' AND visit = 30)",
    ]


def test_a_group_of_found_values_is_one_closed_range() -> None:
    counts = [Count(("HSC", visit), 1) for visit in range(1000, 9000, 2)]
    groups = found_groups(VISIT, 1, counts, Limits(size=2000), ["instrument='HSC'", "visit.exposure_time > 5"])
    assert [group.where for group in groups] == [
        "(instrument='HSC') AND (visit.exposure_time > 5) AND (instrument = 'HSC' AND visit IN (1000..4998))",
        "(instrument='HSC') AND (visit.exposure_time > 5) AND (instrument = 'HSC' AND visit IN (5000..8998))",
    ]
    assert groups[0].label == "instrument HSC, visit 1000..4998 (2000 values)"


def test_max_quanta_makes_more_groups_than_count_asks_for() -> None:
    counts = [Count(("HSC", visit), 1, 10) for visit in range(8)]
    assert len(found_groups(VISIT, 1, counts, Limits(count=2))) == 2
    assert [group.quanta for group in found_groups(VISIT, 1, counts, Limits(count=2, max_quanta=20))] == [20] * 4


def test_listed_values_keep_their_order_and_their_gaps() -> None:
    order = expand(["903336..903338", 7, "9", 8], integers=True)
    counts = [Count(("HSC", visit), 1) for visit in sorted(order)]
    groups = explicit_groups(VISIT, 1, counts, order, Limits(size=4), ["instrument='HSC'"])
    assert [group.where for group in groups] == [
        "(instrument='HSC') AND (instrument = 'HSC' AND visit IN (903336..903338))",
        "(instrument='HSC') AND (instrument = 'HSC' AND visit IN (7..9))",
    ]
    (group,) = explicit_groups(VISIT, 1, [Count(("HSC", 1), 1), Count(("HSC", 5), 1)], [1, 5], Limits(size=2), [])
    assert group.where == "(instrument = 'HSC' AND visit IN (1, 5))"


def test_listed_values_are_one_group_each_by_default() -> None:
    groups = explicit_groups(("band",), 0, [Count((band,), 1) for band in "gri"], list("irg"), Limits())
    assert [group.where for group in groups] == ["(band = 'i')", "(band = 'r')", "(band = 'g')"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 2, 1], "listed twice"),
        (["1..5", 3], "listed twice"),
        (["5..3"], "write it as 3..5"),
        (["r"], "not an integer"),
        (["1..20261231"], "more than 100000 values"),
    ],
)
def test_listed_values_that_cannot_be_meant_are_refused(values: list[int | str], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        expand(values, integers=True)


def test_a_range_of_a_text_dimension_is_text() -> None:
    assert expand(["1..5", 3], integers=False) == ["1..5", "3"]


def test_a_step_that_is_not_cut_is_one_group() -> None:
    (group,) = whole_group(["instrument='HSC'", "visit > 3"])
    assert (group.name, group.where) == ("g0000", "(instrument='HSC') AND (visit > 3)")


def test_a_group_whose_text_values_do_not_fit_says_what_to_do() -> None:
    counts = [Count(("HSC", f"G{place}"), 1) for place in range(2 * MAX_TERMS)]
    with pytest.raises(PlanError, match="make the groups smaller"):
        found_groups(("instrument", "group"), 1, counts, Limits(count=1))
    assert len(found_groups(("instrument", "group"), 1, counts, Limits(size=500))) == 4
