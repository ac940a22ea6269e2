"""What was decided about groups, by a person or by an error rule: who, when, why, what it was before and after.

Each decision is an observation on the group's partition, so that its page in the UI shows it. What is still to come of
it stands in three small documents per step: who holds groups; what is to follow the attempts that ended (the
`Answer`, which the dispatcher turns into an attempt at its next tick); and what error rules have done, for their
budgets. The writers of a step's documents take turns by a lock in the submit area.

Uses of ``dagster._core``: none. Observations are read through a method of the instance that Dagster does not document.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any, Literal

import dagster as dg

from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import LedgerError
from cm_dagster.ledger import store
from cm_dagster.plan.names import StepId
from cm_dagster.policy.rules import Taken
from cm_dagster.policy.states import State

__all__ = [
    "Answer",
    "Decided",
    "Follows",
    "GroupDecision",
    "GroupHold",
    "decisions_on",
    "read_decided",
    "read_taken",
    "record",
    "set_answer",
    "set_hold",
    "take",
]


type Follows = Literal["retry", "rescue", "nothing"]
"""What follows an attempt that ended: another from scratch, another that skips what exists, or none by itself."""


@dataclass(frozen=True)
class GroupDecision:
    """A decision about a group."""

    user: str
    """Who decided: a person, or ``rule NAME``."""
    action: str
    """A verb, or the action of a rule."""
    reason: str
    before: str
    """What the group was before."""
    after: str
    """What it is by the decision."""
    time: float = 0.0
    """Seconds since the epoch; set when it is recorded."""

    def to_json(self) -> dict[str, str]:
        """Give it as JSON can hold it."""
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.time))
        return {**{name: str(value) for name, value in asdict(self).items()}, "time": when}


@dataclass(frozen=True)
class GroupHold:
    """Nothing is requested for a group by itself."""

    user: str
    reason: str
    time: float
    """Seconds since the epoch."""

    def __str__(self) -> str:
        return f"by {self.user} since {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(self.time))}: {self.reason}"


@dataclass(frozen=True)
class Answer:
    """What follows an attempt that ended."""

    after: str
    """Run of that attempt; the answer is void once the group has another."""
    number: int
    """Number of the attempt that follows."""
    verb: Follows
    user: str
    reason: str
    time: float
    """Seconds since the epoch."""
    by_rule: bool = False
    recipe: str = ""
    """In what the next attempt differs from a plain one, as `cm_dagster.plan.recipe.Recipe` writes it."""

    def __str__(self) -> str:
        return f"a {self.verb}, by {self.user}"

    def is_due(self, latest: str, state: State) -> bool:
        """Say whether an attempt is to be requested by it.

        Parameters
        ----------
        latest
            Run of the group's latest attempt.
        state
            Its state.
        """
        return self.verb != "nothing" and self.after == latest and state in (State.FAILED, State.CANCELLED)


@dataclass(frozen=True)
class Decided:
    """What is to come of decisions about the groups of a step."""

    holds: Mapping[str, GroupHold] = field(default_factory=dict)
    """By group."""
    answers: Mapping[str, Answer] = field(default_factory=dict)
    """By group; they may be void."""


def record(instance: dg.DagsterInstance, step: StepId, group: str, decision: GroupDecision) -> None:
    """Write a decision onto a group's page."""
    metadata = {name: dg.MetadataValue.text(str(value)) for name, value in asdict(decision).items() if name != "time"}
    said = f"{decision.action} by {decision.user}: {decision.before} -> {decision.after} ({decision.reason})"
    seen = dg.AssetObservation(dg.AssetKey(step.asset), partition=group, description=said, metadata=metadata)
    instance.report_runless_asset_event(seen)
    crash_point("decision.recorded")


def decisions_on(instance: dg.DagsterInstance, step: StepId, group: str) -> list[GroupDecision]:
    """Read the decisions about a group, the first one first."""
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(step.asset), asset_partitions=[group])
    found: list[GroupDecision] = []
    cursor = None
    while True:
        page = instance.fetch_observations(wanted, limit=100, cursor=cursor, ascending=True)
        found += [decision for entry in page.records if (decision := _decision(entry))]
        if not page.has_more:
            return found
        cursor = page.cursor


