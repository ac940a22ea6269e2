"""What keeps the groups of a step from going, however much room there is: a pause, the brake, scouts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from cm_dagster.policy.brake import Brake
from cm_dagster.policy.limits import clock
from cm_dagster.policy.line import Latest
from cm_dagster.policy.states import State

__all__ = ["Hold", "HoldKind", "braked", "paused", "scouting", "stopped"]


class HoldKind(StrEnum):
    """What holds a step."""

    PAUSE = "pause"
    """A person has paused it, or its campaign: nothing of it goes."""
    BRAKE = "brake"
    """Too much of it has failed: only what a person launches singly goes, for that is how a cure is tried."""
    SCOUTS = "scouts"
    """Its first groups are not accepted yet: they go, and what a person launches singly."""


@dataclass(frozen=True)
class Hold:
    """Something that keeps the groups of a step from going."""

    kind: HoldKind
    reason: str
    """Why, in one sentence that says what to do about it."""
    scouts: frozenset[str] = frozenset()
    """Groups that go in spite of it."""
    news: str = ""
    """What people must hear of, once: it changes only when there is something new to say. Empty where there is
    nothing to do about it, as with scouts that are on their way."""

    def lets(self, group: str, *, singly: bool) -> bool:
        """Whether it lets a group go.

        Parameters
        ----------
        group
            Name of the group.
        singly
            Whether a person has asked for it alone, not in a backfill.
        """
        return self.kind is not HoldKind.PAUSE and (singly or group in self.scouts)


def stopped(holds: Iterable[Hold], group: str, *, singly: bool) -> str:
    """Say what keeps a group from going; empty if nothing of it does.

    Parameters
    ----------
    holds
        What holds its step.
    group
        Name of the group.
    singly
        Whether a person has asked for it alone, not in a backfill.
    """
    return next((hold.reason for hold in holds if not hold.lets(group, singly=singly)), "")


def paused(what: str, user: str, since: float, why: str, resume: str) -> Hold:
    """Make the hold of a pause.

    Parameters
    ----------
    what
        What is paused, e.g. ``campaign rc2``.
    user
        Who has paused it.
    since
        When, in seconds since the epoch.
    why
        The reason that was given.
    resume
        The command that ends it.
    """
    reason = f"{what} is paused by {user} since {clock(since)}: {why or 'no reason was given'}"
    return Hold(HoldKind.PAUSE, f"{reason}; `{resume}` lets it go on", news=f"{what} {since}")


def braked(brake: Brake, step: str, resume: str) -> Hold | None:
    """Make the hold of a brake; None if it does not hold.

    Parameters
    ----------
    brake
        The brake.
    step
        The step and its site, e.g. ``step1 of rc2 at local``.
    resume
        The command that releases it.
    """
    if brake.held is None:
        return None
    todo = f"put the cause right, then `{resume}`, or launch one of its groups: its success releases the brake too"
    reason = f"{step} has stopped since {clock(brake.held)}: {brake.reason}; {todo}"
    return Hold(HoldKind.BRAKE, reason, news=f"{step} {brake.held}")


def scouting(
    left: Mapping[str, Latest | None], step: str, *, retries: int, causes: Mapping[str, str] | None = None
) -> Hold | None:
    """Make the hold of scouts; None if there are none, or all are accepted.

    Parameters
    ----------
    left
        The scouts that are not accepted, with their latest attempt.
    step
        The step and its site.
    retries
        How many times a failed group is tried again by itself.
    causes
        Why scouts have failed, as far as that is known.
    """
    if not left:
        return None
    said = [f"{name} ({_scout(attempt, retries, (causes or {}).get(name, ''))})" for name, attempt in left.items()]
    stuck = [f"{name} {attempt.number}" for name, attempt in left.items() if attempt and _is_stuck(attempt, retries)]
    todo = "; the others go when these are accepted" if stuck else ""
    reason = f"{step} waits for its scouts {', '.join(said)}{todo}"
    return Hold(HoldKind.SCOUTS, reason, frozenset(left), news=", ".join(stuck))


def _is_stuck(attempt: Latest, retries: int) -> bool:
    failed_for_good = attempt.state is State.FAILED and attempt.tries > retries
    return failed_for_good or attempt.state is State.CANCELLED


def _scout(attempt: Latest | None, retries: int, cause: str) -> str:
    if attempt is None:
        return "not begun"
    again = ", is tried again" if attempt.state is State.FAILED and not _is_stuck(attempt, retries) else ""
    return f"{attempt.state}{again}{': ' + cause if cause else ''}"
