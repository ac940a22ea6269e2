"""Divide the data of a step among sites that take what predicates select, and those that share the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cm_dagster.errors import NoInputsError, PlanError
from cm_dagster.plan.groups import Count, Group, Limits
from cm_dagster.plan.names import group_name
from cm_dagster.plan.predicates import Row

__all__ = ["REST", "divide", "in_turn", "limits_of", "site_predicates"]

REST = ""
"""Stands for the sites with shares, where others are called by their names."""

_EXAMPLES = 5


def site_predicates(wheres: Mapping[str, str]) -> dict[str, str]:
    """Write for each site the predicate of what it takes and no site before it, and for `REST` that of what is left.

    Parameters
    ----------
    wheres
        The predicates of sites, in the order of the file.
    """
    others: list[str] = []
    result = {}
    for site, where in wheres.items():
        result[site] = " AND ".join([f"({where})", *others])
        others.append(f"NOT ({where})")
    return result | {REST: " AND ".join(others)}


def divide(
    columns: Sequence[str], counts: Sequence[Count], taken: Mapping[str, Mapping[Row, int]], *, shared: bool
) -> dict[str, list[Count]]:
    """Give each value of a step to the one site (or `REST`) that takes all of it.

    Parameters
    ----------
    columns
        Names of the columns of the rows.
    counts
        What exists.
    taken
        Number of datasets of each value that the predicate of each site, and of `REST`, selects.
    shared
        Whether there are sites with shares, which take the rest.

    Returns
    -------
    parts
        What each takes, in the order of ``taken`` and of ``counts``.

    Raises
    ------
    NoInputsError
        If there are values that nobody takes.
    PlanError
        If the predicates divide a value: its data would be processed in two groups, or some of them in none.
    """
    parts: dict[str, list[Count]] = {site: [] for site in taken}
    nobody, divided = [], []
    for count in counts:
        takers = [site for site in taken if count.row in taken[site]]
        if not takers or (takers == [REST] and not shared):
            nobody.append(count.row)
        elif len(takers) > 1 or taken[takers[0]][count.row] != count.datasets:
            divided.append(count.row)
        else:
            parts[takers[0]].append(count)
    if nobody:
        raise NoInputsError(
            f"no site takes {len(nobody)} of {len(counts)} values: {_examples(columns, nobody)}",
            advice="give a site of the campaign or the step (`sites`) a share, or a `where` that selects them",
        )
    if divided:
        raise PlanError(
            f"the `where` of sites divides {len(divided)} of {len(counts)} values: {_examples(columns, divided)}",
            advice=f"give the step `sites` of its own: shares, or a `where` that selects each {columns[-1]} as a whole",
        )
    return parts


def _examples(columns: Sequence[str], rows: Sequence[Row]) -> str:
    texts = [", ".join(f"{column} {value}" for column, value in zip(columns, row, strict=True)) for row in rows]
    return "; ".join(texts[:_EXAMPLES]) + ("; ..." if len(texts) > _EXAMPLES else "")


def limits_of(limits: Limits, part: Sequence[Count], whole: Sequence[Count]) -> Limits:
    """Give a part of a step its part of the number of groups that are wanted, by its datasets; at least one."""
    if limits.count is None:
        return limits
    ours, total = (sum(count.datasets for count in counts) for counts in (part, whole))
    return replace(limits, count=max(1, round(limits.count * ours / max(1, total))))


def in_turn(parts: Sequence[Sequence[Group]]) -> list[Group]:
    """Put the groups of several parts into one order of submission, each part spread evenly over it, and name them."""
    places = [
        ((2 * place + 1) / (2 * len(groups)), number, group)
        for number, groups in enumerate(parts)
        for place, group in enumerate(groups)
    ]
    ordered = [group for _, _, group in sorted(places, key=lambda item: item[:2])]
    return [replace(group, name=group_name(place, len(ordered))) for place, group in enumerate(ordered)]
