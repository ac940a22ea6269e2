"""Groups that people have moved from one site to another.

A small document per step says where each of them is now; it is written before the step's plan, so that whoever has the
old plan at hand is turned away.

Uses of ``dagster._core``: none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import dagster as dg

from cm_dagster.ledger import store
from cm_dagster.plan.names import StepId

__all__ = ["Moved", "Moves", "read_moves", "write_moves"]


@dataclass(frozen=True)
class Moved:
    """Where a group is that was moved."""

    site: str
    first: int
    """Number of its first attempt there; those before it were at other sites."""


def _key(campaign: str, step: str) -> str:
    return f"moved/{campaign}/{step}"


def read_moves(instance: dg.DagsterInstance, campaign: str, step: str) -> dict[str, Moved]:
    """Read which groups of a step were moved, by name of the group."""
    found = store.get(instance, _key(campaign, step)) or {}
    return {group: Moved(**entry) for group, entry in found.items()}


def write_moves(instance: dg.DagsterInstance, campaign: str, step: str, moves: Mapping[str, Moved]) -> None:
    """Write which groups of a step were moved; the caller holds the lock of the step's plan."""
    store.put(instance, _key(campaign, step), {group: asdict(moved) for group, moved in moves.items()})


class Moves:
    """Where groups are now, each step's looked up once.

    Parameters
    ----------
    instance
        The Dagster instance.
    """

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._known: dict[tuple[str, str], dict[str, Moved]] = {}

    def refusal(self, step: StepId, group: str) -> tuple[str, int]:
        """Say why an attempt at a group makes no sense at a site since the group is elsewhere.

        Parameters
        ----------
        step
            The step at the site.
        group
            Name of the group.

        Returns
        -------
        reason, first
            Empty if it is not elsewhere; and the number of its first attempt at the site.
        """
        key = (step.campaign, step.step)
        if key not in self._known:
            self._known[key] = read_moves(self._instance, *key)
        moved = self._known[key].get(group)
        if moved is None:
            return "", 1
        if moved.site != step.site:
            return f"{group} was moved to {moved.site}", 1
        return "", moved.first
