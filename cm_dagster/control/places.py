"""How a step stands at each of its sites: what is left there, and what is on its way to it or home."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import dagster as dg

from cm_dagster.control.steps import Board, Document, accepted
from cm_dagster.control.travel import undelivered, unstaged
from cm_dagster.ledger.attempts import AttemptIndex
from cm_dagster.plan.names import StepId
from cm_dagster.policy.states import GroupState

__all__ = ["Journeys", "Place", "places_of", "places_text"]


class Journeys(NamedTuple):
    """What is to travel for a step at a site."""

    unstaged: tuple[str, ...]
    """Groups whose inputs are not at the site yet."""
    undelivered: tuple[str, ...]
    """Accepted groups whose outputs are not at the home site yet."""

    @classmethod
    def of(cls, instance: dg.DagsterInstance, board: Board, step: str, index: AttemptIndex) -> dict[StepId, Journeys]:
        """Look what is to travel for a step that is planned, by site; sites that share the home's Butler have none."""
        ids = [StepId(board.name, step, site) for site in board.plans[step].remote]
        if not ids or step in board.collected:
            return {}
        staged, delivered = Document.STAGED.read(instance, ids), Document.DELIVERED.read(instance, ids)
        return {
            id_: cls(
                tuple(unstaged(board, id_, staged.get(id_.tag, {}))),
                tuple(undelivered(board, id_, accepted(index, id_), delivered.get(id_.tag, {}))),
            )
            for id_ in ids
        }


@dataclass(frozen=True)
class Place:
    """How far a step is at a site."""

    site: str
    groups: int
    accepted: int = 0
    unstaged: int = 0
    """Groups whose inputs are not at the site yet."""
    undelivered: int = 0
    """Accepted groups whose outputs are not at the home site yet."""

    @property
    def left(self) -> int:
        """Groups that are not accepted."""
        return self.groups - self.accepted

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON can hold it."""
        return asdict(self)


def places_of(states: Iterable[tuple[str, GroupState]], journeys: Mapping[StepId, Journeys]) -> tuple[Place, ...]:
    """Sum up how a step stands at its sites, in alphabetical order.

    Parameters
    ----------
    states
        Site and state of each of its groups.
    journeys
        What is to travel, by site.
    """
    groups: dict[str, list[GroupState]] = defaultdict(list)
    for site, state in states:
        groups[site].append(state)
    ways = {step.site: way for step, way in journeys.items()}
    nothing = Journeys((), ())
    return tuple(
        Place(
            site,
            len(found),
            found.count(GroupState.ACCEPTED),
            len(ways.get(site, nothing).unstaged),
            len(ways.get(site, nothing).undelivered),
        )
        for site, found in sorted(groups.items())
    )


def places_text(places: Iterable[Place]) -> list[str]:
    """Say what a step of several sites waits for at each of them, for the reason why it is not done."""
    several = list(places)
    parts = []
    if len(several) > 1 and (left := [f"{each.left} of {each.groups} at {each.site}" for each in several if each.left]):
        parts.append(f"left: {', '.join(left)}")
    for each in several:
        if each.unstaged:
            parts.append(f"inputs of {_groups(each.unstaged)} are being brought to {each.site}")
        if each.undelivered:
            parts.append(f"outputs of {_groups(each.undelivered)} are being brought home from {each.site}")
    return parts


def _groups(number: int) -> str:
    return f"{number} group{'s' * (number != 1)}"
