"""Predicates in Butler's expression language that select the values of a group, safe to pass through BPS.

BPS pastes a predicate into a command line (``-d "{dataQuery}"``) and splits that by shell rules after it has replaced
variables. So values stand in single quotes, and what BPS or Butler would read as something else is refused: Butler's
language has no escape for a single quote, BPS eats double quotes and backslashes and substitutes ``{}`` and ``$``.

A predicate must stay short: one argument of a command line holds 128 KiB, and SQLite refuses expressions that are
nested more than 1000 deep, which a list of 1000 values is (Butler makes an ``OR`` of it). Hence closed ranges, each of
which counts as one term.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from cm_dagster.errors import PlanError

__all__ = ["MAX_LENGTH", "MAX_TERMS", "Row", "Value", "checked", "joined", "one_of", "quoted", "select", "span"]

Value = int | str
"""Value of a dimension."""

Row = tuple[Value, ...]
"""Values of a group's columns (its dimension with those it requires), in the order of the columns."""

MAX_LENGTH = 100_000
"""Longest predicate in bytes; Linux allows 131,072 for one argument of a command line."""

MAX_TERMS = 800
"""Most values and ranges in one predicate; SQLite takes 1000 with everything else in the statement."""

_REFUSED = "'\"{}$\\"


def quoted(value: Value) -> str:
    """Write a value as a literal of Butler's expression language.

    Raises
    ------
    PlanError
        If the value cannot be written, or would not survive the way through BPS.
    """
    if isinstance(value, int):
        return str(int(value))
    if any(char in _REFUSED or not char.isprintable() for char in value) or "<ENV:" in value or "bpsEval" in value:
        raise PlanError(
            f"the value {value!r} cannot be used in a predicate",
            advice="select these data by another dimension, or by a range of another column in `where`",
        )
    return f"'{value}'"


def joined(*parts: str) -> str:
    """Combine predicates that must all hold; empty ones are left out."""
    return " AND ".join(f"({part.strip()})" for part in parts if part.strip())


def one_of(column: str, values: Sequence[Value]) -> str:
    """Select exactly some values; three or more consecutive integers are written as a closed range.

    Parameters
    ----------
    column
        Name of the dimension.
    values
        The values, at least one, in any order.
    """
    numbers = sorted({value for value in values if isinstance(value, int)})
    texts = dict.fromkeys(value for value in values if isinstance(value, str))
    terms = [*_runs(numbers), *map(quoted, texts)]
    return f"{column} = {terms[0]}" if len(terms) == 1 and ".." not in terms[0] else f"{column} IN ({', '.join(terms)})"


def span(column: str, values: Sequence[Value]) -> str:
    """Select some values that no other existing value lies between: one closed range for integers.

    Parameters
    ----------
    column
        Name of the dimension.
    values
        The values, at least one. Text has no ranges in Butler's language and is listed.
    """
    if all(isinstance(value, int) for value in values) and len(set(values)) > 1:
        return f"{column} IN ({min(values)}..{max(values)})"
    return one_of(column, values)


def select(columns: Sequence[str], rows: Sequence[Row], before: Row | None = None, after: Row | None = None) -> str:
    """Select a contiguous part of an ordered list of rows, and no other row of that list.

    Parameters
    ----------
    columns
        Names of the columns.
    rows
        The part, at least one row, in the order of the list.
    before, after
        The rows of the list just before and just after the part; None at its ends.
    """
    if len(columns) == 1:
        return span(columns[0], [row[0] for row in rows])
    heads = {head: [row[1:] for row in part] for head, part in groupby(rows, key=lambda row: row[0])}
    cut_low = before is not None and before[0] == rows[0][0]
    cut_high = after is not None and after[0] == rows[-1][0]
    parts: list[str] = []
    whole: list[Value] = []
    for head, tails in heads.items():
        low = before[1:] if before is not None and cut_low and head == rows[0][0] else None
        high = after[1:] if after is not None and cut_high and head == rows[-1][0] else None
        if low is None and high is None:
            whole.append(head)
        else:
            parts.append(_both(span(columns[0], [head]), select(columns[1:], tails, low, high)))
    if whole:
        inner = sorted({tail for head in whole for tail in heads[head]})
        parts.append(_both(span(columns[0], whole), _box(columns[1:], inner)))
    return parts[0] if len(parts) == 1 else " OR ".join(f"({part})" for part in parts)


def _box(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """Bound each column alone: enough where all existing rows under the heads belong to the group."""
    return " AND ".join(span(column, [row[place] for row in rows]) for place, column in enumerate(columns))


def _both(head: str, rest: str) -> str:
    return f"{head} AND ({rest})" if " OR " in rest else f"{head} AND {rest}"


def _terms(predicate: str) -> int:
    """Count the values and ranges that a predicate made here lists."""
    return predicate.count(",") + predicate.count(" = ") + predicate.count(" IN ")


def checked(predicate: str) -> str:
    """Return a predicate that is short enough.

    Raises
    ------
    PlanError
        If it is longer than BPS can pass on, or lists more than Butler can take.
    """
    length, listed = len(predicate.encode()), _terms(predicate)
    if length <= MAX_LENGTH and listed <= MAX_TERMS:
        return predicate
    raise PlanError(
        f"a group's predicate has {length} bytes and lists {listed} values and ranges;"
        f" at most {MAX_LENGTH} bytes and {MAX_TERMS} can be passed on",
        advice="make the groups smaller (`size`), or group by a dimension with integer values, which takes ranges",
    )


def _runs(numbers: Sequence[int]) -> Iterator[str]:
    """Write ordered integers one by one, runs of three or more as closed ranges."""
    for _, part in groupby(enumerate(numbers), key=lambda item: item[1] - item[0]):
        run = [number for _, number in part]
        if len(run) > 2:
            yield f"{run[0]}..{run[-1]}"
        else:
            yield from map(str, run)
