"""Error rules: what follows when an attempt fails, decided from what is known of the failure and nothing else.

Rules are asked in order: those of the step, those of the campaign, then those shipped here. The first one that holds,
is not passive, has budget left and can be carried out decides. Where none does, ``retry.max`` of the campaign file says
whether the group is tried again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from cm_dagster.spec.rules import Action, Rule, joined

__all__ = ["SHIPPED", "Decision", "Failure", "Fault", "Requested", "Taken", "decide", "in_force"]

_FACTOR = 2.0
_CEILING = 65536
_PARTS = 2
_LONGEST = 120
"""Characters of a text that a reason quotes."""

_LOST = (
    r"(?:Operational|Interface|DBAPI)Error|server closed the connection|database is locked"
    r"|the connection to the repository's database failed"
)

SHIPPED: tuple[Rule, ...] = (
    Rule(name="nothing-to-do", text=r"everything was done before", action="accept"),
    Rule(name="empty-graph", text=r"the quantum graph is empty", action="hold"),
    Rule(name="run-exists", text=r"the RUN collection .* exists already", action="retry"),
    Rule(name="submit-directory-exists", text=r"the submit directory .* exists already", action="retry"),
    Rule(name="other-inputs", text=r"the output chain .* exists, with other inputs", action="retry"),
    Rule(
        name="pipeline-missing",
        text=r"the pipeline file .* does not exist|the pipeline has no task or subset|the pipeline names",
        action="stop-step",
    ),
    Rule(
        name="stack-missing",
        text=r"the stack is not there|EUPS has not set up|the stack lacks the Python module"
        r"|is not there after the stack was set up",
        action="stop-step",
    ),
    Rule(name="memory-exit", exit=[137, -9], action="more-memory", per_group=3),
    Rule(
        name="memory-error",
        text=r"MemoryError|(?i:out of memory|oom-kill|memory limit|cannot allocate memory)",
        action="more-memory",
        per_group=3,
    ),
    Rule(
        name="database-lost",
        text=_LOST,
        action="rescue",
        per_group=3,
    ),
    Rule(
        name="database-lost-early",
        text=_LOST,
        action="retry",
        per_group=3,
    ),
)
"""The rules that hold in every step, after its own and the campaign's."""


@dataclass(frozen=True)
class Fault:
    """One way in which an attempt failed."""

    task: str = ""
    """Label of the task, or of the cluster of tasks; empty if none is to blame."""
    exit: tuple[int, ...] = ()
    """Exit codes of its jobs that failed."""
    texts: tuple[str, ...] = ()
    """Exceptions, then what its failed quanta have logged; or why nothing could be submitted."""


@dataclass(frozen=True)
class Requested:
    """The memory that the jobs of a task asked for."""

    place: str
    """Section of the BPS configuration that says so, e.g. ``pipetask/isr``."""
    memory: int
    """In MB."""


@dataclass(frozen=True)
class Failure:
    """What is known of an attempt that failed."""

    group: str
    attempt: int
    """Its number, from 1."""
    restarts: int = 0
    """How often its workflow was restarted."""
    faults: tuple[Fault, ...] = ()
    """In which ways it failed, the first cause first."""
    done: float = 0.0
    """Fraction of the group's quanta that have succeeded, 0 to 1."""
    requested: Mapping[str, Requested] = field(default_factory=dict)
    """Memory that was asked for, by label of the task that failed."""
    impossible: Mapping[Action, str] = field(default_factory=dict)
    """Actions that can't be carried out on this group, each with the reason."""


@dataclass(frozen=True)
class Taken:
    """An action that a rule has taken."""

    group: str
    attempt: int
    restarts: int
    rule: str
    action: Action


@dataclass(frozen=True)
class Decision:
    """What follows."""

    action: Action | None = None
    """None if no rule decides."""
    rule: str = ""
    reason: str = ""
    """Which rule, on what, how often so far: a clause for a sentence; empty if no rule decides."""
    memory: Mapping[str, int] = field(default_factory=dict)
    """Of ``more-memory``: the memory to ask for, in MB, by section of the BPS configuration."""
    parts: int = 0
    """Of ``split``: how many."""
    notes: tuple[str, ...] = ()
    """What passive rules would have done, and why rules that hold did not act: a sentence each."""


def in_force(own: Iterable[Rule]) -> tuple[Rule, ...]:
    """Put the rules of a step and those shipped in order; of one name the first counts."""
    return joined(own, SHIPPED)


