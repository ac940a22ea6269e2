"""Declared downtimes of sites: a person stops a site, which then takes nothing new until it is started again."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import dagster as dg

from cm_dagster.control.history import iso
from cm_dagster.ledger import sites
from cm_dagster.policy.limits import clock

__all__ = ["Downtime", "read_downtime", "start", "stop"]


@dataclass(frozen=True)
class Downtime:
    """A downtime that a person has declared, and that is not over."""

    since: float
    """When it was declared, in seconds since the epoch."""
    user: str
    """Who has declared it."""
    reason: str
    until: float | None = None
    """When it ends by itself, in seconds since the epoch; None if it does not."""

    def __str__(self) -> str:
        end = f" (until {clock(self.until)})" if self.until is not None else ""
        return f"stopped since {clock(self.since)} by {self.user}: {self.reason}{end}"

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON can hold it."""
        until = iso(self.until) if self.until is not None else None
        return {"since": iso(self.since), "user": self.user, "reason": self.reason, "until": until}


def read_downtime(instance: dg.DagsterInstance, site: str) -> Downtime | None:
    """Read the downtime that a site is in; None if it is in none, or its end has come."""
    found = sites.read_overrides(instance, site).get(sites.STOP)
    if found is None or (found.value is not None and found.value <= time.time()):
        return None
    return Downtime(found.time, found.user, found.reason, found.value)


def stop(
    instance: dg.DagsterInstance, site: str, *, user: str, reason: str, until: float | None = None
) -> Downtime | None:
    """Declare a downtime, in place of one that the site is in; returns that.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        Name of the site.
    user, reason
        Who does it, and why.
    until
        When it ends by itself, in seconds since the epoch; None if it does not.
    """
    before = read_downtime(instance, site)
    action = f"stop until {clock(until)}" if until is not None else "stop"
    sites.override(instance, site, {sites.STOP: until}, user=user, reason=reason, action=action)
    return before


def start(instance: dg.DagsterInstance, site: str, *, user: str, reason: str) -> Downtime | None:
    """End the downtime that a site is in; returns it, None if it was in none."""
    before = read_downtime(instance, site)
    if before is not None:
        sites.reset(instance, site, [sites.STOP], user=user, reason=reason, action="start")
    return before
