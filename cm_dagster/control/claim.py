"""Taking an attempt for submission: lock its group, claim its number, write that it has begun."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import dagster as dg

from cm_dagster.control.atonce import all_or_each
from cm_dagster.control.site import Site
from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import LedgerError
from cm_dagster.ledger import events
from cm_dagster.ledger.attempts import Attempt, read_attempt, read_attempts
from cm_dagster.ledger.claims import BusyError, Claims, unlock
from cm_dagster.ledger.clock import SKEW
from cm_dagster.ledger.moves import Moves
from cm_dagster.ledger.refusal import show_former
from cm_dagster.plan.names import group_folder
from cm_dagster.policy.states import SHOWN_AS, RunStatus, State

__all__ = ["Apart", "Taken", "idle", "rested", "take"]


@dataclass(frozen=True)
class Taken:
    """An attempt that is ours: locked, claimed, begun."""

    attempt: Attempt
    claims: Claims
    lock: int
    """File descriptor of the group's lock; whoever submits inherits it."""
    new: bool
    """Whether it was claimed just now, so that nothing can have been submitted for it before."""
    folder: Path
    """Folder of the attempt."""

    def idle(self) -> float:
        """Seconds since anything was last done for the attempt, by its files."""
        return rested(self.claims, self.attempt.id.number, self.folder)


def idle(claims: Claims, number: int, folder: Path) -> float:
    """Seconds since anything was last done for an attempt that is claimed, by its files."""
    newest = max((path.stat().st_mtime for path in folder.glob("*")), default=0.0)
    return min(claims.age(number), time.time() - newest)


def rested(claims: Claims, number: int, folder: Path) -> float:
    """Seconds since anything was last done for an attempt, where files of the future count from now on.

    They are what a clock has left that was ahead and was set back: without this nothing would be done for the attempt
    until that time has come.
    """
    found = idle(claims, number, folder)
    if found > -SKEW:
        return found
    now = time.time()
    claims.touch(number)
    for path in folder.glob("*"):
        if path.stat().st_mtime > now:
            os.utime(path)
    return 0.0


type Apart = Callable[[str, str], AbstractContextManager[None]]
"""Given a name and a run, keeps an error within from stopping the others."""


def take(
    instance: dg.DagsterInstance,
    site: Site,
    wanted: Mapping[str, Attempt | None],
    locks: ExitStack,
    apart: Apart,
    log: logging.Logger,
) -> list[Taken]:
    """Take attempts.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        The site that this process serves.
    wanted
        The attempts by their runs, as they were read a moment ago; None for a run that is none.
    locks
        Holds the locks of the groups; of those that are not taken they are let go.
    apart
        Deals with the errors of each: `BusyError` if somebody else works on the group; `LedgerError` if the attempt is
        not to be submitted, with the reason (it has been turned away if that is final).
    log
        Where it is said what was not written at once.

    Returns
    -------
    taken : `list` [`Taken`]
        Those that are ours now.
    """
    held: dict[str, tuple[Claims, int]] = {}
    for run_id, attempt in wanted.items():
        with apart(f"run {run_id}", run_id):
            id_ = _open(run_id, attempt).id
            claims = Claims(group_folder(site.area, id_.step, id_.group))
            held[run_id] = claims, locks.enter_context(claims.locked())
            crash_point("claim.locked")
    now = read_attempts(instance, list(held))  # again, now that nobody else can change them
    moves = Moves(instance)
    taken = []
    for run_id, (claims, lock) in held.items():
        with apart(f"run {run_id}", run_id):
            attempt = _open(run_id, now.get(run_id))
            _check_place(instance, attempt, moves)
            new = _claim(instance, attempt, claims)
            crash_point("claim.claimed")
            taken.append(Taken(attempt, claims, lock, new, attempt.id.folder(site.area)))
    begun = _begin(instance, taken, apart, log)
    ours = {each.attempt.run_id for each in begun}
    for run_id in held.keys() - ours:
        unlock(held[run_id][1])
    return begun


