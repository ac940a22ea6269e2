"""Whether a site's WMS answers, and what its workflows were doing when it last did: one document per site.

Progress is kept here, not on the runs: it is written once a tick and only when something changed, however many
workflows are in flight.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

import dagster as dg

from cm_dagster.ledger import store

__all__ = ["Health", "Progress", "read_health", "read_progress", "write_health", "write_progress"]


@dataclass(frozen=True)
class Health:
    """Whether the WMS of a site answers."""

    answers: bool = True
    since: float = 0.0
    """Seconds since the epoch at which it began (or ceased) to answer."""
    cause: str = ""


@dataclass(frozen=True)
class Progress:
    """What an open attempt's workflow was last seen doing."""

    jobs: Mapping[str, int] = field(default_factory=dict)
    """Number of jobs in each state, in the words of `cm_dagster.services.wms`."""
    since: float = 0.0
    """Seconds since the epoch at which this was first seen."""


def read_health(instance: dg.DagsterInstance, sites: Iterable[str]) -> dict[str, Health]:
    """Read the health of sites; a site that was never asked is taken to answer."""
    names = {f"health/{site}": site for site in sites}
    found = {names[key]: Health(**document) for key, document in store.get_many(instance, names).items()}
    return {site: found.get(site, Health()) for site in names.values()}


def write_health(instance: dg.DagsterInstance, site: str, *, answers: bool, cause: str = "") -> Health:
    """Write down whether the WMS answers, if that is news."""
    before = read_health(instance, [site])[site]
    if before.answers == answers and before.since:
        return before
    now = Health(answers, time.time(), cause)
    store.put(instance, f"health/{site}", asdict(now))
    return now


def read_progress(instance: dg.DagsterInstance, site: str) -> dict[str, Progress]:
    """Read the progress of a site's open attempts, by run id."""
    document = store.get(instance, f"progress/{site}") or {}
    return {run_id: Progress(**entry) for run_id, entry in document.items()}


def write_progress(instance: dg.DagsterInstance, site: str, jobs: Mapping[str, Mapping[str, int]]) -> None:
    """Write down the job counts of a site's open attempts, if any of them changed.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        Name of the site.
    jobs
        Job counts by run id; attempts that are left out are forgotten.
    """
    before = read_progress(instance, site)
    now = {
        run_id: before[run_id]
        if run_id in before and before[run_id].jobs == counts
        else Progress(dict(counts), time.time())
        for run_id, counts in jobs.items()
    }
    if now != before:
        store.put(instance, f"progress/{site}", {run_id: asdict(entry) for run_id, entry in now.items()})
