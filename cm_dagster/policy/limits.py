"""How many more groups a site or a campaign takes now, and the sentence that says why it takes none."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from cm_dagster.policy.windows import Window, next_opening

__all__ = [
    "HOUR",
    "UNLIMITED",
    "Limits",
    "Ramp",
    "Use",
    "clock",
    "last_return",
    "remember",
    "room",
    "room_again",
    "share",
    "why_full",
    "why_slow",
]

HOUR = 3600.0
"""The time to which `Limits.per_hour` applies, in seconds."""
UNLIMITED = 1_000_000_000
"""Room where there is no limit."""
_OUTAGES = 20
"""Most outages of a site that are remembered."""


@dataclass(frozen=True)
class Ramp:
    """How a site begins again after an outage."""

    after: float
    """Shortest outage that counts, in seconds."""
    over: float
    """Time from the return until everything is taken again, in seconds."""
    start: float
    """Fraction of the limits that may be submitted at the return."""


@dataclass(frozen=True)
class Limits:
    """What a site or a campaign takes; None where there is no limit."""

    in_flight: int | None = None
    per_hour: int | None = None
    building: int | None = None
    windows: tuple[Window, ...] = ()
    hours: str = ""
    """The windows as they were written."""
    ramp: Ramp | None = None


@dataclass(frozen=True)
class Use:
    """What is used of the limits."""

    in_flight: int = 0
    """Groups in the site's hands."""
    pending: int = 0
    """Those of them of which the WMS has no workflow yet: each may be submitted at any moment."""
    building: int = 0
    """Those of them of which a quantum graph is being built."""
    sent: Sequence[float] = ()
    """When each workflow was submitted, or a little later, but never earlier; the oldest first. Seconds since the
    epoch."""
    returned: float | None = None
    """When the WMS came back from the latest outage that counts; None if it need not be cared about."""

    def in_the_hour(self, now: float) -> int:
        """Submissions of the last hour, those included that come at any moment.

        Where the clock was set back, what lies in the future counts too: it may have been a minute ago.
        """
        return len(self.sent) - bisect_right(self.sent, now - HOUR) + self.pending


def room(limits: Limits, use: Use, now: float) -> int:
    """How many more groups may go now; not more than 0 if none.

    Each limit is in groups, and each group that goes uses one of each; so this many may go at once.

    Parameters
    ----------
    limits
        The limits.
    use
        What is used of them.
    now
        The time, in seconds since the epoch.
    """
    return min((left for left, _ in _checks(limits, use, now)), default=UNLIMITED)


def room_again(limits: Limits, use: Use, now: float) -> int:
    """How many of those may be handed over once more that are in the site's hands already, without a workflow.

    They hold their slots, and a window was open for them; so what counts is what is built and submitted now.

    Parameters
    ----------
    limits
        The limits.
    use
        What is used of them.
    now
        The time, in seconds since the epoch.
    """
    going = replace(use, pending=use.building)
    slow = (left for left, _ in _slowly(limits, going, now))
    return min(room(Limits(per_hour=limits.per_hour, building=limits.building), going, now), *slow, UNLIMITED)


def why_slow(limits: Limits, use: Use, now: float) -> str:
    """Say how much may be submitted by now after an outage; empty if that is over."""
    return next((sentence for _, sentence in _slowly(limits, replace(use, pending=0), now)), "")


def why_full(limits: Limits, use: Use, now: float) -> str:
    """Say which limit keeps groups from going now, with its numbers; empty if none does."""
    return next((sentence for left, sentence in _checks(limits, use, now) if left <= 0), "")


def _checks(limits: Limits, use: Use, now: float) -> Iterator[tuple[int, str]]:
    """Give the room under each limit, and what is to be said if there is none."""
    opens = next_opening(limits.windows, now)
    if opens is not None:
        yield 0, f"takes groups again from {clock(opens)} on (windows: {limits.hours})"
    if limits.in_flight is not None:
        yield limits.in_flight - use.in_flight, f"{use.in_flight} of at most {limits.in_flight} groups are in flight"
    if limits.per_hour is not None:
        used = use.in_the_hour(now)
        yield limits.per_hour - used, f"{used} of at most {limits.per_hour} submissions{_next_sent(limits, use, now)}"
    if limits.building is not None:
        building = f"{use.building} of at most {limits.building} quantum graphs are being built"
        yield limits.building - use.building, building
    yield from _slowly(limits, use, now)


def _slowly(limits: Limits, use: Use, now: float) -> Iterator[tuple[int, str]]:
    if (ramp := limits.ramp) and use.returned is not None and now - use.returned < ramp.over > 0:
        yield _ramp(limits, ramp, use, use.returned, now)


def _next_sent(limits: Limits, use: Use, now: float) -> str:
    """Say when the next submission may come, as far as that is known."""
    begin = bisect_right(use.sent, now - HOUR)
    place = begin + use.in_the_hour(now) - (limits.per_hour or 0)
    next_one = f", the next from {clock(use.sent[place] + HOUR)} on" if begin <= place < len(use.sent) else ""
    return f" in the last 60 minutes{next_one}"


def _ramp(limits: Limits, ramp: Ramp, use: Use, returned: float, now: float) -> tuple[int, str]:
    # What was submitted since the return may grow to the whole of the limits; so does the rate.
    whole = min(value for value in (limits.in_flight, limits.per_hour, UNLIMITED) if value is not None)
    fraction = ramp.start + (1.0 - ramp.start) * max(0.0, now - returned) / ramp.over
    most = max(1, int(fraction * whole))
    since = len(use.sent) - bisect_left(use.sent, returned) + use.pending
    back = f"the WMS is back since {clock(returned)}, all is taken again from {clock(returned + ramp.over)} on"
    return most - since, f"{since} of at most {most} submissions since then: {back}"


def share(limits: Limits, use: Use, now: float, more: int = 0) -> float:
    """How much of a site somebody has: of the limit of which the fraction is greatest (dominant resource fairness).

    Slots alone would not do: where submissions are what is scarce, whose workflows are short would get them all.

    Parameters
    ----------
    limits
        The site's limits.
    use
        What that somebody uses of them.
    now
        The time, in seconds since the epoch.
    more
        How many groups more it is to be.
    """
    parts = [0.0]
    if limits.in_flight:
        parts.append((use.in_flight + more) / limits.in_flight)
    if limits.per_hour:
        parts.append((use.in_the_hour(now) + more) / limits.per_hour)
    return max(parts)


def last_return(outages: Iterable[Sequence[float]], ramp: Ramp) -> float | None:
    """When the latest outage ended that was long enough to count; None if there was none.

    Parameters
    ----------
    outages
        Begin and end of each, in seconds since the epoch.
    ramp
        Says how long is long enough.
    """
    return max((end for begin, end in outages if end - begin >= ramp.after), default=None)


def remember(outages: Iterable[Sequence[float]], begin: float, end: float) -> list[list[float]]:
    """Add an outage to those that are remembered: of the last day, and of very many the longest.

    Parameters
    ----------
    outages
        Begin and end of each, in seconds since the epoch.
    begin, end
        Those of the new one.
    """
    recent = [[first, last] for first, last in (*outages, (begin, end)) if last > end - 24 * HOUR]
    longest = sorted(recent, key=lambda outage: outage[0] - outage[1])[:_OUTAGES]
    return sorted(longest)


def clock(seconds: float) -> str:
    """Write a time for a sentence, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
