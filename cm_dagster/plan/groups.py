"""How a step's data are cut into groups.

What exists comes in as counts per value (from a Butler, or invented); what goes out are groups with names, predicates
and sizes. Nothing here depends on the order of the input, on the process or on the time: the same data give the same
groups, so that a plan can be made again after a crash.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cm_dagster.errors import PlanError
from cm_dagster.plan.cuts import cut
from cm_dagster.plan.names import group_name
from cm_dagster.plan.predicates import Row, Value, checked, joined, one_of, select

__all__ = ["Count", "Group", "Limits", "expand", "explicit_groups", "found_groups", "natural", "whole_group"]

MAX_VALUES = 100_000
"""Most explicit values of a step: a slip in a range (``1..20261231``) must not fill the memory."""

_RANGE = re.compile(r"\s*(-?\d+)\s*\.\.\s*(-?\d+)\s*")


@dataclass(frozen=True)
class Group:
    """A slice of a step's data, which one workflow processes."""

    name: str
    """Name, e.g. ``g0007``: also its partition key, and its place in the order of submission."""
    where: str
    """Complete predicate (campaign, step and group) for BPS's ``dataQuery``."""
    size: int
    """Number of values of the grouping dimension; 0 for a step that is not cut."""
    quanta: int | None
    """Estimated number of quanta; None if nobody asked for an estimate."""
    label: str
    """What is in the group, for people."""
    site: str = ""
    """Site that processes the group; empty until groups are allocated."""
    datasets: int = 0
    """Number of datasets that feed the group; groups are balanced by it."""
    first: int = 1
    """Number of its first attempt at its site: more than 1 where it was moved there after attempts elsewhere, so that
    no two attempts at a group ever have one name."""
    moved: bool = False
    """Whether a person has moved it to its site; a plan that is made anew leaves it there."""


@dataclass(frozen=True)
class Count:
    """What exists for one value of the grouping dimension."""

    row: Row
    """Values of the group's columns: governors first (instrument, skymap), the dimension last."""
    datasets: int
    """Number of datasets, or 1 if values alone are counted."""
    quanta: int | None = None
    """Estimated number of quanta."""


@dataclass(frozen=True)
class Limits:
    """How large groups may be; without any, each value is a group."""

    size: int | None = None
    """Most values in a group."""
    count: int | None = None
    """Number of groups; fewer if there are fewer values, more if ``max_quanta`` asks for more."""
    max_quanta: int | None = None
    """Most quanta in a group, by estimate; a single value above it is a group by itself."""


def natural(row: Row) -> tuple[tuple[tuple[int, int, str], ...], ...]:
    """Give the key that sorts rows as people count: integers by value, text with its numbers as numbers."""
    return tuple(_natural_value(value) for value in row)


def _natural_value(value: Value) -> tuple[tuple[int, int, str], ...]:
    if isinstance(value, int):
        return ((0, value, ""),)
    parts = re.split(r"([0-9]+)", value)
    # The text itself comes last: a01 and a1 differ, and must not change places from run to run.
    return (*((0, int(part), "") if place % 2 else (1, 0, part) for place, part in enumerate(parts)), (2, 0, value))


def whole_group(wheres: Sequence[str]) -> list[Group]:
    """Make the only group of a step that is not cut.

    Parameters
    ----------
    wheres
        Predicates of campaign and step.
    """
    return [Group(group_name(0, 1), checked(joined(*wheres)), 0, None, "all data of the step")]


def found_groups(
    columns: Sequence[str], governors: int, counts: Iterable[Count], limits: Limits, wheres: Sequence[str] = ()
) -> list[Group]:
    """Cut the values that were found into groups; each group is a closed range of them.

    Parameters
    ----------
    columns
        Names of the columns of the rows.
    governors
        How many of the columns, from the first, are governor dimensions; groups never span two of their values.
    counts
        What exists, in any order, each row once.
    limits
        How large groups may be.
    wheres
        Predicates of campaign and step; the group's predicate follows them.

    Returns
    -------
    groups
        In natural order of the values; every value is in exactly one group.

    Raises
    ------
    PlanError
        If a value cannot be written in a predicate, or a predicate becomes too long.
    """
    ordered = sorted(counts, key=lambda count: natural(count.row))
    predicates: list[str] = []
    parts = _cut(ordered, governors, limits)
    for part in parts:
        rows = [count.row[governors:] for count in ordered[part.start : part.stop]]
        head = ordered[part.start].row[:governors]
        before = _neighbour(ordered, part.start - 1, head)
        after = _neighbour(ordered, part.stop, head)
        predicates.append(_with_governors(columns, head, select(columns[governors:], rows, before, after)))
    chosen = [[ordered[place] for place in part] for part in parts]
    return _named(columns, chosen, predicates, limits, wheres)


