"""Which attempts are requested now: automatic work enters Dagster's queue only as slots come free."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import dagster as dg

from cm_dagster.control.site import Site
from cm_dagster.control.steps import Board, load_boards
from cm_dagster.ledger.attempts import AttemptIndex, index_of
from cm_dagster.plan.names import AttemptId, StepId
from cm_dagster.policy.dispatch import choose_groups

__all__ = ["MAX_PER_TICK", "Wish", "wishes"]

MAX_PER_TICK = 100
"""Most attempts requested in one tick: it keeps ticks short."""
_AGAIN = 600.0
"""Seconds after which a request that gave no attempt is repeated."""


@dataclass(frozen=True)
class Wish:
    """An attempt that is to be requested."""

    id: AttemptId
    run_key: str
    """Makes Dagster request it once, whatever is repeated."""


def wishes(instance: dg.DagsterInstance, site: Site) -> list[Wish]:
    """Choose the attempts to request at a site, at most `MAX_PER_TICK`, campaign by campaign in order of names."""
    index = index_of(instance)
    room = min(site.spec.limits.in_flight - len(index.open_at(site.name)), MAX_PER_TICK)
    if room <= 0:
        return []
    boards = (board for board in load_boards(instance) if board.campaign.started)
    return list(islice((wish for board in boards for wish in _of_campaign(index, site, board, room)), room))


def _of_campaign(index: AttemptIndex, site: Site, board: Board, room: int) -> Iterator[Wish]:
    for step in board.active:
        id_ = StepId(board.name, step, site.name)
        groups = [group.name for group in board.plans[step].at(site.name)]
        rules = board.campaign.spec.settings(step)
        latest = index.of_step(id_)
        for name, number in choose_groups(
            groups, index.latest(id_), room=room, scouts=rules.scouts, retries=rules.retry.max
        ):
            attempt = AttemptId(id_, name, number)
            # What it follows is part of the key, since an attempt of a person may have come in between; and the time,
            # since a run may die before the coordinator has made an attempt of it.
            after = latest[name].run_id if name in latest else "nothing"
            yield Wish(attempt, f"{attempt.workflow} after {after} {int(time.time() // _AGAIN)}")
