"""Cut an ordered sequence into contiguous, balanced parts under limits. Pure arithmetic: it knows weights and places.

All limits have the same form: from a place on, a part may reach at most to another place, which never moves back as
the start moves on. So taking as much as possible each time gives the fewest parts, and the least maximal weight is
found by bisection over what a part may weigh.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

__all__ = ["cut"]


def cut(
    weights: Sequence[int],
    *,
    size: int | None = None,
    count: int | None = None,
    costs: Sequence[int] | None = None,
    max_cost: int | None = None,
    blocks: Sequence[object] | None = None,
) -> list[range]:
    """Cut a sequence into contiguous parts so that the heaviest part is as light as possible.

    The number of parts is the least that the limits allow, or ``count`` if that is more.

    Parameters
    ----------
    weights
        Weight of each item, at least 0, in order; what is balanced.
    size
        Most items in a part.
    count
        Number of parts wanted; there are never more parts than items.
    costs, max_cost
        Cost of each item and the most that a part may cost. An item that costs more is a part by itself.
    blocks
        A label for each item; items with different labels never share a part.

    Returns
    -------
    parts
        Places of each part, in order: every item is in exactly one part, and no part is empty.
    """
    if not weights:
        return []
    reach = _reach(len(weights), size, costs, max_cost, blocks)
    heap = [0, *accumulate(weights)]
    least = _fewest(reach, heap, heap[-1])
    parts = max(least, min(count or 1, len(weights)))
    if parts == len(weights):
        return [range(place, place + 1) for place in range(len(weights))]
    low, high = max(weights), heap[-1]
    while low < high:
        middle = (low + high) // 2
        if _fewest(reach, heap, middle) <= parts:
            high = middle
        else:
            low = middle + 1
    return _evenly(reach, heap, low, parts)


def _reach(
    length: int,
    size: int | None,
    costs: Sequence[int] | None,
    max_cost: int | None,
    blocks: Sequence[object] | None,
) -> list[int]:
    """Give, for each place, the end of the longest part that may start there, weight aside."""
    reach = [length] * length
    if size is not None:
        reach = [min(end, place + size) for place, end in enumerate(reach)]
    if costs is not None and max_cost is not None:
        sums = [0, *accumulate(costs)]
        reach = [min(end, _end(sums, place, end, max_cost)) for place, end in enumerate(reach)]
    if blocks is not None:
        border = length
        for place in range(length - 1, -1, -1):
            if place + 1 < length and blocks[place] != blocks[place + 1]:
                border = place + 1
            reach[place] = min(reach[place], border)
    return reach


def _end(sums: Sequence[int], start: int, stop: int, most: int) -> int:
    """Find how far a part may go until its sum is more than ``most``; one item always fits."""
    return max(start + 1, bisect_right(sums, sums[start] + most, start, stop + 1) - 1)


def _fewest(reach: Sequence[int], heap: Sequence[int], most: int) -> int:
    """Count the parts needed if none may weigh more than ``most``."""
    parts = place = 0
    while place < len(reach):
        place = _end(heap, place, reach[place], most)
        parts += 1
    return parts


def _evenly(reach: Sequence[int], heap: Sequence[int], most: int, parts: int) -> list[range]:
    """Cut into a given number of parts of at most a given weight, each near to its share of what is left."""
    length = len(reach)
    ends = [_end(heap, place, reach[place], most) for place in range(length)]
    needed = [0] * (length + 1)
    for place in range(length - 1, -1, -1):
        needed[place] = 1 + needed[ends[place]]
    result: list[range] = []
    start = 0
    for left in range(parts, 0, -1):
        first = bisect_left(needed, 1 - left, start + 1, key=lambda value: -value)
        last = min(ends[start], length - left + 1)
        share = heap[start] + (heap[-1] - heap[start]) / left
        end = bisect_left(heap, share, first, last)
        if end > first and share - heap[end - 1] < heap[end] - share:
            end -= 1
        result.append(range(start, end))
        start = end
    return result
