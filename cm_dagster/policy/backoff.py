"""How long is waited before something is tried again that failed by what passes, and what is remembered of it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

__all__ = ["JITTER", "Wait", "delay", "wait_again"]

JITTER = 0.1
"""Share of a delay by which it may be shortened, so that what failed together is not tried together for ever."""
_FACTOR = 2.0
_DOUBLINGS = 64
"""Of a delay; more would overflow, and none is as long."""
_LONGEST_CAUSE = 300
"""Characters of a cause that are kept: it is written on a run, of which PostgreSQL indexes 2,700 bytes at most."""


def delay(tries: int, seed: str, *, first: float, longest: float) -> float:
    """Say how long to wait after a number of tries: each time twice as long, up to a limit.

    Parameters
    ----------
    tries
        How often it was tried, from 1.
    seed
        Whose delay it is: the same gives the same jitter, so that nothing has to be remembered.
    first
        Delay after the first try, in seconds.
    longest
        Longest delay, in seconds.

    Returns
    -------
    seconds
        At most ``longest``, and at least ``1 - JITTER`` times what it would be without jitter.
    """
    doublings = min(max(tries, 1) - 1, _DOUBLINGS)
    digest = hashlib.sha256(f"{seed} {tries}".encode()).digest()
    share = int.from_bytes(digest[:8]) / 2**64
    return min(first * _FACTOR**doublings, longest) * (1.0 - JITTER * share)


@dataclass(frozen=True)
class Wait:
    """Something that failed by what passes, and waits to be tried again. Times are seconds since the epoch."""

    cause: str
    """Why it failed the last time."""
    tries: int
    """How often it failed in a row."""
    since: float
    """When it failed first."""
    last: float
    """When it failed last."""
    next: float
    """When it is tried again."""

    def is_due(self, now: float) -> bool:
        """Whether it may be tried now; also where the clock was set back behind the last try, or it might wait long."""
        return now >= self.next or now < self.last

    def lasts(self, now: float) -> float:
        """Seconds since it failed first; 0 where the clock was set back."""
        return max(0.0, now - self.since)

    def __str__(self) -> str:
        times = "once" if self.tries == 1 else f"{self.tries} times"
        return f"{self.cause}; tried {times} since {_utc(self.since)}, next try at {_utc(self.next)}"

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON can hold it, for people's scripts."""
        return {
            "cause": self.cause,
            "tries": self.tries,
            "since": _utc(self.since),
            "last": _utc(self.last),
            "next": _utc(self.next),
        }

    def dump(self) -> str:
        """Write it as text that `load` reads."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def load(cls, text: str) -> Self | None:
        """Read what `dump` wrote; None where there is nothing, or nothing that can be read."""
        try:
            found = json.loads(text) if text else None
            return cls.of(found) if found else None
        except (ValueError, TypeError):
            return None

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """Make one of the fields that `dataclasses.asdict` gives.

        Raises
        ------
        TypeError
            If they are others.
        """
        return cls(**fields)


def wait_again(before: Wait | None, cause: str, now: float, seconds: float) -> Wait:
    """Make what is remembered after one more failure.

    Parameters
    ----------
    before
        What was remembered so far; None if it has not failed before.
    cause
        Why it failed now; what is too long is cut.
    now
        The time.
    seconds
        How long it is to wait.
    """
    short = cause if len(cause) <= _LONGEST_CAUSE else f"{cause[: _LONGEST_CAUSE - 3]}..."
    if before is None:
        return Wait(short, 1, now, now, now + seconds)
    return Wait(short, before.tries + 1, min(before.since, now), now, now + seconds)


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
