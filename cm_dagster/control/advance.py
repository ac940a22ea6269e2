"""What a campaign does next as a whole: chain what was accepted, collect a step, make the next step's groups."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import dagster as dg

from cm_dagster.control.again import Last, look_at_last
from cm_dagster.control.collect import is_complete
from cm_dagster.control.lifeline import living
from cm_dagster.control.site import Site
from cm_dagster.control.steps import Board, Document, collected_key, inputs_key, load_boards
from cm_dagster.ledger import tags
from cm_dagster.ledger.attempts import UNFINISHED, index_of
from cm_dagster.plan.names import StepId

__all__ = ["ADVANCE", "Chain", "Move", "chains_due", "moves"]

ADVANCE = "advance"
"""Value of ``cm/kind`` on the runs that collect a step and plan the next."""


@dataclass(frozen=True)
class Move:
    """Assets that are to be materialized in one run."""

    campaign: str
    assets: tuple[dg.AssetKey, ...]
    run_key: str
    """Makes Dagster request it once, whatever is repeated."""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Chain:
    """A step whose chain at a site is to be set."""

    step: StepId
    run_key: str
    """Makes Dagster request it once, whatever is repeated."""
    tags: Mapping[str, str]


def chains_due(instance: dg.DagsterInstance, site: Site) -> list[Chain]:
    """Name the steps with accepted groups that are not in the step's chain at a site.

    A step that can be collected is left out at the home site: its collection chains the last groups itself. At another
    site a chain may be behind also when the step is collected, since what is collected is at the home site. Left out
    are chains that are being set, or wait after a failure.
    """
    boards = [board for board in load_boards(instance) if board.campaign.started]
    index = index_of(instance)
    steps = {
        StepId(board.name, step, site.name): board.campaign
        for board in boards
        for step in (board.active if site.spec.home else board.plans)
        if not site.spec.home or not is_complete(instance, board.plans[step], index, except_chains_of=site.name)
    }
    chained = Document.CHAINED.read(instance, steps)
    due = []
    for step, campaign in steps.items():
        now = index.accepted(step)
        if now != chained.get(step.tag, {}):  # also to nothing, where what was accepted is rejected
            last = instance.get_run_records(_chain_runs(step), limit=1)
            look = look_at_last(instance, site, campaign, last[0] if last else None)
            if look.is_due:
                due.append(Chain(step, f"{step.tag} {_digest(now)}{look.key}", look.tags(site, campaign, step.tag)))
    return due


def _chain_runs(step: StepId) -> dg.RunsFilter:
    return dg.RunsFilter(job_name=f"chain_{step.site}", tags={tags.STEP: step.tag})


def _digest(document: object) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


def moves(instance: dg.DagsterInstance, home: Site) -> list[Move]:
    """Say what each started campaign does next: collect steps that are complete, plan those that may begin.

    What is under way, and what waits after a failure, is left out.
    """
    started = [board for board in load_boards(instance) if board.campaign.started]
    busy = _under_way(instance, home)
    due = (_move(instance, home, board, busy) for board in started)
    return [move for move in due if move.assets]


def _under_way(instance: dg.DagsterInstance, home: Site) -> set[dg.AssetKey]:
    """Assets that unfinished runs of this kind are about to make."""
    wanted = dg.RunsFilter(tags={tags.KIND: ADVANCE}, statuses=UNFINISHED)
    records = living(instance, home, instance.get_run_records(wanted))
    return {key for record in records for key in record.dagster_run.asset_selection or ()}


def _move(instance: dg.DagsterInstance, home: Site, board: Board, busy: set[dg.AssetKey]) -> Move:
    due: dict[dg.AssetKey, Last] = {}

    def is_due(key: dg.AssetKey) -> bool:
        run_id = board.last_runs.get(key)
        record = instance.get_run_record_by_id(run_id) if run_id and key not in busy else None
        last = look_at_last(instance, home, board.campaign, record, key)
        if key not in busy and last.is_due:
            due[key] = last
        return key in due

    planned = [step for step in board.active if not board.lanes_left(step)]
    index = index_of(instance)
    complete = [s for s in planned if is_complete(instance, board.plans[s], index, except_chains_of=home.name)]
    collecting = [step for step in complete if is_due(collected_key(board.name, step))]
    assets = [collected_key(board.name, step) for step in collecting]
    begin = board.may_plan(also_collected=collecting)
    assets += [key for step in begin if is_due(key := inputs_key(board.name, step))]
    # A person's decision (a sign-off) lets a step whose inputs failed be tried again.
    what = "+".join(f"{asset.path[1]}.{asset.path[2]}" for asset in assets)
    run_key = f"{board.name} {what} {board.campaign.revision}"
    after = "".join(sorted({due[asset].key for asset in assets}))
    worst = max((due[asset] for asset in assets), key=_tries, default=Last())
    return Move(board.name, tuple(assets), run_key + after, worst.tags(home, board.campaign, run_key))


def _tries(last: Last) -> int:
    return last.failed.wait.tries if last.failed and last.failed.wait else 0
