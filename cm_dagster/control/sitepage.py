"""A site as a pilot or an operator sees it: what it is doing, what it is stopped by, what it has of each campaign."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from cm_dagster.control.floor import Floor
from cm_dagster.control.health import SiteHealth, read_sites
from cm_dagster.control.history import iso
from cm_dagster.control.limits import Setting, settings
from cm_dagster.control.overview import groups_of
from cm_dagster.control.twins import Alarm, read_alarms
from cm_dagster.ledger.pulse import SensorTick, read_ticks
from cm_dagster.plan.names import StepId
from cm_dagster.policy.states import GroupState
from cm_dagster.spec import Sites, SiteSpec
from cm_dagster.spec.overrides import Scope

__all__ = ["SitePage", "site_pages"]


@dataclass(frozen=True)
class SitePage:
    """What is known of a site."""

    site: str
    home: bool
    health: SiteHealth
    full: str
    """Why it takes no group now; empty if it takes some."""
    limits: Sequence[Setting]
    used: Mapping[str, int]
    """What is used of the limits, by name of the setting."""
    sensors: Sequence[SensorTick]
    alarms: Sequence[Alarm]
    """Twins of workflows that there were lately."""
    groups: Mapping[str, Mapping[GroupState, int]]
    """Number of its groups in each state, by campaign; of the steps that are planned."""

    @property
    def state(self) -> str:
        """What a person has declared, or was found out: ``stopped``, ``silent``, ``no WMS``, or ``up``."""
        if self.health.downtime is not None:
            return "stopped"
        if self.health.silence is not None:
            return "silent"
        return "up" if self.health.wms.answers else "no WMS"

    @property
    def notes(self) -> list[str]:
        """All that is wrong with it, or was declared, a sentence each."""
        downtime, silence, wms = self.health.downtime, self.health.silence, self.health.wms
        away = f"its WMS has not answered since {iso(wms.since)}: {wms.cause}"
        return [
            *([str(downtime)] if downtime else []),
            *([str(silence)] if silence else []),
            *([away] if not wms.answers else []),
        ]

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON can hold it."""
        wms, downtime, silence = self.health.wms, self.health.downtime, self.health.silence
        return {
            "site": self.site,
            "home": self.home,
            "state": self.state,
            "stopped": downtime.to_json() if downtime else None,
            "silent": silence.to_json() if silence else None,
            "wms": {"answers": wms.answers, "since": iso(wms.since) if wms.since else None, "cause": wms.cause},
            "full": self.full,
            "limits": {each.key: {"value": each.value, "used": self.used.get(each.key)} for each in self.limits},
            "sensors": [
                {
                    "sensor": each.sensor,
                    "on": each.on,
                    "last": iso(each.time) if each.time else None,
                    "error": each.error,
                }
                for each in self.sensors
            ],
            "alarms": [alarm.to_json() for alarm in self.alarms],
            "groups": {
                name: {str(state): count for state, count in counts.items()} for name, counts in self.groups.items()
            },
        }


def site_pages(instance: dg.DagsterInstance, sites: Sites, names: Sequence[str]) -> list[SitePage]:
    """Look at sites; the ledger alone is asked.

    Parameters
    ----------
    instance
        The Dagster instance.
    sites
        The sites as their file has them.
    names
        Names of those that are looked at.
    """
    health = read_sites(instance, {name: sites.sites[name].tick for name in names})
    alarms = read_alarms(instance, names)
    return [_page(instance, name, sites.sites[name], health[name], alarms[name]) for name in names]


def _page(
    instance: dg.DagsterInstance, name: str, spec: SiteSpec, health: SiteHealth, alarms: Sequence[Alarm]
) -> SitePage:
    floor = Floor(instance, name, spec)
    return SitePage(
        site=name,
        home=spec.home,
        health=health,
        full=floor.site_full,
        limits=settings(instance, Scope("site", name), spec),
        used=floor.used(),
        sensors=read_ticks(instance, name),
        alarms=alarms,
        groups=_groups(floor, health),
    )


def _groups(floor: Floor, health: SiteHealth) -> dict[str, dict[GroupState, int]]:
    found = {}
    for board in floor.boards.values():
        counts: Counter[GroupState] = Counter()
        for step in board.plans:
            id_ = StepId(board.name, step, floor.name)
            decided = {id_.tag: floor.decided(board, step)}
            views = groups_of(board, step, floor.index, {floor.name: health}, decided)
            counts.update(view.state for view in views if view.group.site == floor.name)
        if counts:
            found[board.name] = {state: counts[state] for state in GroupState}
    return found
