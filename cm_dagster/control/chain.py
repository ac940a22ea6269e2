"""The chain of a step at a site: the RUN collections of its accepted groups, computed whole and set by one writer."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import dagster as dg

from cm_dagster.control.site import Site
from cm_dagster.control.steps import Document, accepted
from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import CmError
from cm_dagster.ledger import campaigns, store
from cm_dagster.ledger.attempts import index_at
from cm_dagster.plan.names import StepId, site_output

__all__ = ["Chained", "chain", "one_writer"]

_PATIENCE = 60.0
"""Seconds for which a writer of chains waits for another: one takes a second."""
_POLL = 0.1
"""Seconds between two looks."""


@dataclass(frozen=True)
class Chained:
    """What was chained."""

    step: StepId
    chain: str
    """Name of the chain."""
    groups: Mapping[str, Sequence[str]]
    """RUN collections of each group in it, in order: that of its accepted attempt, then those that it rescued."""
    new: tuple[str, ...]
    """Groups whose accepted attempt was not in it before."""
    numbers: Mapping[str, int]
    """Number of the accepted attempt of each group."""

    def remember(self, instance: dg.DagsterInstance) -> None:
        """Write down what is chained, so that it is not done again."""
        store.put(instance, Document.CHAINED.key(self.step), dict(self.numbers))
        crash_point("chain.remembered")


@contextmanager
def one_writer(area: Path, campaign: str) -> Iterator[None]:
    """Wait until nobody else sets chains of a campaign at a site, and keep others from it.

    Chains are computed from the ledger and set whole, so of two writers at once the slower would undo the other's.

    Raises
    ------
    CmError
        If another process does so for longer than chains take: its Butler hangs. It passes.
    """
    folder = area / campaign
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + _PATIENCE
    with (folder / "chains.lock").open("a") as lock:
        while not _locked(lock):
            if time.monotonic() > end:
                raise CmError(f"another process has set chains of {campaign} for {_PATIENCE:.0f} s", transient=True)
            time.sleep(_POLL)
        yield


def _locked(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def chain(instance: dg.DagsterInstance, site: Site, step: StepId) -> Chained:
    """Set the chain of a step at a site; doing it twice changes nothing.

    Raises
    ------
    ButlerError
        If the chain can't be set.
    LedgerError
        If there is no such campaign.
    """
    spec = campaigns.find(instance, step.campaign).spec
    with one_writer(site.area, step.campaign):
        index = index_at(instance, step)
        numbers = accepted(index, step)
        latest = index.of_step(step)
        groups = {name: latest[name].outputs(spec.butler.output) for name in numbers}
        name = site_output(spec.butler.output, step)
        crash_point("chain.computed")
        site.butler(spec).set_chain(name, [run for runs in groups.values() for run in runs])
        crash_point("chain.set")
    before = Document.CHAINED.read(instance, [step]).get(step.tag, {})
    new = tuple(group for group, number in numbers.items() if before.get(group) != number)
    return Chained(step, name, groups, new, numbers)
