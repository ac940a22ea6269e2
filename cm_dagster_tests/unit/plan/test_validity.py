"""Times that validity ranges leave out, against a look at every pair."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cm_dagster.plan.validity import ALWAYS, Span, gaps, within

_spans = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda one: (one[0], one[0] + one[1])))


@given(_spans, _spans)
def test_a_time_is_left_out_if_it_overlaps_no_range(taken: list[Span], valid: list[Span]) -> None:
    times = sorted(taken)
    alone = [
        place
        for place, (begin, end) in enumerate(times)
        if not any(begin < last and first < end for first, last in valid)
    ]
    assert within(times, gaps(valid)) == alone


@given(_spans)
def test_gaps_and_ranges_fill_all_times_once(valid: list[Span]) -> None:
    holes = gaps(valid)
    moments = range(-1, 82)
    for moment in moments:
        in_hole = sum(first <= moment < last for first, last in holes)
        assert in_hole + any(first <= moment < last for first, last in valid) == 1


def test_without_end_there_is_no_gap_behind() -> None:
    assert gaps([(5, ALWAYS[1])]) == ((ALWAYS[0], 5),)
    assert gaps([ALWAYS]) == ()
    assert gaps([]) == (ALWAYS,)
