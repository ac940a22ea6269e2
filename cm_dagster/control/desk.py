"""What dispatch has to know of all attempts, kept in memory and brought up to date by what has changed.

It is a cache of the ledger: a new process makes it anew, and nothing is lost with it.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Collection, Sequence
from weakref import WeakKeyDictionary

import dagster as dg

from cm_dagster.ledger.attempts import Attempt, AttemptIndex
from cm_dagster.ledger.plans import Plan
from cm_dagster.plan.names import StepId
from cm_dagster.policy.brake import Brake, BrakeRule, End
from cm_dagster.policy.dispatch import Waiting, urgency
from cm_dagster.policy.line import Latest, Line
from cm_dagster.policy.states import State

__all__ = ["Desk", "desk_of", "turn"]

_ENDS = (State.ACCEPTED, State.FAILED)


class Desk:
    """When workflows were submitted, how attempts ended, what is in the queue, and which groups of each step are due.

    Parameters
    ----------
    index
        All attempts.
    """

    def __init__(self, index: AttemptIndex) -> None:
        self._index = index
        self._lock = threading.Lock()
        self._mark = 0
        self._times: dict[str, tuple[float, ...]] = {}
        self._sent: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._ends: dict[str, dict[str, End]] = defaultdict(dict)
        self._brakes: dict[str, _Following] = {}
        self._lines: dict[str, tuple[Plan, int, Line]] = {}
        self._queues: dict[tuple[str, str], list[_Entry]] = defaultdict(list)
        self._queued: dict[str, _Entry] = {}

    def refresh(self) -> None:
        """Take note of what has changed in the index."""
        with self._lock:
            self._mark, changed = self._index.changes(self._mark)
            for attempt in changed:
                self._count(attempt)
                self._end(attempt)
                self._queue(attempt)
                if attempt.id.step.tag in self._lines:
                    self._note(self._lines[attempt.id.step.tag][2], attempt)

    def sent(self, *, campaign: str = "", site: str = "") -> Sequence[float]:
        """When workflows were submitted, the oldest first: all of them, or those of a campaign, or at a site."""
        return self._sent[campaign, site]

    def queue(self, site: str, campaign: str) -> list[Attempt]:
        """Give the attempts of a campaign in the queue of a site, in order of `urgency`, all steps being equal."""
        with self._lock:
            return [attempt for _, _, attempt in self._queues.get((site, campaign), ())]

    def campaigns(self, site: str) -> list[str]:
        """Name the campaigns that have attempts in the queue of a site."""
        with self._lock:
            return [campaign for (where, campaign), queue in self._queues.items() if where == site and queue]

    def line(self, step: StepId, plan: Plan, retries: int) -> Line:
        """Give the groups of a step at a site.

        Parameters
        ----------
        step
            The step.
        plan
            Its plan.
        retries
            How many times a failed group is tried again by itself.
        """
        with self._lock:
            kept = self._lines.get(step.tag)
            if kept and kept[0] is plan and kept[1] == retries:
                return kept[2]
            groups = plan.at(step.site)
            firsts = {group.name: group.first for group in groups if group.first > 1}
            line = Line([group.name for group in groups], retries, firsts)
            for attempt in list(self._index.of_step(step).values()):
                self._note(line, attempt)
            self._lines[step.tag] = plan, retries, line
            return line

    def brake(self, step: StepId, rule: BrakeRule, since: float) -> Brake:
        """Give the brake of a step at a site.

        Parameters
        ----------
        step
            The step.
        rule
            When it takes hold.
        since
            When a person released it last, in seconds since the epoch.
        """
        with self._lock:
            kept = self._brakes.get(step.tag)
            if kept is None or (kept.brake.rule, kept.brake.since) != (rule, since):
                kept = _Following(rule, since, self._ends[step.tag].values())
                self._brakes[step.tag] = kept
            return kept.brake

    def _note(self, line: Line, attempt: Attempt) -> None:
        latest = self._index.of_step(attempt.id.step).get(attempt.id.group, attempt)
        line.note(attempt.id.group, Latest(latest.id.number, latest.state))

    def _count(self, attempt: Attempt) -> None:
        """Count the submissions of an attempt: its own, and the latest restart of its workflow."""
        times = tuple(time for time in (attempt.sent, attempt.restarted) if time)
        before = self._times.get(attempt.run_id, ())
        if times == before:
            return
        self._times[attempt.run_id] = times
        step = attempt.id.step
        for key in (("", step.site), (step.campaign, ""), (step.campaign, step.site)):
            every = self._sent[key]
            for time in before:
                del every[bisect_left(every, time)]
            for time in times:
                insort(every, time)

    def _queue(self, attempt: Attempt) -> None:
        step = attempt.id.step
        queue = self._queues[step.site, step.campaign]
        if before := self._queued.pop(attempt.run_id, None):
            del queue[bisect_left(queue, before[:2], key=_place)]
        if attempt.status is dg.DagsterRunStatus.QUEUED:
            self._queued[attempt.run_id] = entry = (urgency(turn(attempt)), attempt.run_id, attempt)
            insort(queue, entry, key=_place)

    def _end(self, attempt: Attempt) -> None:
        tag, run_id = attempt.id.step.tag, attempt.run_id
        end = None
        if attempt.state in _ENDS:
            began = attempt.started or attempt.created
            good = attempt.state is State.ACCEPTED
            end = End(attempt.ended or began, run_id, attempt.id.group, good, began)
        before = self._ends[tag].get(run_id)
        if end == before:
            return
        if end is None:
            del self._ends[tag][run_id]
        else:
            self._ends[tag][run_id] = end
        following = self._brakes.get(tag)
        if following and (before is not None or end is None or not following.add(end)):
            del self._brakes[tag]  # what was believed has changed, or comes late: it is followed anew when asked for


type _Entry = tuple[tuple[int | float | str, ...], str, Attempt]
"""An attempt in the queue, after what it is sorted by."""


def _place(entry: _Entry) -> tuple[tuple[int | float | str, ...], str]:
    return entry[:2]


def turn(attempt: Attempt, place: int = 0) -> Waiting:
    """Give an attempt in the queue as the policies take it.

    Parameters
    ----------
    attempt
        The attempt.
    place
        Place of its step in the campaign.
    """
    return Waiting(
        step=attempt.id.step.tag,
        group=attempt.id.group,
        number=attempt.id.number,
        run_id=attempt.run_id,
        by_person=attempt.by_person,
        in_bulk=attempt.by_person and attempt.backfill is not None,
        priority=attempt.priority,
        since=attempt.created,
        place=place,
    )


class _Following:
    """A brake that follows ends as they come."""

    def __init__(self, rule: BrakeRule, since: float, ends: Collection[End]) -> None:
        self.brake = Brake.after(rule, since, ends)
        self._last = max(ends, default=None)

    def add(self, end: End) -> bool:
        """Take note of an end; returns False if it is earlier than one before."""
        if self._last is not None and end < self._last:
            return False
        self.brake.add(end)
        self._last = end
        return True


_DESKS: WeakKeyDictionary[AttemptIndex, Desk] = WeakKeyDictionary()


def desk_of(index: AttemptIndex) -> Desk:
    """Give this process's desk of an index, up to date."""
    desk = _DESKS.setdefault(index, Desk(index))
    desk.refresh()
    return desk
