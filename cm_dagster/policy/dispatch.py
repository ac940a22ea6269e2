"""Which groups may be requested now, and which queued attempts go to the WMS next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cm_dagster.policy.states import State

__all__ = ["Latest", "Waiting", "choose_groups", "order_waiting"]


@dataclass(frozen=True)
class Latest:
    """A group's latest attempt."""

    number: int
    """From 1."""
    state: State


@dataclass(frozen=True)
class Waiting:
    """A queued attempt."""

    run_id: str
    step: str
    """Value of ``cm/step``."""
    group: str
    by_person: bool
    """Asked for by a person (Materialize, backfill, re-execution), not by the dispatcher."""
    priority: int
    """Dagster's own run priority; higher goes first."""
    since: float
    """Seconds since the epoch when it was created."""


def choose_groups(
    groups: Sequence[str], latest: Mapping[str, Latest], *, room: int, scouts: int = 0, retries: int = 0
) -> list[tuple[str, int]]:
    """Choose the groups of a step of which an attempt is to be requested now, in the order of the step.

    Parameters
    ----------
    groups
        Names of the step's groups at the site, in order.
    latest
        The latest attempt of each group that has one.
    room
        How many more attempts may be open at the site.
    scouts
        How many of the first groups must be accepted before any other group goes; 0 for none.
    retries
        How many times a failed group is tried again by itself.

    Returns
    -------
    chosen : `list` [`tuple` [`str`, `int`]]
        Name of the group and number of the attempt, at most ``room``.
    """
    eligible: Iterable[str] = groups
    if scouts and not all(_is_accepted(latest.get(name)) for name in groups[:scouts]):
        eligible = groups[:scouts]
    chosen: list[tuple[str, int]] = []
    for name in eligible:
        if len(chosen) >= room:
            break
        number = _next_number(latest.get(name), retries)
        if number:
            chosen.append((name, number))
    return chosen


def _is_accepted(attempt: Latest | None) -> bool:
    return attempt is not None and attempt.state is State.ACCEPTED


def _next_number(attempt: Latest | None, retries: int) -> int | None:
    if attempt is None:
        return 1
    if attempt.state is State.FAILED and attempt.number <= retries:
        return attempt.number + 1
    return None


def order_waiting(waiting: Iterable[Waiting], *, busy: Iterable[tuple[str, str]], room: int) -> list[Waiting]:
    """Choose the queued attempts that go to the WMS now: a person's first, then by priority, then the oldest.

    Parameters
    ----------
    waiting
        The queued attempts of a site.
    busy
        Step and group of each attempt that is on its way already; a group goes once at a time.
    room
        How many more workflows may be in flight at the site.
    """
    taken = set(busy)
    chosen: list[Waiting] = []
    for attempt in sorted(waiting, key=lambda a: (not a.by_person, -a.priority, a.since, a.step, a.group)):
        if len(chosen) >= room:
            break
        if (attempt.step, attempt.group) not in taken:
            taken.add((attempt.step, attempt.group))
            chosen.append(attempt)
    return chosen
