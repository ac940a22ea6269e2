"""Which groups of a campaign would get an attempt by themselves, were there room for all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cm_dagster.control.holding import Holding
from cm_dagster.control.steps import Board
from cm_dagster.ledger.decisions import Answer
from cm_dagster.policy.dispatch import Waiting
from cm_dagster.policy.holds import Hold, HoldKind, stopped

__all__ = ["answered", "answers", "due"]


def due(
    holding: Holding, board: Board, steps: Iterable[str] | None = None, *, awaited: bool = False
) -> Iterator[Waiting]:
    """Give the groups of which an attempt would be requested by itself, in order.

    Parameters
    ----------
    holding
        The site.
    board
        Where the campaign stands.
    steps
        Steps that are planned and not collected; by default all of these.
    awaited
        Whether groups count too whose inputs are still on their way to the site.
    """
    for place, step, holds in _holds(holding, board, steps):
        if all(hold.kind is HoldKind.SCOUTS for hold in holds):
            scouts = holds[0].scouts if holds else None
            but = {*holding.decided(board, step).holds, *answers(holding, board, step)}
            for group, number in holding.line(board, step).due(only=scouts, but=but):
                if awaited or not holding.awaits(board, step, group):
                    yield Waiting(holding.step_id(board, step).tag, group, number, place=place)


def answered(holding: Holding, board: Board, steps: Iterable[str] | None = None) -> Iterator[Waiting]:
    """Give the groups of which an attempt is requested since a person, or an error rule, has decided so.

    Parameters
    ----------
    holding
        The site.
    board
        Where the campaign stands.
    steps
        Steps that are planned and not collected; by default all of these.
    """
    for place, step, holds in _holds(holding, board, steps):
        latest, held = holding.index.of_step(holding.step_id(board, step)), holding.decided(board, step).holds
        for group, answer in answers(holding, board, step).items():
            person, last = not answer.by_rule, latest[group]
            if stopped(holds, group, singly=person) or (group in held and not person):
                continue
            if answer.is_due(last.run_id, last.state):
                tag = holding.step_id(board, step).tag
                yield Waiting(tag, group, answer.number, by_person=person, since=answer.time, place=place)


def _holds(holding: Holding, board: Board, steps: Iterable[str] | None) -> Iterator[tuple[int, str, list[Hold]]]:
    """Give steps, each with its place in the campaign and what holds it."""
    places = {step: place for place, step in enumerate(board.campaign.spec.order())}
    for step in board.active if steps is None else steps:
        yield places[step], step, holding.holds(board, step)


def answers(holding: Holding, board: Board, step: str) -> dict[str, Answer]:
    """Give what was decided to follow the latest attempts of groups."""
    latest = holding.index.of_step(holding.step_id(board, step))
    found = holding.decided(board, step).answers.items()
    return {group: answer for group, answer in found if group in latest and latest[group].run_id == answer.after}
