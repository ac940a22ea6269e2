"""Bringing the outputs of accepted groups from their site to the home site; the home site fetches them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import dagster as dg

from cm_dagster.control.site import Site, known_sites, repo_of
from cm_dagster.control.stage import remember
from cm_dagster.control.steps import Document, accepted
from cm_dagster.crashpoints import crash_point
from cm_dagster.ledger import campaigns
from cm_dagster.ledger.attempts import index_of
from cm_dagster.plan.names import StepId
from cm_dagster.services.mover import Moved, Mover, Parcel

__all__ = ["deliver"]


def deliver(
    instance: dg.DagsterInstance,
    home: Site,
    mover: Mover,
    step: StepId,
    groups: Sequence[str],
    tell: Callable[[str, Moved], object],
) -> list[str]:
    """Bring the RUN collections of accepted groups home; doing it twice brings nothing the second time.

    Parameters
    ----------
    instance
        The Dagster instance.
    home
        The home site, which this process serves.
    mover
        How data travel.
    step
        The step at the site that has processed them.
    groups
        Names of groups; those that are not accepted are left out.
    tell
        Is told of each group whose outputs are at the home site.

    Returns
    -------
    groups
        Those whose outputs are at home now.

    Raises
    ------
    LedgerError
        If there is no such campaign.
    ButlerError, TransferError
        If the data can't be brought.
    """
    spec = campaigns.find(instance, step.campaign).spec
    index = index_of(instance)
    numbers = {name: number for name, number in accepted(index, step).items() if name in set(groups)}
    latest = index.of_step(step)
    parcels = [Parcel(name, tuple(latest[name].outputs(spec.butler.output))) for name in numbers]
    source = repo_of(spec, known_sites().sites[step.site])
    done: dict[str, int] = {}
    try:
        for moved in mover.deliver(source, home.repo(spec), parcels, home.spec.transfer.timeout * 60.0):
            crash_point("deliver.moved")
            tell(moved.name, moved)
            crash_point("deliver.logged")
            done[moved.name] = numbers[moved.name]
    finally:
        remember(instance, Document.DELIVERED, step, done)
    return list(done)