def _decision(entry: dg.EventLogRecord) -> GroupDecision | None:
    """Read a decision; None if an observation is none (that of a failed attempt)."""
    seen = entry.event_log_entry.asset_observation
    values = {key: str(value.value) for key, value in seen.metadata.items()} if seen else {}
    if "action" not in values:
        return None
    texts = {name: values.get(name, "") for name in ("user", "action", "reason", "before", "after")}
    return GroupDecision(**texts, time=entry.timestamp)


# ------------------------------------------------------------------------------------------------------- documents


def read_decided(instance: dg.DagsterInstance, steps: Iterable[StepId]) -> dict[str, Decided]:
    """Read what is to come of decisions, by tag of the step, in one query; steps without any are left out."""
    wanted = {f"{kind}/{step.tag}": (kind, step.tag) for step in steps for kind in ("holds", "answers")}
    found: dict[str, dict[str, Any]] = {}
    for key, document in store.get_many(instance, wanted).items():
        kind, tag = wanted[key]
        make: Callable[..., GroupHold | Answer] = GroupHold if kind == "holds" else Answer
        found.setdefault(tag, {})[kind] = {group: make(**entry) for group, entry in document.items()}
    return {tag: Decided(**parts) for tag, parts in found.items()}


def read_taken(instance: dg.DagsterInstance, step: StepId) -> list[Taken]:
    """Read what error rules have done in a step."""
    return [Taken(*entry) for entry in store.get(instance, f"taken/{step.tag}") or ()]


def set_hold(instance: dg.DagsterInstance, area: Path, step: StepId, group: str, hold: GroupHold | None) -> None:
    """GroupHold a group, or release it.

    Parameters
    ----------
    instance
        The Dagster instance.
    area
        Submit area of the step's site.
    step
        The step.
    group
        Name of the group.
    hold
        None to release it.
    """
    with _changed(instance, area, step, "holds") as holds:
        _set(holds, group, hold)
    crash_point("decision.held")


def set_answer(
    instance: dg.DagsterInstance,
    area: Path,
    step: StepId,
    group: str,
    answer: Answer | None,
    latest: Mapping[str, str] | None = None,
) -> None:
    """Write down what follows a group's latest attempt, or withdraw it.

    Parameters
    ----------
    instance
        The Dagster instance.
    area
        Submit area of the step's site.
    step
        The step.
    group
        Name of the group.
    answer
        None to withdraw it.
    latest
        Run of the latest attempt of each group of the step; answers that it makes void are forgotten.
    """
    with _changed(instance, area, step, "answers") as answers:
        _set(answers, group, answer)
        for other in [
            name for name, entry in answers.items() if (latest or {}).get(name, entry["after"]) != entry["after"]
        ]:
            del answers[other]
    crash_point("decision.answered")


def take(instance: dg.DagsterInstance, area: Path, step: StepId, taken: Taken) -> None:
    """Write down that a rule acts; what it did about the same end of the same attempt is replaced."""
    with _one_writer(area, step):
        before = [
            each
            for each in read_taken(instance, step)
            if (each.group, each.attempt, each.restarts) != (taken.group, taken.attempt, taken.restarts)
        ]
        store.put(instance, f"taken/{step.tag}", [astuple(each) for each in (*before, taken)])
    crash_point("decision.taken")


def _set(document: dict[str, Any], group: str, entry: GroupHold | Answer | None) -> None:
    if entry is None:
        document.pop(group, None)
    else:
        document[group] = asdict(entry)


@contextmanager
def _changed(instance: dg.DagsterInstance, area: Path, step: StepId, kind: str) -> Iterator[dict[str, Any]]:
    """Change a step's document; it is written if anything in it has changed."""
    key = f"{kind}/{step.tag}"
    with _one_writer(area, step):
        before: dict[str, Any] = store.get(instance, key) or {}
        now = dict(before)
        yield now
        if now != before:
            store.put(instance, key, now)


@contextmanager
def _one_writer(area: Path, step: StepId) -> Iterator[None]:
    """Wait until no other process changes the documents of a step, and keep others from it."""
    folder = area / step.campaign / step.step
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "decisions.lock").open("a")
    except OSError as error:
        advice = "decide on a host of the site, as a user who may write there"
        raise LedgerError(f"the submit area can't be written: {error}", advice=advice) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
