"""The states of an attempt and of a group, and which may follow which.

One table each; everything else in the project asks here. ``UNKNOWN`` is never a failure and never a success: it means
that the WMS does not answer or does not know the workflow, and it is asked again.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = [
    "HUMAN",
    "OPEN",
    "OVERRULED",
    "SHOWN_AS",
    "TRANSITIONS",
    "GroupState",
    "RunStatus",
    "State",
    "group_state",
    "is_allowed",
]


class RunStatus(StrEnum):
    """The statuses of a Dagster run that an attempt can show as (Dagster's own words)."""

    NOT_STARTED = "NOT_STARTED"
    QUEUED = "QUEUED"
    STARTED = "STARTED"
    CANCELING = "CANCELING"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    CANCELED = "CANCELED"


class State(StrEnum):
    """State of an attempt; what is said of each stands in the pilot guide too, word for word."""

    QUEUED = "queued"
    """Waits for its turn."""
    CLAIMED = "claimed"
    """Its claim is held; the workflow is being looked up or submitted."""
    SUBMITTED = "submitted"
    """The WMS has the workflow; no job has started."""
    RUNNING = "running"
    """Jobs run at the WMS."""
    ENDED = "ended"
    """The WMS has ended the workflow; it is not judged yet."""
    FINALIZING = "finalizing"
    """The workflow ended but its final job did not register its outputs; that job alone is run again."""
    UNKNOWN = "unknown"
    """The WMS does not know the workflow, or cannot be asked; it is asked again."""
    CANCELLING = "cancelling"
    """A person terminated it; its workflow is being cancelled."""
    CANCELLED = "cancelled"
    """A person terminated it, or it was turned away before anything was submitted."""
    ACCEPTED = "accepted"
    """Enough quanta are in the registry; the group is materialized."""
    FAILED = "failed"
    """Not submitted, or not accepted; the run's page begins with the cause."""


class GroupState(StrEnum):
    """State of a group: that of its latest attempt, in the words of the status page."""

    PLANNED = "planned"
    QUEUED = "queued"
    SUBMITTED = "submitted"
    RUNNING = "running"
    UNKNOWN = "unknown"
    ACCEPTED = "accepted"
    FAILED = "failed"
    HELD = "held"
    """A person has cancelled its latest attempt, or a person or an error rule holds it; nothing follows by itself."""


SHOWN_AS: dict[State, RunStatus] = {
    State.QUEUED: RunStatus.QUEUED,
    State.CLAIMED: RunStatus.STARTED,
    State.SUBMITTED: RunStatus.STARTED,
    State.RUNNING: RunStatus.STARTED,
    State.ENDED: RunStatus.STARTED,
    State.FINALIZING: RunStatus.STARTED,
    State.UNKNOWN: RunStatus.STARTED,
    State.CANCELLING: RunStatus.CANCELING,
    State.CANCELLED: RunStatus.CANCELED,
    State.ACCEPTED: RunStatus.SUCCESS,
    State.FAILED: RunStatus.FAILURE,
}
"""Which status the Dagster run of an attempt has in each state."""

_AGAIN = (State.SUBMITTED, State.RUNNING, State.UNKNOWN, State.CANCELLING, State.CANCELLED)
# A workflow that has ended may run again (a person restarted it at the WMS), or be forgotten by the WMS.

TRANSITIONS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.CLAIMED, State.CANCELLING, State.CANCELLED}),
    State.CLAIMED: frozenset(
        {
            State.SUBMITTED,
            State.RUNNING,
            State.ACCEPTED,
            State.FAILED,
            State.UNKNOWN,
            State.CANCELLING,
            State.CANCELLED,
        }
    ),
    State.SUBMITTED: frozenset({State.RUNNING, State.ENDED, State.UNKNOWN, State.CANCELLING, State.CANCELLED}),
    State.RUNNING: frozenset({State.SUBMITTED, State.ENDED, State.UNKNOWN, State.CANCELLING, State.CANCELLED}),
    State.UNKNOWN: frozenset(
        {State.CLAIMED, State.SUBMITTED, State.RUNNING, State.ENDED, State.CANCELLING, State.CANCELLED}
    ),
    State.ENDED: frozenset({State.ACCEPTED, State.FAILED, State.FINALIZING, *_AGAIN}),
    State.FINALIZING: frozenset({State.ENDED, State.ACCEPTED, State.FAILED, *_AGAIN}),
    State.CANCELLING: frozenset({State.CANCELLED}),
    State.CANCELLED: frozenset(),
    State.ACCEPTED: frozenset(),
    State.FAILED: frozenset(),
}
"""Which states may follow a state."""

OPEN = frozenset(state for state, shown in SHOWN_AS.items() if shown not in {"SUCCESS", "FAILURE", "CANCELED"})
"""The states in which a group has an open attempt, so that no other may begin."""

HUMAN: frozenset[tuple[State, State]] = frozenset(
    (before, after) for before in OPEN for after in TRANSITIONS[before] & {State.CANCELLING, State.CANCELLED}
) - {(State.QUEUED, State.CANCELLED), (State.CANCELLING, State.CANCELLED)}
"""The transitions that only a person makes (by Terminate, or by the cancellation of a backfill); all others follow by
themselves. What waits may also be turned away, and what is being cancelled is cancelled in the end."""

OVERRULED: frozenset[tuple[State, State]] = frozenset(
    {
        (State.FAILED, State.ACCEPTED),
        (State.FAILED, State.UNKNOWN),
        (State.CANCELLED, State.ACCEPTED),
        (State.CANCELLED, State.UNKNOWN),
        (State.ACCEPTED, State.FAILED),
    }
)
"""The transitions out of an end, which are in no other table: a person accepts what failed or was cancelled, restarts
its workflow (what that does is unknown until the WMS says so), or rejects what was accepted."""

_GROUP: dict[State, GroupState] = {
    State.QUEUED: GroupState.QUEUED,
    State.CLAIMED: GroupState.SUBMITTED,
    State.SUBMITTED: GroupState.SUBMITTED,
    State.RUNNING: GroupState.RUNNING,
    State.ENDED: GroupState.RUNNING,
    State.FINALIZING: GroupState.RUNNING,
    State.UNKNOWN: GroupState.UNKNOWN,
    State.CANCELLING: GroupState.RUNNING,
    State.CANCELLED: GroupState.HELD,
    State.ACCEPTED: GroupState.ACCEPTED,
    State.FAILED: GroupState.FAILED,
}


def is_allowed(before: State, after: State) -> bool:
    """Say whether one state may follow another."""
    return before == after or after in TRANSITIONS[before]


def group_state(latest: State | None) -> GroupState:
    """State of a group whose latest attempt is in a state; None where it has no attempt."""
    return GroupState.PLANNED if latest is None else _GROUP[latest]
