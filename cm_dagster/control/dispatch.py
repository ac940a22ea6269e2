"""Which attempts are requested now, and which go to the WMS: automatic work enters the queue only as slots come free.

Both are chosen in the same way, from all that could go at the site (`cm_dagster.policy.dispatch.allocate`), so what is
requested is what will be taken.
"""

from __future__ import annotations

import heapq
import time
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, takewhile

import dagster as dg

from cm_dagster.control.desk import turn
from cm_dagster.control.floor import Floor
from cm_dagster.control.site import Site
from cm_dagster.control.steps import Board
from cm_dagster.control.turns import answered, answers, due
from cm_dagster.control.waiting import wait_of
from cm_dagster.ledger import tags
from cm_dagster.ledger.attempts import Attempt
from cm_dagster.ledger.copies import Wish
from cm_dagster.plan.names import AttemptId, StepId
from cm_dagster.policy.dispatch import Lane, Waiting, allocate, urgency
from cm_dagster.policy.holds import stopped
from cm_dagster.policy.limits import UNLIMITED
from cm_dagster.policy.states import State
from cm_dagster.policy.why import Turn, why_waiting

__all__ = ["MAX_PER_TICK", "Outlook", "look", "take_again", "take_queued", "why_group_waits", "wishes"]

MAX_PER_TICK = 100
"""Most attempts requested in one tick: it keeps ticks short."""
_AGAIN = 600.0
"""Seconds after which a request that gave no attempt is repeated."""
_AHEAD = 2
"""How many times as many graphs as may be built are requested, so that the builders never wait for a tick."""


@dataclass(frozen=True)
class Outlook:
    """What is to be requested at a site, and why the rest is not."""

    wishes: list[Wish]
    going: frozenset[str]
    """Runs of the attempts in the queue that go next."""
    floor: Floor

    @property
    def reasons(self) -> list[str]:
        """Why groups wait that could go otherwise: what holds their step, and which limit is reached."""
        found = []
        for board in self.floor.boards.values():
            if board.campaign.started and board.active:
                found += [hold.reason for step in board.active for hold in self.floor.holds(board, step)]
                found.append(self.floor.campaign_full(board))
        return list(dict.fromkeys(reason for reason in [self.floor.site_full, *found] if reason))


def look(instance: dg.DagsterInstance, site: Site) -> Outlook:
    """Look at a site, and choose the attempts to request there, at most `MAX_PER_TICK`."""
    floor = Floor(instance, site.name, site.spec)
    chosen = _allocate(floor, requests=True)
    new = [each for each in chosen if not each.run_id]
    going = frozenset(each.run_id for each in chosen if each.run_id)
    return Outlook([_wish(floor, each) for each in new[:MAX_PER_TICK]], going, floor)


def wishes(instance: dg.DagsterInstance, site: Site) -> list[Wish]:
    """Choose the attempts to request at a site, at most `MAX_PER_TICK`."""
    return look(instance, site).wishes


def _wish(floor: Floor, chosen: Waiting) -> Wish:
    step = StepId.from_tag(chosen.step)
    attempt = AttemptId(step, chosen.group, chosen.number)
    # What it follows is part of the key, since an attempt of a person may have come in between; and the time,
    # since a run may die before the coordinator has made an attempt of it.
    latest = floor.index.of_step(step).get(chosen.group)
    key = f"{attempt.workflow} after {latest.run_id if latest else 'nothing'} {int(time.time() // _AGAIN)}"
    answer = answers(floor, floor.boards[step.campaign], step.step).get(chosen.group)
    own = {tags.HOW: answer.recipe, tags.USER: "" if answer.by_rule else answer.user} if answer else {}
    by = {} if chosen.by_person else {tags.BY: "dispatch"}
    return Wish(attempt, key, {**by, tags.WANT: str(chosen.number), **{tag: text for tag, text in own.items() if text}})


def take_again(floor: Floor, attempts: Iterable[Attempt]) -> list[str]:
    """Choose those that are handed to the site once more, of attempts in its hands that have no workflow.

    Parameters
    ----------
    floor
        The site; what is chosen counts there from now on.
    attempts
        The attempts.

    Returns
    -------
    run_ids : `list` [`str`]
        Their runs.
    """
    lanes = []
    for name, own in _by_campaign(attempts).items():
        board = floor.boards.get(name)
        lanes.append(Lane(name, sorted(map(turn, own), key=urgency), floor.room_again(board) if board else UNLIMITED))
    chosen = [each.run_id for each in allocate(lanes, floor.room_again())]
    floor.take(chosen)
    return chosen


def take_queued(floor: Floor, attempts: Iterable[Attempt]) -> list[str]:
    """Choose those that are handed to the site now, of attempts in the queue, in order.

    Parameters
    ----------
    floor
        The site.
    attempts
        The attempts; none whose group has another one on its way.

    Returns
    -------
    run_ids : `list` [`str`]
        Their runs.
    """
    only = {attempt.run_id for attempt in attempts}
    return [chosen.run_id for chosen in _allocate(floor, requests=False, only=only)]


