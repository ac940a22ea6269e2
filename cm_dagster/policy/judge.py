"""What counts as done: the verdict on a workflow that has ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase

__all__ = ["FINAL_JOB_TRIES", "Ended", "Outcome", "TaskCount", "Verdict", "judge", "threshold_of", "unknown_labels"]

FINAL_JOB_TRIES = 2
"""How often the final job of a workflow is run again before its attempt fails."""


class Outcome(StrEnum):
    """What is to be done with an attempt whose workflow has ended."""

    ACCEPT = "accept"
    FAIL = "fail"
    FINALIZE = "finalize"
    """Run the workflow's final job again: its outputs are not (all) in the registry."""
    RESTART = "restart"
    """Its failed jobs run again, by an error rule; the attempt goes on."""


@dataclass(frozen=True)
class TaskCount:
    """How many quanta of one task a group has."""

    expected: int
    """Number of its quanta in the group's quantum graphs."""
    registered: int
    """Number of its quanta whose metadata the registry has."""


@dataclass(frozen=True)
class Ended:
    """What is known of a workflow that has ended."""

    wms_state: str
    """``succeeded``, ``failed`` or ``cancelled``, in the WMS's opinion."""
    expected: int
    """Number of quanta in the workflow's quantum graph."""
    succeeded: int | None
    """Number of quanta that succeeded by the provenance graph; None if there is none."""
    registered: int | None
    """Number of quanta whose metadata the registry has; None if the RUN collection is absent."""
    finalized: int
    """How often its final job was run again already."""
    tasks: Mapping[str, TaskCount] = field(default_factory=dict)
    """The quanta by task label."""


@dataclass(frozen=True)
class Verdict:
    """What is to be done, and why in one sentence."""

    outcome: Outcome
    reason: str


def judge(ended: Ended, quanta: float, per_task: Mapping[str, float] | None = None) -> Verdict:
    """Judge a workflow that has ended.

    The WMS's opinion alone proves nothing: a workflow whose final job did not run says SUCCEEDED while its RUN is
    absent or empty, and one with a single failed quantum says FAILED while 99 % of its outputs are there. So the
    registry's own counts decide.

    Parameters
    ----------
    ended
        What is known of the workflow.
    quanta
        Least fraction of the quanta that must have succeeded, 0 to 1.
    per_task
        Least fraction of the quanta of single tasks, 0 to 1, by label or pattern; none by default.
    """
    if ended.wms_state == "cancelled":
        return Verdict(Outcome.FAIL, "the workflow was cancelled at the WMS, not through cm_dagster")
    if not _is_unregistered(ended) or _can_not_tell(ended):
        return _judge_counts(ended, quanta, per_task or {})
    have = "no RUN collection" if ended.registered is None else f"{ended.registered} quanta"
    want = ended.expected if ended.succeeded is None else ended.succeeded
    what = f"the registry has {have} of a workflow with {want} finished quanta: its final job did not (fully) run"
    if ended.finalized < FINAL_JOB_TRIES:
        return Verdict(Outcome.FINALIZE, f"{what}; it is run again")
    return Verdict(Outcome.FAIL, f"{what}, and running it again {ended.finalized} times did not help")


def threshold_of(label: str, per_task: Mapping[str, float]) -> float | None:
    """Give the threshold of a task: that of its label, else the strictest of the patterns that match; None without.

    Parameters
    ----------
    label
        Label of the task.
    per_task
        Fractions by label or pattern.
    """
    if label in per_task:
        return per_task[label]
    return max((value for pattern, value in per_task.items() if fnmatchcase(label, pattern)), default=None)


def unknown_labels(labels: Iterable[str], per_task: Mapping[str, float]) -> list[str]:
    """Name the thresholds that are without effect: of a label, not of a pattern, that no task has."""
    known = set(labels)
    return [name for name in per_task if name not in known and not any(sign in name for sign in "*?[")]


def _is_unregistered(ended: Ended) -> bool:
    if ended.registered is None:
        return True
    # The final job writes the provenance graph last, so without one it may have died, whatever the WMS says.
    return ended.registered < (ended.expected if ended.succeeded is None else ended.succeeded)


def _can_not_tell(ended: Ended) -> bool:
    """Whether a failed workflow has no provenance graph though its final job was run again: its stack makes none."""
    tried = ended.finalized >= FINAL_JOB_TRIES
    return tried and ended.wms_state == "failed" and ended.succeeded is None and ended.registered is not None


def _judge_counts(ended: Ended, quanta: float, per_task: Mapping[str, float]) -> Verdict:
    done = ended.registered or 0
    share = f"{done} of {ended.expected} quanta succeeded"
    note = "".join(
        f"; no task is named {name}, which has a threshold" for name in unknown_labels(ended.tasks, per_task)
    )
    if done == 0:
        return Verdict(Outcome.FAIL, f"no output: {share}, though the WMS says {ended.wms_state}{note}")
    enough = _is_enough(done, ended.expected, quanta)
    if low := list(_below(ended, per_task)):
        total = share if enough else f"{share}, below the threshold of {quanta:.1%}"
        return Verdict(Outcome.FAIL, f"{'; '.join(low)}; {total} in all{note}")
    if enough:
        less = "" if done == ended.expected else f" (threshold {quanta:.1%})"
        return Verdict(Outcome.ACCEPT, f"{share}{less}{note}")
    return Verdict(Outcome.FAIL, f"{share}, below the threshold of {quanta:.1%}{note}")


def _below(ended: Ended, per_task: Mapping[str, float]) -> Iterator[str]:
    """Say which tasks are below their thresholds, in the order of the pipeline."""
    for label, count in ended.tasks.items():
        least = threshold_of(label, per_task)
        if least is not None and not _is_enough(count.registered, count.expected, least):
            have = f"{count.registered} of {count.expected} quanta succeeded"
            yield f"{label}: {have}, below its threshold of {least:.1%}"


def _is_enough(done: int, expected: int, least: float) -> bool:
    # The quotient is the number that the file's decimal stands for; a product would be off by a rounding error, so that
    # 7 of 100 would be below 0.07.
    return expected == 0 or done / expected >= least
