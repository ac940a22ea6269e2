"""The groups of a step at a site, in order, of which an attempt may be requested by itself."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cm_dagster.policy.states import State

__all__ = ["Latest", "Line", "next_number"]


@dataclass(frozen=True)
class Latest:
    """A group's latest attempt."""

    number: int
    """From 1."""
    state: State
    first: int = 1
    """Number of the group's first attempt at its site: more than 1 where it was moved there after others."""

    @property
    def tries(self) -> int:
        """How many attempts the group has had at its site."""
        return self.number - self.first + 1


def next_number(attempt: Latest | None, retries: int, first: int = 1) -> int | None:
    """Number of the attempt that a group gets by itself; None if it gets none.

    Parameters
    ----------
    attempt
        Its latest attempt; None if it has none.
    retries
        How many times a failed group is tried again by itself.
    first
        Number of the group's first attempt at its site.
    """
    if attempt is None:
        return first
    if attempt.state is State.FAILED and attempt.tries <= retries:
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
    firsts
        Number of the first attempt of those groups that were moved to the site after attempts elsewhere.
    """

    def __init__(self, names: Sequence[str], retries: int, firsts: Mapping[str, int] | None = None) -> None:
        self._names = names
        self._retries = retries
        self._firsts = firsts or {}
        self._places = {name: place for place, name in enumerate(names)}
        self._latest: dict[str, Latest] = {}
        self._due = bytearray(b"\x01" * len(names))  # finding the next 1 in it takes no time

    def note(self, name: str, latest: Latest) -> None:
        """Take note of a group's latest attempt; groups that the step does not have are left alone."""
        place = self._places.get(name)
        if place is not None:
            latest = replace(latest, first=self._firsts[name]) if name in self._firsts else latest
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
            number = self.next_number(name)
            if number and name not in but:
                yield name, number

    def next_number(self, name: str) -> int | None:
        """Number of the attempt that a group gets by itself; None if it gets none."""
        return next_number(self._latest.get(name), self._retries, self._firsts.get(name, 1))

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
