"""Where the steps of a campaign run, and which of them each site plans for itself (lanes)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cm_dagster.spec.allotment import Allotment, shares_of
from cm_dagster.spec.problems import Path, Problem, list_of, nearest

__all__ = ["Layout", "StepPlace"]


@dataclass(frozen=True)
class StepPlace:
    """What a step says about sites."""

    needs: Sequence[str] = ()
    """Steps that it needs."""
    sites: Mapping[str, Allotment] | None = None
    """Its own sites; None for those of the campaign."""
    barrier: str = "all"
    """Whether those that need it wait for all sites, or each site goes on (``site``)."""
    is_cut: bool = False
    """Whether it has a ``group_by``."""
    by_data: bool = False
    """Whether it is cut by what its inputs hold, and not by a dimension's records or listed values."""


@dataclass(frozen=True)
class Layout:
    """The sites of a campaign and of its steps; the steps need each other without circles."""

    sites: Mapping[str, Allotment]
    steps: Mapping[str, StepPlace]

    def lanes(self, step: str) -> bool:
        """Say whether each site plans a step from its own outputs of the steps that it needs."""
        needs = self.steps[step].needs
        return len(self.sites) > 1 and bool(needs) and all(self.steps[need].barrier == "site" for need in needs)

    def sites_of(self, step: str) -> Mapping[str, Allotment]:
        """Give the sites of a step: its own; in lanes those of the steps that it needs; else the campaign's."""
        own = self.steps[step].sites
        if own is not None:
            return own
        return self.sites_of(self.steps[step].needs[0]) if self.lanes(step) else self.sites

    def problems(self) -> Iterator[Problem]:
        """Find steps at sites that they cannot run at, or that cannot be shared out to their sites."""
        unknown = [problem for step in self.steps for problem in self._unknown(step)]
        yield from unknown
        if not unknown:
            for step in self.steps:
                yield from self._lane_problems(step) if self.lanes(step) else self._share_problems(step)

    def _unknown(self, step: str) -> Iterator[Problem]:
        for name in self.steps[step].sites or ():
            if name not in self.sites:
                path: Path = ("steps", step, "sites", name)
                known = f"one of {list_of(self.sites)}"
                yield Problem(path, f"the campaign has no site {name!r}", known, nearest(name, self.sites))

    def _share_problems(self, step: str) -> Iterator[Problem]:
        if not self.steps[step].is_cut and not shares_of(self.sites_of(step)):
            message = "is one group, which a site's `where` can't select, and none of its sites has a share"
            yield Problem(("steps", step), message, "`group_by`, or `sites` of its own")

    def _lane_problems(self, step: str) -> Iterator[Problem]:
        place, sites = self.steps[step], self.sites_of(step)
        why = f"each site plans it from its own outputs (`barrier: site` of {', '.join(place.needs)})"
        for need in place.needs:
            theirs = self.sites_of(need)
            if set(theirs) != set(sites):
                path: Path = ("steps", step, "needs" if place.sites is None else "sites")
                message = f"{why}, but it is at {list_of(sites)}, and {need} at {list_of(theirs)}"
                yield Problem(path, message, f"the same sites, or `barrier: all` of {need}")
        if any(one.where for one in (place.sites or {}).values()):
            yield Problem(("steps", step, "sites"), f"{why}, so that a `where` selects nothing", "names of sites")
        if not place.by_data:
            message = f"{why}, but it is not cut by data: every site would cut the same groups"
            yield Problem(("steps", step), message, "`group_by` with `dataset` or `max_quanta`")
