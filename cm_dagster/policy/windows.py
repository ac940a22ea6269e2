"""Times of the week at which groups may go, e.g. ``mon-fri 18:00-06:00``. All times are UTC."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Window", "next_opening"]

_NAMES = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = 86_400
_EPOCH = 3  # 1 January 1970 was a Thursday
_NAME = f"({'|'.join(_NAMES)})"
_CLOCK = r"(\d{1,2}):(\d{2})"
_FORM = re.compile(rf"(?:{_NAME}(?:-{_NAME})?)?\s*(?:{_CLOCK}-{_CLOCK})?", re.IGNORECASE)


@dataclass(frozen=True)
class Window:
    """A window that opens on some days of the week at the same time."""

    days: frozenset[int]
    """Days on which it opens; 0 is Monday."""
    begin: int
    """When it opens, in seconds after midnight."""
    length: int
    """How long it is open, in seconds; at most a day."""

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read a window: days, hours, or both, e.g. ``sat-sun``, ``18:00-06:00``, ``mon-fri 18:00-06:00``.

        A window that ends before it begins ends on the next day; its days are those on which it begins.

        Raises
        ------
        ValueError
            If it is none, with the reason.
        """
        match = _FORM.fullmatch(text.strip())
        if not text.strip() or match is None:
            raise ValueError(f"{text!r} is not a window")
        first, last, *clock = match.groups()
        begin, end = _seconds(*clock[:2], until=24 * 60 - 1), _seconds(*clock[2:], until=24 * 60)
        if clock[0] is None:
            begin, end = 0, _DAY
        if begin == end:
            raise ValueError(f"{text!r} is empty; the whole day is 00:00-24:00")
        return cls(_days(first, last), begin, end - begin if end > begin else end - begin + _DAY)

    def is_open(self, now: float) -> bool:
        """Whether it is open at a time, in seconds since the epoch."""
        today = int(now // _DAY)
        # It may have opened yesterday and still be open.
        return any(0 <= now - self._opens(day) < self.length for day in (today - 1, today) if self._has(day))

    def opens(self, now: float) -> float:
        """When it opens next after a time; both in seconds since the epoch."""
        today = int(now // _DAY)
        days = (day for day in range(today, today + 8) if self._has(day))
        return min(self._opens(day) for day in days if self._opens(day) > now)

    def _has(self, day: int) -> bool:
        return (day + _EPOCH) % 7 in self.days

    def _opens(self, day: int) -> float:
        return float(day * _DAY + self.begin)


def _seconds(hours: str | None, minutes: str | None, *, until: int) -> int:
    if hours is None or minutes is None:
        return 0
    if int(minutes) > 59 or int(hours) * 60 + int(minutes) > until:
        raise ValueError(f"there is no time {hours}:{minutes} here; hours and minutes are 00:00 to 24:00")
    return (int(hours) * 60 + int(minutes)) * 60


def _days(first: str | None, last: str | None) -> frozenset[int]:
    if first is None:
        return frozenset(range(7))
    begin = _NAMES.index(first.lower())
    end = begin if last is None else _NAMES.index(last.lower())
    return frozenset((begin + place) % 7 for place in range((end - begin) % 7 + 1))


def next_opening(windows: Iterable[Window], now: float) -> float | None:
    """When the next of several windows opens; None where one is open, or there are none.

    Parameters
    ----------
    windows
        The windows.
    now
        The time, in seconds since the epoch.
    """
    every = list(windows)
    if not every or any(window.is_open(now) for window in every):
        return None
    return min(window.opens(now) for window in every)
