"""Which site processes which group: shares kept at every moment of a step, and moves that bring them back.

All sums are exact (integers and fractions of the shares as they are written), so that every machine finds the same.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, lcm

from cm_dagster.errors import PlanError
from cm_dagster.plan.groups import Group

__all__ = ["Move", "SiteTotal", "allocate", "measure_of", "rebalance", "site_totals"]

type Move = tuple[Group, str, str]
"""A group, the site where it is, and the one where it should go."""

_MEASURES: tuple[tuple[str, Callable[[Group], int]], ...] = (
    ("quanta", lambda group: group.quanta or 0),
    ("datasets", lambda group: group.datasets),
    ("values", lambda group: group.size),
)


def measure_of(groups: Sequence[Group]) -> tuple[str, list[int]]:
    """Choose by what groups are balanced, and weigh each.

    Returns
    -------
    unit
        ``quanta``, ``datasets``, ``values`` or ``groups``: the first of them that is known of the groups.
    weights
        Weight of each group, at least 1: even a group of no quanta is a workflow.
    """
    for unit, weigh in _MEASURES:
        if any(map(weigh, groups)) and (unit != "quanta" or all(group.quanta is not None for group in groups)):
            return unit, [max(1, weigh(group)) for group in groups]
    return "groups", [1] * len(groups)


def allocate(groups: Sequence[Group], shares: Mapping[str, float]) -> list[Group]:
    """Share groups out to sites: each goes to the site that is furthest below its share then.

    After every group, ``load - share * total`` of each of ``n`` sites is at most ``(1 - 1/n) * W`` and at least
    ``-(1/2 + 1/3 + ... + 1/n) * W``, where ``W`` is the heaviest group so far (0.5 ``W`` for two sites, 1.1 ``W`` for
    four). For before a group of weight ``w`` is given away the sites lack ``w`` together, hence the furthest at least
    ``w / n``; and the ``k`` sites that lack most lack more afterwards only if another one was served, which then lacked
    no less: so their mean grows to at most that of ``k + 1`` sites and ``w / (k + 1)``, and the mean of all is 0.

    Parameters
    ----------
    groups
        The groups, in order of submission.
    shares
        Share of each site; only their ratios count. A site of share 0 gets nothing.

    Returns
    -------
    groups
        The same in the same order, each with its site.

    Raises
    ------
    PlanError
        If no site has a share.
    """
    parts = _parts(shares)
    whole = sum(parts.values())
    loads, total, result = dict.fromkeys(parts, 0), 0, []
    for group, weight in zip(groups, measure_of(groups)[1], strict=True):
        total += weight
        site = max(parts, key=lambda name: parts[name] * total - loads[name] * whole)
        loads[site] += weight
        result.append(replace(group, site=site))
    return result


def _parts(shares: Mapping[str, float]) -> dict[str, int]:
    """Write the shares as whole numbers of the same ratios, without those of 0; as decimals, which 0.1 is meant as."""
    exact = {site: Fraction(str(share)) for site, share in shares.items() if share > 0}
    if not exact:
        raise PlanError("no site has a share of the groups", advice="give at least one site a share above 0")
    unit = lcm(*(share.denominator for share in exact.values()))
    return {site: int(share * unit) for site, share in exact.items()}


def rebalance(groups: Sequence[Group], shares: Mapping[str, float], fixed: Mapping[str, str]) -> list[Move]:
    """Find the moves that bring the loads of sites to their shares, few and each for the better.

    Sites without a share are emptied first, the heaviest groups before others, each to the site that lacks most then.
    After that the one group goes from a site that has too much to one that lacks which brings both nearest to what
    they should have, until no group would; where several are alike it is the last one in the order of submission.

    Parameters
    ----------
    groups
        All groups of the step, in order of submission, each with its site.
    shares
        Share of each site; only their ratios count. A site of share 0, or without one, keeps nothing that is free.
    fixed
        Groups that stay, by name, with the site where they are: they count as its load.

    Returns
    -------
    moves
        In the order of the groups; empty if nothing would be better.

    Raises
    ------
    PlanError
        If no site has a share.
    """
    weights = {group.name: weight for group, weight in zip(groups, measure_of(groups)[1], strict=True)}
    at = {group.name: fixed.get(group.name, group.site) for group in groups}
    free = [group.name for group in groups if group.name not in fixed]
    excess = {site: -wanted for site, wanted in _targets(shares, weights, at, set(free)).items()}
    for name, site in at.items():
        if site in excess:
            excess[site] += weights[name]
    for name in sorted((name for name in free if at[name] not in excess), key=lambda name: -weights[name]):
        at[name] = min(excess, key=lambda site: excess[site])
        excess[at[name]] += weights[name]
    _even_out(excess, at, {name: weights[name] for name in free})
    return [(group, group.site, at[group.name]) for group in groups if group.name not in fixed and _moved(group, at)]


def _moved(group: Group, at: Mapping[str, str]) -> bool:
    return at[group.name] != group.site


def _targets(
    shares: Mapping[str, float], weights: Mapping[str, int], at: Mapping[str, str], free: set[str]
) -> dict[str, Fraction]:
    """Give the load that each site with a share should have.

    What stays at a site that has more than its share of all leaves the less for the others, whose shares hold among
    them.
    """
    parts = _parts(shares)
    stay = dict.fromkeys(parts, 0)
    for name, site in at.items():
        if name not in free and site in stay:
            stay[site] += weights[name]
    loose = sum(weights[name] for name in free)
    targets: dict[str, Fraction] = {}
    while True:
        rest = [site for site in parts if site not in targets]
        total = loose + sum(stay[site] for site in rest)
        wanted = {site: Fraction(parts[site] * total, sum(parts[other] for other in rest)) for site in rest}
        full = {site: Fraction(stay[site]) for site in rest if stay[site] > wanted[site]}
        if not full:
            return targets | wanted
        targets |= full


def _even_out(excess: dict[str, Fraction], at: dict[str, str], weights: Mapping[str, int]) -> None:
    """Move free groups, one by one, from sites that have too much to those that lack, as long as it helps."""
    order = {name: place for place, name in enumerate(weights)}
    kept: dict[str, list[tuple[int, int, str]]] = {site: [] for site in excess}
    for name, weight in weights.items():
        kept[at[name]].append((weight, -order[name], name))
    for names in kept.values():
        names.sort()
    while best := _best(excess, kept):
        site, other, place = best
        weight, rank, name = kept[site].pop(place)
        insort(kept[other], (weight, rank, name))
        at[name] = other
        excess[site] -= weight
        excess[other] += weight


def _best(
    excess: Mapping[str, Fraction], kept: Mapping[str, Sequence[tuple[int, int, str]]]
) -> tuple[str, str, int] | None:
    """Find the move that takes most off the sum of squares of what sites have too much or lack; None if none does."""
    found: tuple[Fraction, str, str, int] | None = None
    for site in (site for site in excess if excess[site] > 0):
        for other in (other for other in excess if excess[other] < 0):
            gap = excess[site] - excess[other]
            for place in _near(kept[site], ceil(gap / 2)):
                weight = kept[site][place][0]
                gain = 2 * weight * (gap - weight)
                if gain > 0 and (found is None or gain > found[0]):
                    found = (gain, site, other, place)
    return found and found[1:]


def _near(names: Sequence[tuple[int, int, str]], weight: int) -> list[int]:
    """Give the places of the groups just below a weight and just not; of those alike the last in submission."""
    above = bisect_left(names, weight, key=lambda item: item[0])
    places = [above] if above < len(names) else []
    if above:
        places.append(bisect_left(names, names[above - 1][0], key=lambda item: item[0]))
    return places


@dataclass(frozen=True)
class SiteTotal:
    """What a site has of a step."""

    site: str
    groups: int
    """Number of its groups."""
    amount: int
    """Sum of their weights."""
    unit: str
    """What was weighed, as of `measure_of`."""
    wanted: float | None
    """Fraction that its share is of all shares; None for a site that takes what a predicate selects."""
    got: float | None
    """Fraction that it has of what all sites with shares have."""

    def __str__(self) -> str:
        groups = f"{self.groups} group{'' if self.groups == 1 else 's'}"
        text = groups if self.unit == "groups" else f"{groups}, {self.amount} {self.unit}"
        if self.wanted is None or self.got is None:
            return f"{self.site}: {text}"
        return f"{self.site}: {text}, {self.got:.1%} of what is shared (wanted: {self.wanted:.1%})"


def site_totals(groups: Sequence[Group], sites: Sequence[str], shares: Mapping[str, float]) -> list[SiteTotal]:
    """Add up what sites have of a step, beside what they should have.

    Parameters
    ----------
    groups
        The groups of the step, each with its site.
    sites
        Sites that are shown in any case, in this order; others that have groups follow.
    shares
        Shares of those sites that have one.
    """
    unit, weights = measure_of(groups)
    loads = dict.fromkeys((*sites, *shares, *(group.site for group in groups)), 0)
    for group, weight in zip(groups, weights, strict=True):
        loads[group.site] += weight
    whole, shared = sum(shares.values()), sum(loads[site] for site in shares)
    return [
        SiteTotal(
            site,
            sum(group.site == site for group in groups),
            load,
            unit,
            shares[site] / whole if site in shares else None,
            load / shared if site in shares and shared else None,
        )
        for site, load in loads.items()
    ]