def explicit_groups(
    columns: Sequence[str],
    governors: int,
    counts: Iterable[Count],
    order: Sequence[Value],
    limits: Limits,
    wheres: Sequence[str] = (),
) -> list[Group]:
    """Make groups of values that the campaign file lists, in its order; each predicate selects these values alone.

    Parameters
    ----------
    columns
        Names of the columns of the rows: governors, then the dimension.
    governors
        How many of the columns are governor dimensions.
    counts
        What exists for the listed values, in any order.
    order
        The listed values.
    limits
        How large groups may be.
    wheres
        Predicates of campaign and step; the group's predicate follows them.

    Returns
    -------
    groups
        In the order of the governors, then of the list.

    Raises
    ------
    PlanError
        If a value cannot be written in a predicate, or a predicate becomes too long.
    """
    place = {value: index for index, value in enumerate(order)}
    ordered = sorted(counts, key=lambda count: (natural(count.row[:governors]), place[count.row[-1]]))
    chosen = [[ordered[index] for index in part] for part in _cut(ordered, governors, limits)]
    predicates = [
        _with_governors(columns, part[0].row[:governors], one_of(columns[-1], [count.row[-1] for count in part]))
        for part in chosen
    ]
    return _named(columns, chosen, predicates, limits, wheres)


def expand(values: Sequence[Value], *, integers: bool) -> list[Value]:
    """Write out explicit values of a dimension.

    Parameters
    ----------
    values
        Integers, text, and closed ranges of integers such as ``"3..5"``.
    integers
        Whether the dimension's values are integers; a range is meant only then.

    Returns
    -------
    values
        Each value once, in the order given.

    Raises
    ------
    PlanError
        If a value is of the wrong type or listed twice, a range is empty, or there are too many values.
    """
    result: dict[Value, None] = {}
    for value in values:
        for one in _expanded(value) if integers else [str(value)]:
            if one in result:
                raise PlanError(f"the value {one!r} is listed twice", advice="list each value of `group_by` once")
            if len(result) >= MAX_VALUES:
                raise PlanError(
                    f"more than {MAX_VALUES} values are listed",
                    advice="let `group_by` find the values: name a `dataset`, and limit them by `where`",
                )
            result[one] = None
    return list(result)


def _expanded(value: Value) -> Iterable[int]:
    if isinstance(value, int):
        return [value]
    if bounds := _RANGE.fullmatch(value):
        first, last = int(bounds[1]), int(bounds[2])
        if first > last:
            raise PlanError(f"the range {value!r} is empty", advice=f"write it as {last}..{first}")
        return range(first, last + 1)
    try:
        return [int(value)]
    except ValueError:
        raise PlanError(
            f"{value!r} is not an integer, as the values of the dimension are",
            advice="write integers, or closed ranges such as '3..5'",
        ) from None


def _cut(ordered: Sequence[Count], governors: int, limits: Limits) -> list[range]:
    unlimited = limits.size is None and limits.count is None and limits.max_quanta is None
    return cut(
        [count.datasets for count in ordered],
        size=1 if unlimited else limits.size,
        count=limits.count,
        costs=[count.quanta or 0 for count in ordered],
        max_cost=limits.max_quanta,
        blocks=[count.row[:governors] for count in ordered],
    )


def _neighbour(ordered: Sequence[Count], place: int, head: Row) -> Row | None:
    """Give the row at a place without its governors; None if there is none under the same governors."""
    if not 0 <= place < len(ordered) or ordered[place].row[: len(head)] != head:
        return None
    return ordered[place].row[len(head) :]


def _with_governors(columns: Sequence[str], head: Row, values: str) -> str:
    governed = [one_of(column, [value]) for column, value in zip(columns, head, strict=False)]
    return " AND ".join([*governed, f"({values})" if governed and " OR " in values else values])


def _named(
    columns: Sequence[str],
    parts: Sequence[Sequence[Count]],
    predicates: Sequence[str],
    limits: Limits,
    wheres: Sequence[str],
) -> list[Group]:
    return [
        Group(
            name=group_name(place, len(parts)),
            where=checked(joined(*wheres, predicate)),
            size=len(part),
            quanta=None if limits.max_quanta is None else sum(count.quanta or 0 for count in part),
            label=_label(columns, part, limits),
            datasets=sum(count.datasets for count in part),
        )
        for place, (part, predicate) in enumerate(zip(parts, predicates, strict=True))
    ]


def _label(columns: Sequence[str], part: Sequence[Count], limits: Limits) -> str:
    """Say what is in a group: its first and last value, and whether it is larger than it should be."""
    first, last = part[0].row, part[-1].row
    same = next((place for place in range(len(columns)) if first[place] != last[place]), len(columns))
    words = [_words(columns[:same], first[:same])] if same else []
    if same + 1 == len(columns):
        words.append(f"{columns[-1]} {first[-1]}..{last[-1]}")
    elif same < len(columns):
        words.append(f"{_words(columns[same:], first[same:])} to {_words(columns[same:], last[same:])}")
    if len(part) > 1:
        words[-1] += f" ({len(part)} values)"
    quanta = sum(count.quanta or 0 for count in part)
    if limits.max_quanta is not None and quanta > limits.max_quanta:
        words.append(f"one value of {quanta} quanta, more than max_quanta {limits.max_quanta}")
    return ", ".join(words)


def _words(columns: Sequence[str], row: Row) -> str:
    return ", ".join(f"{column} {value}" for column, value in zip(columns, row, strict=True))