def _begin(instance: dg.DagsterInstance, taken: Sequence[Taken], apart: Apart, log: logging.Logger) -> list[Taken]:
    """Write that attempts have begun, and leave those out that a person has cancelled meanwhile."""
    queued = [each.attempt for each in taken if each.attempt.state is State.QUEUED]
    started = all_or_each(partial(events.start, instance), queued, lambda a: apart(a.id.workflow, a.run_id), log)
    unwanted = events.cancel_asked(instance, [each.attempt.run_id for each in taken])
    lost = {attempt.run_id for attempt in queued} - {attempt.run_id for attempt in started}
    begun = []
    for each in (one for one in taken if one.attempt.run_id not in lost):
        attempt = each.attempt
        with apart(attempt.id.workflow, attempt.run_id):
            if attempt.run_id in unwanted and each.new:
                message = "Cancelled before submission; nothing was submitted."
                events.cancelled(instance, attempt.run_id, message, swept=True)
                raise LedgerError(f"{attempt.id.workflow} was cancelled before submission")
            crash_point("claim.taken")
            begun.append(replace(each, attempt=_claimed(attempt)))
    return begun


def _claimed(attempt: Attempt) -> Attempt:
    return replace(attempt, state=State.CLAIMED) if attempt.state is State.QUEUED else attempt


def _check_place(instance: dg.DagsterInstance, attempt: Attempt, moves: Moves) -> None:
    """Turn an attempt away whose group was moved to another site: the coordinator may have been too early to see it."""
    elsewhere, _ = moves.refusal(attempt.id.step, attempt.id.group)
    if elsewhere and not attempt.began:
        message = f"cm_dagster does not take this run: {elsewhere}"
        events.cancelled(instance, attempt.run_id, message, swept=True)
        raise LedgerError(message)


def _open(run_id: str, attempt: Attempt | None) -> Attempt:
    if attempt is None:
        raise LedgerError(f"run {run_id} is no attempt")
    if attempt.status is dg.DagsterRunStatus.NOT_STARTED:
        raise LedgerError(f"{attempt.id.workflow} is not queued yet")
    if attempt.wms_id:
        raise LedgerError(f"{attempt.id.workflow} is workflow {attempt.wms_id} already")
    if SHOWN_AS[attempt.state] not in (RunStatus.QUEUED, RunStatus.STARTED):
        raise LedgerError(f"{attempt.id.workflow} is {attempt.state}")
    return attempt


def _claim(instance: dg.DagsterInstance, attempt: Attempt, claims: Claims) -> bool:
    """Claim the attempt's number, or turn its run away."""
    number = attempt.id.number
    try:
        others = {other: run_id for other, run_id in claims.owners().items() if run_id != attempt.run_id}
        for other, run_id in others.items():
            _check_other(instance, attempt, other, run_id, latest=other == max(others))
        return claims.claim(number, attempt.run_id)
    except BusyError as error:
        message = f"cm_dagster does not take this run: {error}"
        events.cancelled(instance, attempt.run_id, message, swept=True)
        show_former(instance, attempt.run)
        raise LedgerError(message) from error


def _check_other(instance: dg.DagsterInstance, attempt: Attempt, number: int, run_id: str, *, latest: bool) -> None:
    """Refuse an attempt beside one that is open or after one that is accepted.

    The coordinator has asked the same, but may have been too early to see it.
    """
    if number >= attempt.id.number:
        raise BusyError(f"attempt {number} at {attempt.id.group} belongs to run {run_id}")
    other = read_attempt(instance, run_id)
    if other is not None and other.is_open:
        raise BusyError(f"attempt {number} at {attempt.id.group} (run {run_id}) is {other.state}")
    if latest and other is not None and other.state is State.ACCEPTED and attempt.parent != run_id:
        raise BusyError(f"attempt {number} at {attempt.id.group} (run {run_id}) is accepted")
