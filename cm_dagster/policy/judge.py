"""What counts as done: the verdict on a workflow that has ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["FINAL_JOB_TRIES", "Ended", "Outcome", "Verdict", "judge"]

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


@dataclass(frozen=True)
class Verdict:
    """What is to be done, and why in one sentence."""

    outcome: Outcome
    reason: str


def judge(ended: Ended, quanta: float) -> Verdict:
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
    """
    if ended.wms_state == "cancelled":
        return Verdict(Outcome.FAIL, "the workflow was cancelled at the WMS, not through cm_dagster")
    if not _is_unregistered(ended) or _can_not_tell(ended):
        return _judge_counts(ended, quanta)
    have = "no RUN collection" if ended.registered is None else f"{ended.registered} quanta"
    want = ended.expected if ended.succeeded is None else ended.succeeded
    what = f"the registry has {have} of a workflow with {want} finished quanta: its final job did not (fully) run"
    if ended.finalized < FINAL_JOB_TRIES:
        return Verdict(Outcome.FINALIZE, f"{what}; it is run again")
    return Verdict(Outcome.FAIL, f"{what}, and running it again {ended.finalized} times did not help")


def _is_unregistered(ended: Ended) -> bool:
    if ended.registered is None:
        return True
    # The final job writes the provenance graph last, so without one it may have died, whatever the WMS says.
    return ended.registered < (ended.expected if ended.succeeded is None else ended.succeeded)


def _can_not_tell(ended: Ended) -> bool:
    """Whether a failed workflow has no provenance graph though its final job was run again: its stack makes none."""
    tried = ended.finalized >= FINAL_JOB_TRIES
    return tried and ended.wms_state == "failed" and ended.succeeded is None and ended.registered is not None


def _judge_counts(ended: Ended, quanta: float) -> Verdict:
    done = ended.registered or 0
    share = f"{done} of {ended.expected} quanta succeeded"
    if done == 0:
        return Verdict(Outcome.FAIL, f"no output: {share}, though the WMS says {ended.wms_state}")
    if done >= ended.expected * quanta:
        note = "" if done == ended.expected else f" (threshold {quanta:.1%})"
        return Verdict(Outcome.ACCEPT, f"{share}{note}")
    return Verdict(Outcome.FAIL, f"{share}, below the threshold of {quanta:.1%}")
