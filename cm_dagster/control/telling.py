"""Saying in the web UI what waits for what: on the page of a step that stops, and of a run that a person waits for.

What was said last is kept in a document per site, so nothing is said twice but after a crash between.
"""

from __future__ import annotations

from itertools import islice, takewhile

import dagster as dg

from cm_dagster.control.dispatch import Outlook
from cm_dagster.control.floor import Floor
from cm_dagster.control.steps import Board
from cm_dagster.crashpoints import crash_point
from cm_dagster.ledger import events, store
from cm_dagster.ledger.attempts import Attempt

__all__ = ["tell"]

_MOST = 20
"""Most runs of a campaign of which it is said why they wait."""


def tell(instance: dg.DagsterInstance, outlook: Outlook) -> None:
    """Say what is news.

    Of a step at the site, what holds it, or that it goes on. Of the first attempts in the queue that people asked for,
    why they do not go: once for each cause, not each time a number in it changes.

    Parameters
    ----------
    instance
        The Dagster instance.
    outlook
        What goes at the site, and what does not.
    """
    key = f"told/{outlook.floor.name}"
    before: dict[str, str] = store.get(instance, key) or {}
    now: dict[str, str] = {}
    for board in outlook.floor.boards.values():
        now |= _steps(instance, outlook.floor, board, before)
        now |= _runs(instance, outlook, board, before)
    if now != before:
        crash_point("holds.told")
        store.put(instance, key, now)


def _steps(instance: dg.DagsterInstance, floor: Floor, board: Board, before: dict[str, str]) -> dict[str, str]:
    """Write onto the pages of steps what holds them; gives what was said, by tag of the step."""
    now = {}
    for step in board.active:
        id_ = floor.step_id(board, step)
        news = "; ".join(hold.news for hold in floor.holds(board, step) if hold.news)
        if news:
            now[id_.tag] = news
        if news != before.get(id_.tag, ""):
            told = [hold.reason for hold in floor.explained(board, step) if hold.news]
            said = ". ".join(told) or f"{step} of {board.name} at {floor.name} goes on"
            instance.report_runless_asset_event(dg.AssetObservation(dg.AssetKey(id_.asset), description=said))
    return now


def _runs(instance: dg.DagsterInstance, outlook: Outlook, board: Board, before: dict[str, str]) -> dict[str, str]:
    """Write onto the pages of runs why they wait; gives for what cause, by run."""
    now, floor = {}, outlook.floor
    queue = floor.desk.queue(floor.name, board.name)  # what people asked for comes first in it, backfills last of that
    asked = takewhile(lambda attempt: attempt.by_person, queue)
    waiting = (attempt for attempt in asked if attempt.run_id not in outlook.going and not floor.waits(attempt))
    for attempt in islice(waiting, _MOST):
        cause, why = _why(floor, board, attempt)
        now[attempt.run_id] = cause
        if cause != before.get(attempt.run_id):
            events.note(instance, attempt.run, f"Waits: {why}.")
    return now


def _why(floor: Floor, board: Board, attempt: Attempt) -> tuple[str, str]:
    """Say why an attempt waits: in a word that stays while the cause does, and in a sentence."""
    step, group = attempt.id.step.step, attempt.id.group
    for hold in floor.holds(board, step) if step in board.plans else ():
        if not hold.lets(group, singly=attempt.backfill is None):
            return hold.news or hold.kind, hold.reason
    if floor.site_full:
        return "downtime" if floor.downtime else "site", floor.site_full
    full = floor.campaign_full(board)
    return ("campaign", full) if full else ("others", "there is not room for all; others go before it")
