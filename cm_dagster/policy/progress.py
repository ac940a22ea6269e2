"""The state of a step and of a campaign, from the states of its groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from cm_dagster.policy.states import GroupState

__all__ = ["CampaignState", "StepFacts", "StepState", "campaign_state", "step_state"]


class StepState(StrEnum):
    """State of a step."""

    WAITING = "waiting"
    """A step that it needs is not collected."""
    GATED = "gated"
    """All it needs is there; a person's sign-off is missing."""
    PLANNING = "planning"
    """Its inputs are being checked and its groups made."""
    RUNNING = "running"
    PAUSED = "paused"
    """A person has paused it, or its campaign; what is at the sites goes on, nothing else does."""
    BLOCKED = "blocked"
    """Nothing of it moves by itself any more: groups failed or are held, or its inputs or its chain failed."""
    FINISHING = "finishing"
    """All groups are accepted; its collections are being chained."""
    DONE = "done"


class CampaignState(StrEnum):
    """State of a campaign."""

    CREATED = "created"
    """Known, not started."""
    RUNNING = "running"
    PAUSED = "paused"
    """A person has paused it, or a step without which nothing goes on; what is at the sites goes on."""
    BLOCKED = "blocked"
    """No step moves by itself any more."""
    DONE = "done"


@dataclass(frozen=True)
class StepFacts:
    """What is known of a step."""

    needs_collected: bool
    """Whether each step that it needs is collected."""
    signed_off: bool
    """Whether its gate is open (or it has none)."""
    planned: bool
    """Whether its groups are made."""
    collected: bool
    action_failed: bool
    """Whether its inputs, a chain or its collect failed and will not be tried again by itself."""
    groups: Mapping[GroupState, int]
    """Number of groups in each state."""
    retriable: int = 0
    """Number of failed groups that are tried again by themselves."""
    held_back: bool = False
    """Whether planned groups wait for what does not come by itself: scouts of which one failed or is held, a person."""
    held_queued: int = 0
    """Number of groups in the queue that wait for the same."""
    paused: bool = False
    """Whether a person has paused it, or its campaign."""
    lanes_left: int = 0
    """Number of sites that are still to make their groups, of a step that each site plans by itself."""


def step_state(facts: StepFacts) -> StepState:
    """Say in which state a step is."""
    if facts.collected:
        return StepState.DONE
    if not facts.needs_collected:
        return StepState.WAITING
    if not facts.planned:
        if not facts.signed_off:
            return StepState.GATED
        return StepState.BLOCKED if facts.action_failed else StepState.PLANNING
    return _running_state(facts)


def _running_state(facts: StepFacts) -> StepState:
    count = {state: facts.groups.get(state, 0) for state in GroupState}
    if count[GroupState.ACCEPTED] == sum(count.values()):
        if facts.lanes_left:
            return StepState.PAUSED if facts.paused else StepState.RUNNING
        return StepState.BLOCKED if facts.action_failed else StepState.FINISHING
    if facts.paused:
        return StepState.PAUSED
    moving = sum(count[s] for s in (GroupState.QUEUED, GroupState.SUBMITTED, GroupState.RUNNING, GroupState.UNKNOWN))
    moving -= facts.held_queued
    waiting = facts.retriable + (0 if facts.held_back else count[GroupState.PLANNED])
    return StepState.RUNNING if moving or waiting else StepState.BLOCKED


def campaign_state(started: bool, steps: Iterable[StepState], *, paused: bool = False) -> CampaignState:
    """Say in which state a campaign is."""
    states = set(steps)
    if states <= {StepState.DONE}:
        return CampaignState.DONE
    if not started:
        return CampaignState.CREATED
    if paused:
        return CampaignState.PAUSED
    moving = {StepState.PLANNING, StepState.RUNNING, StepState.FINISHING}
    if states & moving:
        return CampaignState.RUNNING
    return CampaignState.PAUSED if StepState.PAUSED in states else CampaignState.BLOCKED
