"""Predicates: Butler's own parser reads out of them what was put in, and nothing that BPS would change is in them."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cm_dagster.errors import PlanError
from cm_dagster.plan.predicates import MAX_LENGTH, MAX_TERMS, Row, checked, joined, one_of, quoted, select, span
from cm_dagster_tests.unit.plan.evaluate import holds

texts = st.text(
    st.characters(exclude_categories=("C", "Z"), exclude_characters="'\"{}$\\"), min_size=1, max_size=12
) | st.sampled_from(
    ["HSC-R2", "u DECam c0006 3500.0 1000.0", "empty~r", "2026-01-01T00:00:00.0#1", " AND ", " OR x", "1..5"]
)
numbers = st.integers(-(10**6), 10**12)
values = st.lists(texts, min_size=1, max_size=15) | st.lists(numbers | st.integers(0, 30), min_size=1, max_size=30)


@settings(deadline=None)
@given(texts | numbers)
def test_a_value_is_read_back_as_it_was(value: int | str) -> None:
    assert holds(f"x = {quoted(value)}", {"x": value})


@settings(deadline=None)
@given(values, texts | numbers)
def test_one_of_selects_its_values_and_no_other(chosen: list[int | str], other: int | str) -> None:
    predicate = one_of("x", chosen)
    for value in [*chosen, other]:
        assert type(value) is not type(chosen[0]) or holds(predicate, {"x": value}) == (value in chosen)


@pytest.mark.parametrize("char", ["'", '"', "{", "}", "$", "\\", "\n", "\x00", "<ENV:HOME>", "bpsEval(f, 1)"])
def test_values_that_would_be_read_as_something_else_are_refused(char: str) -> None:
    with pytest.raises(PlanError, match="cannot be used in a predicate"):
        quoted(f"r{char}")


def test_consecutive_integers_are_closed_ranges() -> None:
    assert one_of("visit", [3, 1, 2, 7, 8, 10]) == "visit IN (1..3, 7, 8, 10)"
    assert one_of("visit", [5]) == "visit = 5"
    assert one_of("visit", [5, 6, 7]) == "visit IN (5..7)"
    assert span("visit", [5, 90, 7]) == "visit IN (5..90)"
    assert span("band", ["r", "i"]) == "band IN ('r', 'i')"


def test_predicates_are_combined_with_parentheses() -> None:
    assert joined("a=1 OR b=2", "", " c=3 ") == "(a=1 OR b=2) AND (c=3)"
    assert joined("", " ") == ""


def test_a_predicate_goes_through_the_shell_rules_of_bps_unchanged() -> None:
    predicate = joined(one_of("physical_filter", ["HSC-R", "a b#c;d&e|f`g(h)!~*?"]), span("visit", [1, 2]))
    assert shlex.split(f'pipetask -d "{predicate}"') == ["pipetask", "-d", predicate]


rows3 = st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(-2, 4)), min_size=1, max_size=60)
rows2 = st.sets(st.tuples(st.sampled_from("gri"), st.integers(0, 9)), min_size=1, max_size=20)
texts2 = st.sets(st.tuples(st.integers(0, 5), st.sampled_from("gri")), min_size=1, max_size=15)


@settings(deadline=None)
@given(rows3 | rows2 | texts2, st.data())
def test_a_part_of_a_list_is_selected_exactly(found: set[Row], data: st.DataObject) -> None:
    rows = sorted(found)
    columns = ["tract", "patch", "cell"][: len(rows[0])]
    start = data.draw(st.integers(0, len(rows) - 1))
    stop = data.draw(st.integers(start + 1, len(rows)))
    before, after = (rows[start - 1] if start else None), (rows[stop] if stop < len(rows) else None)
    predicate = select(columns, rows[start:stop], before, after)
    selected = [row for row in rows if holds(predicate, dict(zip(columns, row, strict=True)))]
    assert selected == rows[start:stop]


def test_thousands_of_patches_need_a_short_predicate() -> None:
    rows: list[Row] = [(tract, patch) for tract in range(200) for patch in range(81)]
    assert len(select(["tract", "patch"], rows[5:-5], rows[4], rows[-5])) < 150


def test_a_predicate_that_butler_or_the_command_line_would_refuse_is_refused_here() -> None:
    many = one_of("visit", range(0, 2 * MAX_TERMS, 2))
    assert checked(many) == many
    with pytest.raises(PlanError, match="make the groups smaller"):
        checked(joined("instrument='HSC'", one_of("visit", range(0, 2 * MAX_TERMS + 2, 2))))
    with pytest.raises(PlanError, match="bytes"):
        checked(f"target_name = '{'x' * MAX_LENGTH}'")