def why_group_waits(floor: Floor, board: Board, step: str, group: str) -> str:
    """Say why a group does not go, in one sentence; empty where it need not: it is on its way, or is not to go.

    Parameters
    ----------
    floor
        The group's site.
    board
        Where the campaign stands.
    step
        The step, which is planned.
    group
        Name of the group.
    """
    attempt = floor.index.of_step(floor.step_id(board, step)).get(group)
    if attempt is not None and attempt.state is State.CLAIMED and not floor.waits(attempt):
        return floor.site_slow
    if attempt is not None and attempt.state is State.QUEUED:
        own = turn(attempt)
    elif step in board.active and (found := _next_of(floor, board, step, group)):
        own = found
    else:
        held = floor.decided(board, step).holds.get(group)
        return f"it is held {held}; cm group release {board.name} {step} {group} --reason TEXT" if held else ""
    wait = wait_of(attempt) if attempt and floor.waits(attempt) else None
    before = takewhile(
        lambda other: (other.step, other.group) != (own.step, group), _waiting(floor, board, requests=True)
    )
    goes = {(other.step, other.group) for other in _allocate(floor, requests=True)}
    return why_waiting(
        Turn(
            group=group,
            not_started=""
            if board.campaign.started
            else f"the campaign is not started: cm campaign start {board.name}",
            waits=f"waits: {wait}" if wait else _awaited(floor, board, step, group),
            holds=floor.explained(board, step),
            singly=own.by_person and not own.in_bulk,
            site_full=floor.site_full,
            campaign_full=floor.campaign_full(board),
            goes=(own.step, group) in goes,
            ahead=sum(1 for _ in before),
        )
    )


def _awaited(floor: Floor, board: Board, step: str, group: str) -> str:
    """Say that a group's inputs are not where it is to run; empty if they are."""
    if not floor.awaits(board, step, group):
        return ""
    return f"its inputs are not at {floor.name} yet: they are brought there by stage_{floor.name}, in order of groups"


def _next_of(floor: Floor, board: Board, step: str, group: str) -> Waiting | None:
    """Give the attempt that a group gets by itself, whatever holds its step; None if it gets none."""
    answer = answers(floor, board, step).get(group)
    number = floor.line(board, step).next_number(group)
    if answer is not None:
        last = floor.index.of_step(floor.step_id(board, step))[group]
        number = answer.number if answer.is_due(last.run_id, last.state) else None
    elif group in floor.decided(board, step).holds:
        return None
    person = answer is not None and not answer.by_rule
    return Waiting(floor.step_id(board, step).tag, group, number, by_person=person) if number else None


# --------------------------------------------------------------------------------------------------- what could go


def _allocate(floor: Floor, *, requests: bool, only: Container[str] | None = None) -> list[Waiting]:
    """Choose what goes now: of the queue (or only of some runs in it), and if requests are made, of all that could."""
    ahead = _AHEAD if requests else 1
    left = floor.room(ahead)
    if left <= 0:
        return []
    names = dict.fromkeys([*floor.desk.campaigns(floor.name), *(floor.boards if requests else ())])
    return allocate([_lane(floor, name, ahead, requests=requests, only=only) for name in names], left)


def _by_campaign(attempts: Iterable[Attempt]) -> dict[str, list[Attempt]]:
    found: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        found[attempt.id.step.campaign].append(attempt)
    return found


def _lane(floor: Floor, name: str, ahead: int, *, requests: bool, only: Container[str] | None) -> Lane:
    board = floor.boards.get(name)
    if board is None:  # there is no such campaign any more: its attempts go, and fail with that reason
        return Lane(name, _queued(floor, name, None, only), UNLIMITED)
    room = floor.campaign_room(board, ahead)
    if room <= 0:
        return Lane(name, [], 0)
    use, share = floor.share(name)
    last = use.sent[-1] if use.sent else 0.0
    waiting = _waiting(floor, board, requests=requests, only=only)
    return Lane(name, waiting, room, board.campaign.now.priority, share, use.in_the_hour(floor.now), last)


def _waiting(floor: Floor, board: Board, *, requests: bool, only: Container[str] | None = None) -> Iterator[Waiting]:
    """Give what a campaign has to go, in order."""
    queued = _queued(floor, board.name, board, only)
    if not requests or not board.campaign.started:
        return queued
    decided = sorted(answered(floor, board), key=urgency)
    return heapq.merge(queued, decided, due(floor, board), key=urgency)


def _queued(floor: Floor, name: str, board: Board | None, only: Container[str] | None) -> Iterator[Waiting]:
    """Give what a campaign has in the queue that nothing holds, in order; each is looked at when its turn comes."""
    places = {step: place for place, step in enumerate(board.campaign.spec.order() if board else ())}
    queue = floor.desk.queue(floor.name, name)
    # People's requests are in order. The others are not, by the places of their steps; but they are few.
    first = next((place for place, attempt in enumerate(queue) if not attempt.by_person), len(queue))
    rest = sorted(queue[first:], key=lambda attempt: urgency(turn(attempt, places.get(attempt.id.step.step, 0))))
    for attempt in chain(islice(queue, first), rest):
        if only is not None and attempt.run_id not in only:
            continue
        one = turn(attempt, places.get(attempt.id.step.step, 0))
        if not floor.waits(attempt) and not (board and _is_held(floor, board, attempt, one)):
            yield one


def _is_held(floor: Floor, board: Board, attempt: Attempt, one: Waiting) -> bool:
    step = attempt.id.step.step
    if floor.awaits(board, step, one.group):
        return True
    singly = one.by_person and not one.in_bulk
    return step in board.plans and bool(stopped(floor.holds(board, step), one.group, singly=singly))
