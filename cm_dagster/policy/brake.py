"""Whether so much of a step has failed at a site that it stops by itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Brake", "BrakeRule", "End"]


@dataclass(frozen=True, order=True)
class End:
    """An attempt that was accepted or has failed; one that a person cancelled says nothing. Ordered by time."""

    time: float
    """When it ended, in seconds since the epoch."""
    run_id: str
    group: str
    good: bool
    """Whether it was accepted."""
    began: float
    """When it began, in seconds since the epoch."""


@dataclass(frozen=True)
class BrakeRule:
    """When a step stops by itself."""

    failed: float
    """Fraction of the groups that ended which may fail."""
    ended: int
    """Groups that must have ended before that fraction counts."""
    in_a_row: int | None
    """Different groups that fail without a success between; None for no such rule."""


class Brake:
    """The brake of a step at a site, which follows the ends of its attempts in the order of time.

    A success of an attempt that began after the brake took hold shows that the cause is gone: it counts anew from
    there. One that was on its way before only counts as what it is: it ends a row, and lowers the fraction.

    Parameters
    ----------
    rule
        When it takes hold.
    since
        When a person released it last, in seconds since the epoch; what ended before does not count.
    """

    def __init__(self, rule: BrakeRule, since: float = 0.0) -> None:
        self.rule = rule
        self.since = since
        self._latest: dict[str, bool] = {}
        self._failed = 0
        self._row: dict[str, None] = {}
        self._held: float | None = None

    @classmethod
    def after(cls, rule: BrakeRule, since: float, ends: Iterable[End]) -> Brake:
        """Make the brake as it stands after some ends, in any order."""
        brake = cls(rule, since)
        for end in sorted(ends):
            brake.add(end)
        return brake

    def add(self, end: End) -> None:
        """Take note of an end that is not earlier than those before."""
        if end.time <= self.since:
            return
        if end.good and self._held is not None and end.began > self._held:
            self._latest.clear()
            self._failed = 0
        self._count(end)
        if not self._reason():
            self._held = None
        elif self._held is None:
            self._held = end.time

    def _count(self, end: End) -> None:
        self._failed += (not end.good) - (self._latest.get(end.group) is False)
        self._latest[end.group] = end.good
        if end.good:
            self._row.clear()
        else:
            self._row[end.group] = None

    def _reason(self) -> str:
        rule, ended = self.rule, len(self._latest)
        if rule.in_a_row is not None and len(self._row) >= rule.in_a_row:
            return f"the last {len(self._row)} groups that ended have failed ({rule.in_a_row} in a row are too many)"
        if ended >= rule.ended and self._failed > rule.failed * ended:
            most = f"more than {rule.failed:.0%} are too many"
            return f"{self._failed} of {ended} groups that ended have failed ({most})"
        return ""

    @property
    def held(self) -> float | None:
        """Since when it holds, in seconds since the epoch; None if it does not."""
        return self._held

    @property
    def reason(self) -> str:
        """Why it holds, with the numbers; empty if it does not."""
        return self._reason()
