"""Why a group waits, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cm_dagster.policy.holds import Hold, stopped

__all__ = ["Turn", "why_waiting"]


@dataclass(frozen=True)
class Turn:
    """What is known of a group that could go, but has not gone."""

    group: str
    not_started: str = ""
    """Why nothing of the campaign goes at all; empty if it is started."""
    waits: str = ""
    """Why its attempt is tried later again; empty if it is not."""
    holds: Sequence[Hold] = ()
    """What holds the step."""
    singly: bool = False
    """Whether a person has asked for it alone."""
    site_full: str = ""
    """Why the site takes no group now; empty if it takes some."""
    campaign_full: str = ""
    """Why no group of the campaign may go now; empty if some may."""
    goes: bool = False
    """Whether it is among those that go next."""
    ahead: int = 0
    """How many groups of the campaign go before it."""


def why_waiting(turn: Turn) -> str:
    """Say why a group waits: what would have to change first for it to go.

    What holds the group itself or its step comes first, for no limit matters before it is gone.
    """
    held = turn.not_started or stopped(turn.holds, turn.group, singly=turn.singly)
    if held:
        return held
    if turn.waits:
        return turn.waits
    if turn.site_full or turn.campaign_full:
        return turn.site_full or turn.campaign_full
    if turn.goes:
        return "it goes with the next ticks"
    before = "1 group of its campaign goes" if turn.ahead == 1 else f"{turn.ahead} groups of its campaign go"
    return f"there is not room for all: {before} before it" if turn.ahead else "other campaigns come before it"
