"""What a campaign does next as a whole: chain what was accepted, collect a step, make the next step's groups."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import dagster as dg

from cm_dagster.control.collect import missing_groups
from cm_dagster.control.site import Site
from cm_dagster.control.steps import Board, accepted, collected_key, inputs_key, load_boards, read_chained
from cm_dagster.ledger import tags
from cm_dagster.ledger.attempts import UNFINISHED, index_of
from cm_dagster.plan.names import StepId

__all__ = ["ADVANCE", "Move", "chains_due", "moves"]

ADVANCE = "advance"
"""Value of ``cm/kind`` on the runs that collect a step and plan the next."""


@dataclass(frozen=True)
class Move:
    """Assets that are to be materialized in one run."""

    campaign: str
    assets: tuple[dg.AssetKey, ...]
    run_key: str
    """Makes Dagster request it once, whatever is repeated."""


def chains_due(instance: dg.DagsterInstance, site: Site) -> list[tuple[StepId, str]]:
    """Name the steps with accepted groups that are not in the step's chain at a site, each with a run key.

    A step that can be collected is left out at the home site: its collection chains the last groups itself.
    """
    boards = [board for board in load_boards(instance) if board.campaign.started]
    steps = [
        StepId(board.name, step, site.name)
        for board in boards
        for step in board.active
        if not site.spec.home or missing_groups(instance, board.plans[step], except_chains_of=site.name)
    ]
    index = index_of(instance)
    chained = read_chained(instance, steps)
    due = []
    for step in steps:
        now = accepted(index, step)
        if now and now != chained.get(step.tag):
            due.append((step, f"{step.tag} {_digest(now)}"))
    return due


def _digest(document: object) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


def moves(instance: dg.DagsterInstance, home: Site) -> list[Move]:
    """Say what each started campaign does next: collect steps that are complete, plan those that may begin."""
    started = [board for board in load_boards(instance) if board.campaign.started]
    busy = _under_way(instance)
    due = (_move(instance, home, board, busy) for board in started)
    return [move for move in due if move.assets]


def _under_way(instance: dg.DagsterInstance) -> set[dg.AssetKey]:
    """Assets that unfinished runs of this kind are about to make."""
    wanted = dg.RunsFilter(tags={tags.KIND: ADVANCE}, statuses=UNFINISHED)
    return {key for run in instance.get_runs(wanted) for key in run.asset_selection or ()}


def _move(instance: dg.DagsterInstance, home: Site, board: Board, busy: set[dg.AssetKey]) -> Move:
    plans = board.plans
    complete = [s for s in board.active if not missing_groups(instance, plans[s], except_chains_of=home.name)]
    begin = board.may_plan(also_collected=complete)
    wanted = [collected_key(board.name, step) for step in complete] + [inputs_key(board.name, step) for step in begin]
    assets = [key for key in wanted if key not in busy]
    # A person's decision (a sign-off) lets a step whose inputs failed be tried again.
    key = f"{board.name} {'+'.join(key.path[1] + '.' + key.path[2] for key in assets)} {board.campaign.revision}"
    return Move(board.name, tuple(assets), key)
