"""Whether a site's WMS and its code server answer, and what its workflows were doing when they last did.

Of the WMS and of the workflows that is a document per site; of the code server it shows in the ticks of its sensors.
Progress is kept here, not on the runs: it is written once a tick and only when something changed, however many
workflows are in flight.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import dagster as dg

from cm_dagster.control.downtime import Downtime, read_downtime
from cm_dagster.control.history import iso
from cm_dagster.ledger import store
from cm_dagster.ledger.pulse import DAEMON_DEAD, daemon_beat, read_heard
from cm_dagster.policy.backoff import Wait
from cm_dagster.policy.limits import clock, remember

__all__ = [
    "Health",
    "Progress",
    "Silence",
    "SiteHealth",
    "read_health",
    "read_progress",
    "read_sites",
    "write_health",
    "write_progress",
]

QUIET = 90.0
"""Seconds without a tick after which a code server is taken to be away; of a site with long ticks it is three of them.
"""
_TICKS = 3


@dataclass(frozen=True)
class Health:
    """Whether the WMS of a site answers."""

    answers: bool = True
    since: float = 0.0
    """Seconds since the epoch at which it began (or ceased) to answer."""
    cause: str = ""
    asked: int = field(default=0, compare=False)
    """How often it was asked in vain since then."""
    last: float = field(default=0.0, compare=False)
    """Seconds since the epoch at which it was asked last, if in vain."""
    outages: Sequence[Sequence[float]] = field(default=(), compare=False)
    """Begin and end of its latest outages, in seconds since the epoch."""


@dataclass(frozen=True)
class Silence:
    """Nothing is heard of a site: what its groups do now is unknown."""

    since: float
    """Seconds since the epoch."""
    what: str
    """What is not heard of."""

    def __str__(self) -> str:
        return f"{self.what} since {clock(self.since)}"

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON can hold it."""
        return {"since": iso(self.since), "cause": str(self)}


@dataclass(frozen=True)
class SiteHealth:
    """What is known of a site as a whole."""

    wms: Health = Health()
    silence: Silence | None = None
    """None if its code server is heard of."""
    downtime: Downtime | None = None
    """None if it is in no declared downtime."""

    @property
    def answers(self) -> bool:
        """Whether it is known what its groups do."""
        return self.wms.answers and self.silence is None


@dataclass(frozen=True)
class Progress:
    """What an open attempt's workflow was last seen doing."""

    jobs: Mapping[str, int] = field(default_factory=dict)
    """Number of jobs in each state, in the words of `cm_dagster.services.wms`."""
    since: float = 0.0
    """Seconds since the epoch at which this was first seen."""
    wait: Wait | None = None
    """Why the WMS is asked for it by its id, or it is judged, later again; None if nothing is wrong."""

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Progress:
        """Make it of the fields that `dataclasses.asdict` gives."""
        wait = fields.get("wait")
        return cls(fields["jobs"], fields["since"], Wait.of(wait) if wait else None)


def read_health(instance: dg.DagsterInstance, sites: Iterable[str]) -> dict[str, Health]:
    """Read the health of sites; a site that was never asked is taken to answer."""
    names = {f"health/{site}": site for site in sites}
    found = {names[key]: Health(**document) for key, document in store.get_many(instance, names).items()}
    return {site: found.get(site, Health()) for site in names.values()}


def read_sites(instance: dg.DagsterInstance, ticks: Mapping[str, float]) -> dict[str, SiteHealth]:
    """Read what is known of sites as a whole.

    Parameters
    ----------
    instance
        The Dagster instance.
    ticks
        Time between two looks of each site at its WMS, in seconds.
    """
    wms, silences = read_health(instance, ticks), _silences(instance, ticks)
    return {site: SiteHealth(wms[site], silences.get(site), read_downtime(instance, site)) for site in ticks}


def _silences(instance: dg.DagsterInstance, ticks: Mapping[str, float]) -> dict[str, Silence]:
    """Find the sites of which nothing is heard."""
    beat = daemon_beat(instance)
    if beat is None:  # there never was a daemon here
        return {}
    if time.time() - beat > DAEMON_DEAD:
        dead = Silence(beat, "Dagster's daemon, which has the sensors of all sites tick, has given no sign of life")
        return dict.fromkeys(ticks, dead)
    heard = read_heard(instance, [f"watch_{site}" for site in ticks])
    return {
        site: Silence(last, f"the code server of {site} has not been heard of")
        for site, tick in ticks.items()
        for last in [heard.get(f"watch_{site}", beat)]
        # By the daemon's own last sign of life: one that has just died is not to be mistaken for all code servers.
        if beat - last > max(_TICKS * tick, QUIET)
    }


def write_health(instance: dg.DagsterInstance, site: str, *, answers: bool, cause: str = "") -> Health:
    """Write down whether the WMS answers, if that is news, and how often it was asked in vain."""
    before = read_health(instance, [site])[site]
    now = time.time()
    if before.answers == answers and before.since:
        if answers:
            return before
        news = replace(before, asked=before.asked + 1, last=now)
    else:
        news = Health(answers, now, cause) if answers else Health(answers, now, cause, asked=1, last=now)
        ended = answers and not before.answers
        news = replace(news, outages=remember(before.outages, before.since, now) if ended else before.outages)
    store.put(instance, f"health/{site}", asdict(news))
    return news


def read_progress(instance: dg.DagsterInstance, site: str) -> dict[str, Progress]:
    """Read the progress of a site's open attempts, by run id."""
    document = store.get(instance, f"progress/{site}") or {}
    return {run_id: Progress.of(entry) for run_id, entry in document.items()}


def write_progress(
    instance: dg.DagsterInstance,
    site: str,
    jobs: Mapping[str, Mapping[str, int]],
    waits: Mapping[str, Wait] | None = None,
    before: Mapping[str, Progress] | None = None,
) -> None:
    """Write down how a site's open attempts go on, if any of it changed.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        Name of the site.
    jobs
        Job counts by run id; attempts that are neither here nor in ``waits`` are forgotten.
    waits
        By run id, why an attempt waits.
    before
        What was written last, if it is known; by default it is read.
    """
    before = read_progress(instance, site) if before is None else before
    waits = waits or {}
    now = {}
    for run_id in [*jobs, *(run_id for run_id in waits if run_id not in jobs)]:
        last, counts = before.get(run_id), jobs.get(run_id, {})
        since = last.since if last and last.jobs == counts else time.time()
        now[run_id] = Progress(dict(counts), since, waits.get(run_id))
    if now != before:
        store.put(instance, f"progress/{site}", {run_id: asdict(entry) for run_id, entry in now.items()})
