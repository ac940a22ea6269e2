"""The groups of a step at a site, in order, of which an attempt may be requested by itself."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Sequence
from dataclasses import dataclass

from cm_dagster.policy.states import State

__all__ = ["Latest", "Line", "next_number"]


@dataclass(frozen=True)
class Latest:
    """A group's latest attempt."""

    number: int
    """From 1."""
    state: State


def next_number(attempt: Latest | None, retries: int) -> int | None:
    """Number of the attempt that a group gets by itself; None if it gets none.

    Parameters
    ----------
    attempt
        Its latest attempt; None if it has none.
    retries
        How many times a failed group is tried again by itself.
    """
    if attempt is None:
        return 1
    if attempt.state is State.FAILED and attempt.number <= retries:
        return attempt.number + 1
    return None


class Line:
    """The groups of a step at a site; what changes costs the same however many there are.

    Parameters
    ----------
    names
        The groups, in order.
    retries
        How many times a failed group is tried again by itself.
    """

    def __init__(self, names: Sequence[str], retries: int) -> None:
        self._names = names
        self._retries = retries
        self._places = {name: place for place, name in enumerate(names)}
        self._latest: dict[str, Latest] = {}
        self._due = bytearray(b"\x01" * len(names))  # finding the next 1 in it takes no time

    def note(self, name: str, latest: Latest) -> None:
        """Take note of a group's latest attempt; groups that the step does not have are left alone."""
        place = self._places.get(name)
        if place is not None:
            self._latest[name] = latest
            self._due[place] = next_number(latest, self._retries) is not None

    def due(self, *, only: Collection[str] | None = None, but: Container[str] = ()) -> Iterator[tuple[str, int]]:
        """Give the groups that get an attempt by themselves, in order, each with its number.

        Parameters
        ----------
        only
            The groups that count; by default all.
        but
            Groups to be left out.
        """
        for name in self._all_due() if only is None else sorted(only, key=self._places.__getitem__):
            number = next_number(self._latest.get(name), self._retries)
            if number and name not in but:
                yield name, number

    def _all_due(self) -> Iterator[str]:
        place = self._due.find(1)
        while place >= 0:
            yield self._names[place]
            place = self._due.find(1, place + 1)

    def before(self, name: str) -> int:
        """How many groups that are due come before a group."""
        return self._due.count(1, 0, self._places.get(name, 0))

    def latest(self, name: str) -> Latest | None:
        """The latest attempt of a group."""
        return self._latest.get(name)

    def scouting(self, scouts: int) -> dict[str, Latest | None]:
        """Give those of the first groups that are not accepted, with their latest attempt; none if all are.

        Parameters
        ----------
        scouts
            How many of the first groups must be accepted before any other goes.
        """
        first = {name: self._latest.get(name) for name in self._names[:scouts]}
        return {name: attempt for name, attempt in first.items() if not _is_accepted(attempt)}


def _is_accepted(attempt: Latest | None) -> bool:
    return attempt is not None and attempt.state is State.ACCEPTED
