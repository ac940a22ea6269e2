"""Twins: workflows beside an attempt's own, of the same name. There must be none; each one is an alarm.

The rule: the workflow whose id is recorded stays, else the oldest one, whatever state either is in. A choice by state
would change with the moment at which one looks. All of them write to the attempt's own RUN collection, so what a twin
has done is not lost, and is judged with the rest.
"""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from cm_dagster.control.history import iso
from cm_dagster.control.site import Site
from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import WmsError
from cm_dagster.ledger import events, store
from cm_dagster.ledger.attempts import Attempt

__all__ = ["Alarm", "cancel_twins", "oldest_first", "read_alarms"]

_SHOWN = 7 * 86400.0
"""Seconds for which an alarm is shown."""
_KEPT = 100
"""Most alarms of a site that are kept."""


@dataclass(frozen=True)
class Alarm:
    """A twin that there was."""

    time: float
    """Seconds since the epoch when it was met."""
    workflow: str
    """Name of both workflows."""
    twin: str
    """Id at the WMS of the one that was cancelled."""
    own: str
    """Id of the one that stays."""
    run_id: str
    """Run of the attempt."""

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON can hold it."""
        return {**asdict(self), "time": iso(self.time)}


def oldest_first(ids: Iterable[str]) -> list[str]:
    """Sort ids by age: they grow at every WMS that numbers them."""

    def age(wms_id: str) -> tuple[float, str]:
        try:
            return float(wms_id), wms_id
        except ValueError:
            return float("inf"), wms_id

    return sorted(ids, key=age)


def cancel_twins(
    instance: dg.DagsterInstance,
    site: Site,
    attempt: Attempt,
    own: str,
    twins: Iterable[str],
    log: logging.Logger,
) -> None:
    """Cancel the twins of an attempt's workflow, and sound an alarm for each; safe to repeat.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        The site that this process serves.
    attempt
        The attempt.
    own
        Id of its workflow.
    twins
        Ids of the others of its name.
    log
        Where the alarm goes, besides the run's page and ``cm status``.

    Raises
    ------
    WmsError
        If the WMS does not answer.
    """
    for twin in twins:
        # First: should this process die in between, nobody might see the twin again.
        _remember(instance, site, Alarm(time.time(), attempt.id.workflow, twin, own, attempt.run_id))
        crash_point("twin.remembered")
        end = _cancel(site, twin)
        crash_point("adopt.twin-cancelled")
        message = f"ALARM: the WMS had a second workflow of this name, {twin}; {end}, {own} stays."
        log.error("%s: %s", attempt.id.workflow, message)
        events.note(instance, attempt.run, message)


def _cancel(site: Site, twin: str) -> str:
    try:
        site.wms.cancel(twin)
    except WmsError as error:
        if error.transient:
            raise
        return f"it can't be cancelled ({error.cause})"  # it has ended
    return "it was cancelled"


def read_alarms(instance: dg.DagsterInstance, sites: Iterable[str]) -> dict[str, list[Alarm]]:
    """Read the alarms of sites of the last week, the oldest first."""
    keys = {f"alarms/{site}": site for site in sites}
    found = store.get_many(instance, keys)
    since = time.time() - _SHOWN
    return {site: [alarm for alarm in _alarms(found.get(key)) if alarm.time > since] for key, site in keys.items()}


def _alarms(document: Any) -> list[Alarm]:
    return [Alarm(**entry) for entry in document or ()]


@contextmanager
def _one_writer(area: Path) -> Iterator[None]:
    """Wait until no other process of the site writes alarms, and keep others from it."""
    with (area / "alarms.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remember(instance: dg.DagsterInstance, site: Site, alarm: Alarm) -> None:
    with _one_writer(site.area):
        known = _alarms(store.get(instance, f"alarms/{site.name}"))
        if all((alarm.twin, alarm.workflow) != (other.twin, other.workflow) for other in known):
            latest = [*known, alarm][-_KEPT:]
            store.put(instance, f"alarms/{site.name}", [asdict(each) for each in latest])
