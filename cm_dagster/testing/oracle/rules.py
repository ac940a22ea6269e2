"""The rules by which the oracle judges; pure, and written without a look at how cm_dagster decides.

Each takes the facts and yields what must not be. ``running`` leaves out what may still come right in a campaign that is
under way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from cm_dagster.testing.oracle.facts import STOPPED, Attempt, AtWms, Facts, GroupKey, Step
from cm_dagster.testing.oracle.findings import Finding, Findings

__all__ = ["judge"]


def judge(facts: Facts, *, running: bool = False) -> Findings:
    """Judge campaigns.

    Parameters
    ----------
    facts
        What is known of them.
    running
        Whether they are under way; else they claim to be complete.
    """
    found = [*twins(facts, running), *redone(facts), *early(facts), *lost(facts, running)]
    by_name = facts.by_name.values()
    return Findings.of(found, sum(map(_cancelled_twins, by_name)), sum(_resubmitted(facts, each) for each in by_name))


# --------------------------------------------------------------------------------------------------------------- twins


def _cancelled_twins(same: Sequence[AtWms]) -> int:
    kept = sum(not each.cancelled for each in same)
    return len(same) - max(kept, 1)


def _resubmitted(facts: Facts, same: Sequence[AtWms]) -> int:
    """Count how often a name was submitted again, whatever became of it."""
    return max(0, sum(not each.by_wms for each in same) - 1 - _restarts(facts, same[0]))


def _restarts(facts: Facts, workflow: AtWms) -> int:
    same = (each for each in facts.by_group.get(workflow.key, ()) if each.name == workflow.name)
    return max((each.restarts for each in same), default=0)


def twins(facts: Facts, running: bool) -> Iterator[Finding]:
    """Find work that was done twice at once."""
    for name, same in facts.by_name.items():
        kept = [each for each in same if (each.ended_itself if running else not each.cancelled)]
        if len(kept) > 1 + _restarts(facts, same[0]):
            shown = ", ".join(f"{each.wms_id} ({each.state})" for each in kept)
            yield Finding("twins", name, f"{len(kept)} workflows have this name and were not cancelled: {shown}")
    for key, attempts in facts.by_group.items():
        for one, other in combinations(attempts, 2):
            if one.wms_id and one.wms_id == other.wms_id:
                yield Finding("twins", str(key), f"{_both(one, other)} record the same workflow {one.wms_id}")
            elif _overlap(one, other):
                yield Finding("twins", str(key), f"{_both(one, other)} were open at the same time")


def _overlap(one: Attempt, other: Attempt) -> bool:
    """Whether two attempts were in the site's hands at the same time."""
    if one.started is None or other.started is None:
        return False
    ends = [each.ended if each.ended is not None and not each.open else float("inf") for each in (one, other)]
    return one.started < ends[1] and other.started < ends[0]


def _both(one: Attempt, other: Attempt) -> str:
    return f"attempts {one.number} (run {one.run_id}) and {other.number} (run {other.run_id})"


# -------------------------------------------------------------------------------------------------------------- redone


def redone(facts: Facts) -> Iterator[Finding]:
    """Find workflows that were submitted for a group that had one before, without a good reason."""
    for name, same in facts.by_name.items():
        first = same[0]
        me = _attempt_of(facts, first)
        for other in facts.by_group.get(first.key, ()):
            if other.number != first.number and _came_before(facts, other, first):
                reason = _why_not(facts, other, me, first)
                if reason:
                    yield Finding("redone", name, f"submitted as {first.wms_id}, though {reason}")
                    break


def _attempt_of(facts: Facts, workflow: AtWms) -> Attempt | None:
    """Find the attempt that a workflow belongs to: who records it, else who has its name and has begun."""
    same = [each for each in facts.by_group.get(workflow.key, ()) if each.number == workflow.number]
    return max(same, key=lambda each: (each.wms_id == workflow.wms_id, each.started is not None), default=None)


def _came_before(facts: Facts, other: Attempt, workflow: AtWms) -> bool:
    """Whether another attempt at the same group was in the site's hands before a workflow was submitted."""
    times = [each.submitted for each in facts.by_name.get(other.name, ())]
    times += [other.started] if other.started is not None else []
    return min(times, default=float("inf")) < workflow.submitted


