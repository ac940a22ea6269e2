"""What a campaign's output at a site should hold by the ledger, and what the Butler says that it holds."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from cm_dagster.control.site import Site
from cm_dagster.control.steps import Board, Document, accepted, chained_key, collected_key
from cm_dagster.ledger.attempts import Attempt, index_of
from cm_dagster.plan.names import AttemptId, StepId, site_output, step_output
from cm_dagster.policy.audit_traces import Chain
from cm_dagster.policy.findings import Known
from cm_dagster.policy.states import State

__all__ = ["Outputs", "Promise", "as_known", "list_outputs", "promises", "strangers"]


@dataclass(frozen=True)
class Promise:
    """What the ledger says that a campaign's output at a site holds."""

    board: Board
    accepted: Sequence[tuple[Known, str]]
    """The accepted attempt of each group, with each RUN collection that it stands for."""
    chains: Sequence[Chain]


@dataclass(frozen=True)
class Outputs:
    """A promise, and what there is."""

    promise: Promise
    repo: str
    collections: Mapping[str, Sequence[str]]
    """All RUN collections and chains of the output; the children of chains."""


def as_known(attempt: Attempt, now: float) -> Known:
    """Say of an attempt what an audit compares."""
    times = (attempt.created, attempt.started, attempt.ended, attempt.restarted)
    return Known(
        id=attempt.id,
        run_id=attempt.run_id,
        state=attempt.state,
        wms_ids=frozenset({attempt.wms_id} - {""}),
        quiet=now - max(moment for moment in times if moment is not None),
        since=attempt.created if attempt.state is State.QUEUED else attempt.ended,
        restarts=attempt.restarts,
    )


def promises(instance: dg.DagsterInstance, site: Site, boards: Sequence[Board], now: float) -> list[Promise]:
    """Say what the outputs of campaigns hold by the ledger.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        The site.
    boards
        Where the campaigns stand.
    now
        Seconds since the epoch.
    """
    index = index_of(instance)
    steps = {board.name: [StepId(board.name, s, at) for s, at in _places(board)] for board in boards}
    chained = Document.CHAINED.read(instance, [step for found in steps.values() for step in found])
    made = []
    for board in boards:
        latest = {step: [index.of_step(step)[name] for name in accepted(index, step)] for step in steps[board.name]}
        here = [step for step in latest if step.site == site.name]
        output = board.campaign.spec.butler.output
        runs = [
            (as_known(attempt, now), name)
            for step in here
            for attempt in latest[step]
            for name in attempt.outputs(output)
        ]
        chains = [_at(board, step, latest[step], chained.get(step.tag, {})) for step in here]
        if site.spec.home:
            chains += _collected(board, latest)
        made.append(Promise(board, runs, chains))
    return made


def _places(board: Board) -> Iterator[tuple[str, str]]:
    for step in board.campaign.spec.order():
        for site in board.campaign.spec.sites:
            yield step, site


def _at(board: Board, step: StepId, latest: Sequence[Attempt], chained: Mapping[str, int]) -> Chain:
    """Say what a step's chain at the site holds: what was accepted and not chained yet is not missing in it."""
    output = board.campaign.spec.butler.output
    done = [attempt for attempt in latest if chained.get(attempt.id.group) == attempt.id.number]
    cure = f"partition {done[0].id.group if done else ''} of {chained_key(step).to_user_string()}"
    return Chain(site_output(output, step), step.campaign, step.step, _needed(output, done), cure)


def _needed(output: str, attempts: Iterable[Attempt]) -> dict[str, str]:
    return {name: attempt.id.group for attempt in attempts for name in attempt.outputs(output)}


def _collected(board: Board, latest: Mapping[StepId, Sequence[Attempt]]) -> Iterator[Chain]:
    """Say what the chains of collected steps hold, and the campaign's own."""
    output = board.campaign.spec.butler.output
    done = [step for step in board.campaign.spec.order() if step in board.collected]
    for name in done:
        attempts = [attempt for step, found in latest.items() if step.step == name for attempt in found]
        cure = collected_key(board.name, name).to_user_string()
        yield Chain(step_output(output, name), board.name, name, _needed(output, attempts), cure)
    if done:
        cure = collected_key(board.name, done[-1]).to_user_string()
        yield Chain(output, board.name, "", {step_output(output, name): "" for name in done}, cure)


def list_outputs(site: Site, promise: Promise) -> Outputs:
    """Ask the Butler what a campaign's output holds.

    Raises
    ------
    ButlerError
        If it can't be asked.
    """
    spec = promise.board.campaign.spec
    butler = site.butler(spec)
    found: dict[str, Sequence[str]] = dict(butler.below(spec.butler.output))
    if any(chain.name == spec.butler.output for chain in promise.chains):
        top = butler.chain(spec.butler.output)
        found.update({} if top is None else {spec.butler.output: top})
    return Outputs(promise, site.repo(spec), found)


def strangers(
    outputs: Outputs, site: str, known: Container[tuple[str, str, str, int]]
) -> Iterator[tuple[AttemptId, str]]:
    """Name the RUN collections that have the name of an attempt that the ledger does not have.

    Parameters
    ----------
    outputs
        The campaign's output.
    site
        Name of the site.
    known
        Campaign, step, group and number of all attempts of the ledger, at whatever site.
    """
    spec = outputs.promise.board.campaign.spec
    for name in outputs.collections:
        try:
            id_ = AttemptId.from_run(name, campaign=spec.campaign, output=spec.butler.output, site=site)
        except ValueError:
            continue  # a person's own, or one of our chains
        if (id_.step.campaign, id_.step.step, id_.group, id_.number) not in known:
            yield id_, name
