"""Which times the validity ranges of calibrations leave out: nanoseconds on one scale, as Butler has them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

__all__ = ["ALWAYS", "Span", "gaps", "within"]

type Span = tuple[int, int]
"""Begin and end; the end is not part of it."""

ALWAYS: Span = (-(2**63), 2**63)


def gaps(valid: Iterable[Span]) -> tuple[Span, ...]:
    """Give what no range covers, in order of time.

    Parameters
    ----------
    valid
        The ranges, in any order; they may overlap.
    """
    found, reached = [], ALWAYS[0]
    for begin, end in sorted(valid):
        if begin > reached:
            found.append((reached, begin))
        reached = max(reached, end)
    return (*found, (reached, ALWAYS[1])) if reached < ALWAYS[1] else tuple(found)


def within(times: Sequence[Span], holes: Iterable[Span]) -> list[int]:
    """Find the times that lie in a gap from begin to end: those that overlap no range at all.

    Parameters
    ----------
    times
        The times, in order of their begins.
    holes
        The gaps.

    Returns
    -------
    places
        Places of the times found, in order. The cost grows with what is found, not with the number of times.
    """
    found: list[int] = []
    for begin, end in holes:
        first, last = bisect_left(times, (begin,)), bisect_left(times, (end,))
        found += [place for place in range(first, last) if times[place][1] <= end]
    return found
