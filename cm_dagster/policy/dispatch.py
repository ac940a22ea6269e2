"""Which groups go now, of all that could: the most urgent first, shared evenly, and never more than there is room."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

__all__ = ["Lane", "Waiting", "allocate", "urgency"]


@dataclass(frozen=True)
class Waiting:
    """An attempt that could go: one in the queue, or one that would be requested by itself."""

    step: str
    """Value of ``cm/step``."""
    group: str
    number: int = 1
    """Number of the attempt."""
    run_id: str = ""
    """Empty if it is not requested yet."""
    by_person: bool = False
    """Asked for by a person (Materialize, backfill, re-execution), not by the dispatcher."""
    in_bulk: bool = False
    """Whether a backfill asked for it."""
    priority: int = 0
    """Dagster's own run priority; higher goes first."""
    since: float = 0.0
    """Seconds since the epoch when it was created."""
    place: int = 0
    """Place of its step in the campaign."""


def urgency(attempt: Waiting) -> tuple[int, int, float, int, str, str]:
    """Order the attempts of a campaign.

    What a person asked for singly comes first, then backfills, then the rest; of each the higher priority. What
    people asked for goes in the order of asking, the rest in that of steps and groups.
    """
    asked = attempt.since if attempt.by_person else 0.0
    return _rank(attempt), -attempt.priority, asked, attempt.place, attempt.step, attempt.group


def _rank(attempt: Waiting) -> int:
    return (1 if attempt.in_bulk else 0) if attempt.by_person else 2


@dataclass
class Lane:
    """What a campaign has to go at a site."""

    campaign: str
    waiting: Iterable[Waiting]
    """What could go, in order of `urgency`; it is asked for as it is needed."""
    room: int
    """How many of the campaign may go, by its own limits."""
    priority: int = 0
    share: Callable[[int], float] = float
    """What the campaign would have of the site with so many groups more."""
    sent: int = 0
    """How many of its groups were submitted at the site in the last hour."""
    last: float = 0.0
    """When the latest of all was, in seconds since the epoch."""


def allocate(lanes: Iterable[Lane], room: int) -> list[Waiting]:
    """Choose what goes now, in order.

    First what people asked for, then the rest; of each the campaigns of the highest priority; among equals the
    campaign that has least of the site, and of those that have the same, the one of which nothing went for longest.
    So a slot is left empty only if nobody may go, and a campaign that waits is passed only by what is before it.

    Parameters
    ----------
    lanes
        What each campaign has to go.
    room
        How many groups more the site takes.

    Returns
    -------
    chosen : `list` [`Waiting`]
        At most ``room``, of each campaign at most its own; a group once.
    """
    taken: set[tuple[str, str]] = set()
    heap: list[_Runner] = []
    for lane in lanes:
        _Runner(lane, iter(lane.waiting)).rejoin(heap, taken)
    chosen: list[Waiting] = []
    while heap and len(chosen) < room:
        runner = heapq.heappop(heap)
        chosen.append(runner.head)
        taken.add((runner.head.step, runner.head.group))
        runner.gone += 1
        runner.rejoin(heap, taken)
    return chosen


class _Runner:
    """A lane with the first of what is left of it."""

    def __init__(self, lane: Lane, rest: Iterator[Waiting]) -> None:
        self.lane = lane
        self.rest = rest
        self.gone = 0
        self.head = Waiting("", "")
        self.key: tuple[float | str, ...] = ()

    def rejoin(self, heap: list[_Runner], taken: set[tuple[str, str]]) -> None:
        """Take the next of the lane, and a place among the others; nothing if none is left, or may go."""
        lane = self.lane
        if self.gone >= lane.room:
            return
        for head in self.rest:
            if (head.step, head.group) not in taken:
                self.head = head
                latest = float("inf") if self.gone else lane.last
                priority = lane.priority + head.priority
                fairness = (lane.share(self.gone), lane.sent + self.gone, latest)
                self.key = (_rank(head), -priority, *fairness, lane.campaign)
                heapq.heappush(heap, self)
                return

    def __lt__(self, other: _Runner) -> bool:
        return self.key < other.key