def _why_not(facts: Facts, other: Attempt, me: Attempt | None, workflow: AtWms) -> str:
    """Say what speaks against a workflow after another attempt; empty if there is a good reason for it."""
    who = f"attempt {other.number} (run {other.run_id})"
    if other.accepted:
        if _asked_again(facts, other, me, workflow):
            return ""
        return f"{who} was accepted, and no person has re-executed it"
    if other.status == "CANCELED":
        asked = other.cancel_asked is not None and other.cancel_asked <= workflow.submitted
        return "" if asked or not facts.of(other) else f"no person had cancelled {who}"
    if other.status != "FAILURE" or (other.ended or float("inf")) > workflow.submitted:
        return f"{who} had not ended (now it is {other.status})"
    return "" if other.rejected is not None else _sham_failure(facts, other)


def _asked_again(facts: Facts, accepted: Attempt, me: Attempt | None, workflow: AtWms) -> bool:
    """Whether a person re-executed an accepted attempt, by this workflow's attempt or one before it."""
    if (accepted.ended or float("inf")) > workflow.submitted:
        return False
    group = facts.by_group[accepted.key]
    upto = [each for each in group if me is not None and each.number <= me.number]
    return any(each.by_person and _descends(each, accepted, group) for each in upto)


def _descends(attempt: Attempt, from_: Attempt, group: Sequence[Attempt]) -> bool:
    parents = {each.run_id: each.parent for each in group}
    seen: set[str] = set()
    run_id: str | None = attempt.parent
    while run_id and run_id not in seen and run_id != from_.run_id:
        seen.add(run_id)
        run_id = parents.get(run_id)
    return run_id == from_.run_id


def _sham_failure(facts: Facts, failed: Attempt) -> str:
    """Say why an attempt that failed in the ledger did not fail in truth; empty if it did."""
    for workflow in facts.of(failed):
        if workflow.state not in ("FAILED", "DELETED") and not _is_short(failed, workflow):
            return f"attempt {failed.number} did not fail: its workflow {workflow.wms_id} is {workflow.state}"
    return ""


def _is_short(attempt: Attempt, workflow: AtWms) -> bool:
    """Whether a workflow that succeeded has not registered all that it should."""
    known = attempt.expected is not None and attempt.registered is not None
    return known and workflow.state == "SUCCEEDED" and (attempt.registered or 0) < (attempt.expected or 0)


# --------------------------------------------------------------------------------------------------------------- early


def early(facts: Facts) -> Iterator[Finding]:
    """Find workflows that were submitted before what they need was there."""
    steps = {(step.campaign, step.name): step for step in facts.steps}
    accepted: dict[GroupKey, float] = {}
    for key, attempts in facts.by_group.items():
        times = [each.ended for each in attempts if each.accepted and each.ended is not None]
        if times:
            accepted[key] = min(times)
    for name, same in facts.by_name.items():
        step = steps.get((same[0].key.campaign, same[0].key.step))
        for need in [steps[step.campaign, need] for need in step.needs] if step else ():
            lacks = _lacks(need, accepted, same[0].submitted)
            if lacks:
                yield Finding("early", name, f"submitted as {same[0].wms_id} before {lacks}")


def _lacks(need: Step, accepted: dict[GroupKey, float], when: float) -> str:
    """Say what a step that is needed had not done at a time."""
    if need.groups is None:
        return f"{need} was planned"
    late = [key for key in need.groups if accepted.get(key, float("inf")) > when]
    if late:
        return f"{len(late)} of {len(need.groups)} groups of {need} were accepted, e.g. {late[0].group}"
    return f"{need} was collected" if (need.collected or float("inf")) > when else ""


# ---------------------------------------------------------------------------------------------------------------- lost


def lost(facts: Facts, running: bool) -> Iterator[Finding]:
    """Find work that nobody knows of, or that counts though it was not done."""
    for attempts in facts.by_group.values():
        for attempt in attempts:
            yield from _badly_ended(facts, attempt, running)
    for name, same in facts.by_name.items():
        yield from _unrecorded(facts, name, same, running)
    if not running:
        for step in facts.steps:
            yield from _incomplete(facts, step)
            yield from _unchained(facts, step)
        for run_id in facts.unmarked:
            yield Finding("lost", f"run {run_id}", "it is of a step's asset, has not ended, and is no attempt")


