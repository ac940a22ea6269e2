"""What a pilot can do about a group, in which state it may be done, and why not in another.

The same verbs are the actions of error rules; both go through `cm_dagster.control.verbs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cm_dagster.policy.states import OPEN, State

__all__ = ["ALLOWED", "GroupFacts", "Verb", "refusal"]


class Verb(StrEnum):
    """What can be done about a group; what is said of each stands in the guide to recovery too, word for word."""

    RETRY = "retry"
    """A new attempt from scratch."""
    RESTART = "restart"
    """The failed jobs of the same workflow run again (`bps restart`); the attempt goes on."""
    RESCUE = "rescue"
    """A new attempt with a RUN collection of its own, which skips the quanta that former attempts have finished."""
    ACCEPT = "accept"
    """The attempt is accepted with what is in the registry."""
    REJECT = "reject"
    """The attempt is not accepted any more; its RUN collection leaves the chains."""
    CANCEL = "cancel"
    """The attempt is terminated and its workflow cancelled; or what was asked for is withdrawn."""
    HOLD = "hold"
    """Nothing more is requested for the group by itself."""
    RELEASE = "release"
    """The group is not held any more; one whose attempt was cancelled gets another."""
    SPLIT = "split"
    """The group is replaced by parts of it, which are processed in its place."""


_BADLY = frozenset({State.FAILED, State.CANCELLED})
_ANY: frozenset[State | None] = frozenset({None, *State})

ALLOWED: dict[Verb, frozenset[State | None]] = {
    Verb.RETRY: _BADLY,
    Verb.RESTART: _BADLY,
    Verb.RESCUE: _BADLY,
    Verb.ACCEPT: _BADLY,
    Verb.REJECT: frozenset({State.ACCEPTED}),
    Verb.CANCEL: OPEN - {State.CANCELLING},
    Verb.HOLD: _ANY - {State.QUEUED, State.ACCEPTED},
    Verb.RELEASE: frozenset({State.CANCELLED}),
    Verb.SPLIT: _BADLY | {None},
}
"""States of a group's latest attempt (None: it has none) in which a verb may be used. Besides, ``cancel`` withdraws
what was asked for, and ``release`` ends a hold, in any state."""


@dataclass(frozen=True)
class GroupFacts:
    """What is known of a group."""

    state: State | None
    """State of its latest attempt; None if it has none."""
    size: int = 0
    """Number of values of the grouping dimension; 0 for a step that is not cut."""
    held: str = ""
    """Who holds it, and why; empty if nobody does."""
    asked: str = ""
    """What was asked for and has not begun, e.g. ``a retry, by ann``; empty if nothing is."""
    submitted: bool = True
    """Whether the latest attempt has a workflow."""
    swept: bool = True
    """Whether the workflow of a cancelled attempt is known to be cancelled."""
    collecting: bool = False
    """Whether its step is being collected just now."""
    later: tuple[str, ...] = ()
    """Steps that have begun with the output of its step."""


def refusal(verb: Verb, facts: GroupFacts) -> str:
    """Say why a verb can't be used on a group; empty if it can.

    Parameters
    ----------
    verb
        The verb.
    facts
        What is known of the group.
    """
    if verb is Verb.HOLD and facts.held:
        return f"it is held already: {facts.held}"
    if (verb is Verb.RELEASE and facts.held) or (verb is Verb.CANCEL and facts.asked):
        return ""
    if facts.state not in ALLOWED[verb]:
        return _by_state(verb, facts.state)
    return _by_circumstance(verb, facts)


def _by_state(verb: Verb, state: State | None) -> str:
    """Say why a verb can't be used in a state, and what can."""
    match verb:
        case Verb.RELEASE:
            return "it is not held"
        case Verb.HOLD if state is State.QUEUED:
            return "its attempt is queued: cancel it, and the group is held by that"
        case Verb.HOLD:
            return "it is accepted: nothing follows by itself"
        case Verb.CANCEL if state is None:
            return "it has no attempt: hold keeps it from getting one"
        case Verb.CANCEL if state is State.CANCELLING:
            return "it is being cancelled already"
        case Verb.CANCEL:
            return f"its attempt is {state}: nothing of it runs"
        case Verb.REJECT:
            return f"it is {state or 'not attempted yet'}: only what is accepted can be rejected"
    if state is None:
        return "it has no attempt yet: one is requested when it is its turn"
    if state is State.ACCEPTED:
        return "it is accepted" + (" already" if verb is Verb.ACCEPT else ": reject it first")
    if state is State.CANCELLING:
        return "its attempt is being cancelled: wait for its end"
    return f"its attempt is {state}: cancel it first, or wait for its end"


def _by_circumstance(verb: Verb, facts: GroupFacts) -> str:
    if verb is Verb.REJECT:
        return _of_reject(facts)
    if verb in (Verb.CANCEL, Verb.HOLD):
        return ""
    if facts.state is State.CANCELLED and not facts.swept:
        return "the workflow of its cancelled attempt may still run: wait until it is cancelled at the WMS"
    if verb in (Verb.RETRY, Verb.RESTART, Verb.RESCUE) and facts.held:
        return f"it is held: {facts.held}; release it first"
    if verb is not Verb.ACCEPT and facts.asked:
        return f"{facts.asked}, is asked for already; cancel withdraws it"
    if verb is Verb.RESTART and not facts.submitted:
        return "nothing of its attempt was submitted, so there is nothing to restart: retry it"
    if verb is Verb.SPLIT and facts.size < 2:
        return "it holds a single value" if facts.size else "its step is not cut into groups (no group_by)"
    return ""


def _of_reject(facts: GroupFacts) -> str:
    if facts.collecting:
        return "its step is being collected just now: try again in a minute"
    if facts.later:
        began = ", ".join(facts.later)
        return (
            f"{began} began with the output of its step, which can't be taken back: process the group in a new campaign"
            " whose output comes before this one's in the collections that are read"
        )
    return ""