def decide(failure: Failure, rules: Sequence[Rule], history: Iterable[Taken]) -> Decision:
    """Say what follows when an attempt fails.

    Parameters
    ----------
    failure
        What is known of it.
    rules
        The rules, in order.
    history
        What rules have done in the step at the site so far. What they did about this very end of this attempt is left
        out, so that a decision that was not carried out is made again.
    """
    this = (failure.group, failure.attempt, failure.restarts)
    before = [taken for taken in history if (taken.group, taken.attempt, taken.restarts) != this]
    tries = failure.attempt + sum(t.group == failure.group and t.action == "restart" for t in before)
    notes: list[str] = []
    for rule in rules:
        faults = list(_matching(rule, failure, tries))
        if not faults:
            continue
        grown = _grown(rule, faults, failure)
        obstacle = _obstacle(rule, failure, before, grown)
        if rule.passive or obstacle:
            would = f"passive rule {rule.name} would {_words(rule, grown)}" if rule.passive else ""
            does_not = f"rule {rule.name} can't {_words(rule, {})}: {obstacle}"
            notes.append((would or does_not) + f" ({_cause(rule, faults[0])})")
            continue
        reason = f"rule {rule.name} ({_cause(rule, faults[0])}): {_words(rule, grown)}{_count(rule, failure, before)}"
        parts = (rule.parts or _PARTS) if rule.action == "split" else 0
        return Decision(rule.action, rule.name, reason, grown, parts, tuple(notes))
    return Decision(notes=tuple(notes))


def _matching(rule: Rule, failure: Failure, tries: int) -> Iterator[Fault]:
    """Give the faults on which a rule holds; all its conditions must hold on the same one."""
    if tries < rule.min_tries or tries > (rule.max_tries or tries) or failure.done < rule.min_done:
        return
    for fault in failure.faults or (Fault(),):
        task = not rule.task or any(fnmatchcase(fault.task, pattern) for pattern in rule.task)
        code = not rule.exit or bool(set(rule.exit) & set(fault.exit))
        text = not rule.text or any(re.search(rule.text, each) for each in fault.texts)
        if task and code and text:
            yield fault


def _grown(rule: Rule, faults: Iterable[Fault], failure: Failure) -> dict[str, int]:
    """Memory to be asked for, where it is more than before."""
    if rule.action != "more-memory":
        return {}
    found = [failure.requested[fault.task] for fault in faults if fault.task in failure.requested]
    factor, ceiling = rule.factor or _FACTOR, rule.ceiling or _CEILING
    grown = {each.place: min(max(int(each.memory * factor), each.memory + 1), ceiling) for each in found}
    return {each.place: grown[each.place] for each in found if grown[each.place] > each.memory}


def _obstacle(rule: Rule, failure: Failure, before: Iterable[Taken], grown: Mapping[str, int]) -> str:
    """Say why a rule that holds can't act; empty if it can."""
    if reason := failure.impossible.get(rule.action):
        return reason
    if rule.action == "more-memory" and not grown:
        return f"it is not known what was asked for, or it is the ceiling of {rule.ceiling or _CEILING} MB already"
    own = [taken for taken in before if taken.rule == rule.name]
    here = sum(taken.group == failure.group for taken in own)
    group, step = rule.budgets
    if group is not None and here >= group:
        return f"its budget for a group is used up ({group})"
    if step is not None and len(own) >= step:
        return f"its budget for the step is used up ({step})"
    return ""


def _count(rule: Rule, failure: Failure, before: Iterable[Taken]) -> str:
    group, _ = rule.budgets
    here = sum(taken.rule == rule.name and taken.group == failure.group for taken in before)
    return f", {here + 1} of {group} for this group" if group is not None else ""


def _cause(rule: Rule, fault: Fault) -> str:
    """Say on what a rule holds."""
    words = [fault.task] if fault.task else []
    codes = [str(code) for code in fault.exit if code in rule.exit]
    words += [f"exit code {', '.join(codes)}"] if codes else []
    text = next((each for each in fault.texts if re.search(rule.text, each)), "") if rule.text else ""
    words += [text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."] if text else []
    return ": ".join(words) or "any failure"


def _words(rule: Rule, grown: Mapping[str, int]) -> str:
    """Say what a rule does, as a verb."""
    if rule.action == "more-memory" and grown:
        return "ask for more memory, " + ", ".join(f"{place} {memory} MB" for place, memory in grown.items())
    if rule.action == "split":
        return f"split the group in {rule.parts or _PARTS}"
    if rule.action in ("stop-step", "more-memory"):
        return {"stop-step": "stop the step", "more-memory": "ask for more memory"}[rule.action]
    return f"{rule.action} the group"