def _badly_ended(facts: Facts, attempt: Attempt, running: bool) -> Iterator[Finding]:
    """Find what is wrong with the end of an attempt."""
    where = attempt.name
    if attempt.open:
        if not running:
            yield Finding("lost", where, f"run {attempt.run_id} is still {attempt.status}")
        return
    if attempt.status == "FAILURE" and attempt.materialized and attempt.rejected is None:
        yield Finding("lost", where, f"run {attempt.run_id} has failed, but its group shows as materialized")
    if attempt.accepted:
        if not attempt.materialized:
            yield Finding("lost", where, f"run {attempt.run_id} is accepted, but has not materialized its group")
        if reason := _unproved(facts, attempt):
            yield Finding("lost", where, f"run {attempt.run_id} is accepted, but {reason}")
        return
    if attempt.status == "CANCELED" and running and not attempt.swept:
        return
    for workflow in facts.of(attempt):
        if workflow.state not in STOPPED:
            text = f"run {attempt.run_id} is {attempt.status}, but its workflow {workflow.wms_id} is {workflow.state}"
            yield Finding("lost", where, text)


def _unproved(facts: Facts, attempt: Attempt) -> str:
    """Say why the WMS does not bear out that an attempt was accepted."""
    workflow = facts.by_id.get(attempt.wms_id)
    if workflow is None:
        return f"the WMS has no workflow {attempt.wms_id!r}"
    if workflow.name != attempt.name:
        return f"workflow {workflow.wms_id} is {workflow.name}"
    if workflow.state == "SUCCEEDED" or (workflow.state == "FAILED" and _reaches(facts, attempt)):
        return ""
    if workflow.state in STOPPED and attempt.by_hand:
        return ""
    return f"workflow {workflow.wms_id} is {workflow.state}"


def _reaches(facts: Facts, attempt: Attempt) -> bool:
    """Whether a workflow that failed has registered as much as its step's threshold asks for."""
    step = next(s for s in facts.steps if (s.campaign, s.name) == (attempt.key.campaign, attempt.key.step))
    if attempt.expected is None or attempt.registered is None:
        return False
    return 0 < attempt.registered >= attempt.expected * step.threshold


def _unrecorded(facts: Facts, name: str, same: Sequence[AtWms], running: bool) -> Iterator[Finding]:
    """Find workflows that no attempt records; of twins, that one of them is recorded is enough here."""
    kept = [each for each in same if not each.cancelled]
    if not kept or any(each.wms_id in facts.recorded for each in same):
        return
    attempt = _attempt_of(facts, kept[0])
    if running and attempt is not None and (attempt.open or (attempt.status == "CANCELED" and not attempt.swept)):
        return
    shown = ", ".join(f"{each.wms_id} ({each.state})" for each in kept)
    yield Finding("lost", name, f"no attempt records workflow {shown}")


def _incomplete(facts: Facts, step: Step) -> Iterator[Finding]:
    if step.groups is None:
        yield Finding("lost", str(step), "it was never planned")
        return
    for key in step.groups:
        if not any(attempt.accepted for attempt in facts.by_group.get(key, ())):
            yield Finding("lost", str(key), "no attempt at this group was accepted")
    if step.collected is None:
        yield Finding("lost", str(step), "it was never collected")


def _unchained(facts: Facts, step: Step) -> Iterator[Finding]:
    """Find accepted outputs that the step's chains do not have."""
    if facts.chains is None:
        return
    for key in step.groups or ():
        numbers = [attempt.number for attempt in facts.by_group.get(key, ()) if attempt.accepted]
        if not numbers:
            continue
        run = f"{step.output}/{step.name}/{key.group}/a{max(numbers):02d}/run"
        for chain in (f"{step.output}/{step.name}", f"{step.output}/{step.name}/at/{key.site}"):
            if run not in facts.chains.get(chain, ()):
                yield Finding("lost", str(key), f"its accepted output {run} is not in the chain {chain}")
