"""Ways to break what keeps workflows single and whole: the proof that the proof proves something."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from cm_dagster.control import claim, inputs, steps, submit, watch
from cm_dagster.ledger import events
from cm_dagster.ledger.attempts import Attempt
from cm_dagster.ledger.claims import Claims
from cm_dagster.policy.states import State

__all__ = ["MUTATIONS"]


def _put(owner: object, name: str, what: object) -> None:
    setattr(owner, name, what)


def _no_look_up() -> None:
    """Take every attempt for one that the WMS has never heard of, and believe no file of an earlier try."""

    def all_of(_: object, taken: Sequence[claim.Taken]) -> list[claim.Taken]:
        return list(taken)

    _put(submit._Batch, "_look_up", all_of)


def _no_claim() -> None:
    """Let everybody work on a group at once, and own any attempt."""

    @contextmanager
    def open_to_all(self: Claims) -> Iterator[int]:
        lock = os.open(os.devnull, os.O_RDONLY)
        yield lock
        os.close(lock)

    _put(Claims, "locked", open_to_all)
    _put(Claims, "claim", lambda *_: True)
    _put(Claims, "owners", lambda _: {})
    _put(Claims, "age", lambda *_: 0.0)


def _unknown_is_failed() -> None:
    """Fail an attempt whose workflow the WMS does not show, or of which it says nothing that we know."""
    former = watch._Look._now

    def now(self: watch._Look, attempt: Attempt, state: State, *more: Any, **others: Any) -> Any:
        if state is State.UNKNOWN:
            events.fail(self.instance, attempt, "unknown")
            return State.FAILED
        return former(self, attempt, state, *more, **others)

    _put(watch._Look, "_now", now)


def _any_predecessor() -> None:
    """Begin a step when any of those that it needs is collected."""
    former = steps.load_boards

    def generous(board: steps.Board) -> steps.Board:
        needs = [set(step.needs) for step in board.campaign.spec.steps.values()]
        more = frozenset().union(*(need for need in needs if need & board.collected))
        return replace(board, collected=board.collected | more)

    _put(inputs, "load_boards", lambda *a, **k: [generous(board) for board in former(*a, **k)])
    # The Butler has no output of the other step yet, which alone would stop it.
    _put(inputs, "input_collections", lambda spec, _: list(spec.butler.input))
    plain = steps.Board.may_plan
    _put(steps.Board, "may_plan", lambda self, **more: plain(generous(self), **more))


MUTATIONS: Mapping[str, Callable[[], None]] = {
    "no look-up": _no_look_up,
    "no claim": _no_claim,
    "unknown is failed": _unknown_is_failed,
    "any predecessor": _any_predecessor,
}
