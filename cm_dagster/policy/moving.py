"""Which groups may be moved from one site to another."""

from __future__ import annotations

from dataclasses import dataclass

from cm_dagster.policy.states import OPEN, State

__all__ = ["MoveFacts", "move_refusal"]


@dataclass(frozen=True)
class MoveFacts:
    """What is known of a group that is to be moved."""

    site: str
    """Where it is."""
    state: State | None
    """State of its latest attempt; None if it has none."""
    number: int = 0
    """Number of that attempt."""
    swept: bool = True
    """Whether nothing of it can run any more at the WMS, if it was cancelled."""


def move_refusal(facts: MoveFacts, to: str, *, abandon: bool = False) -> tuple[str, str]:
    """Say why a group may not be moved; empty if it may.

    Parameters
    ----------
    facts
        What is known of it.
    to
        Name of the other site.
    abandon
        Whether a person takes it on themselves that the WMS may still run what was cancelled.

    Returns
    -------
    reason, advice
        Why not, and what can be done.
    """
    if facts.site == to:
        return f"it is at {to} already", ""
    if facts.state is State.ACCEPTED:
        return "it is accepted, so there is nothing left to move", ""
    if facts.state in OPEN and facts.state is not State.QUEUED:
        what = f"its attempt {facts.number} is {facts.state} at {facts.site}"
        return what, "cancel it first (cm group cancel), or wait for its end"
    if facts.state is State.CANCELLED and not facts.swept and not abandon:
        what = f"the WMS of {facts.site} has not confirmed that the workflow of its attempt {facts.number} is cancelled"
        return (
            what,
            f"wait for {facts.site}; or --abandon it: what it may still do there is then wasted, and counts not",
        )
    return "", ""
