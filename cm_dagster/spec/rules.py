"""Error rules of a campaign file: what is done by itself when an attempt fails in a known way."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from cm_dagster.spec.fields import Model, Quanta, slip
from cm_dagster.spec.problems import Problem

__all__ = ["ACTIONS", "AGAIN", "MAX_PARTS", "Action", "Rule", "Rules", "joined"]

Action = Literal["retry", "restart", "rescue", "more-memory", "split", "accept", "hold", "stop-step", "fail"]
"""What a rule does."""

ACTIONS: tuple[Action, ...] = get_args(Action)

AGAIN: frozenset[Action] = frozenset({"retry", "restart", "rescue", "more-memory", "split"})
"""Actions that have something processed again, so that they have budgets where the rule names none."""

MAX_PARTS = 26
"""Most parts of a group: each has a letter."""

_OWN: dict[str, frozenset[Action]] = {
    "factor": frozenset({"more-memory"}),
    "ceiling": frozenset({"more-memory"}),
    "parts": frozenset({"split"}),
}


def _one_or_more(value: object) -> object:
    """Take a single value for a list of it."""
    return [value] if isinstance(value, str | int) and not isinstance(value, bool) else value


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", value):
        rule = "a small letter, then small letters, digits and hyphens, at most 40"
        raise slip(Problem((), f"{value!r} cannot be the name of a rule", rule))
    return value


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        what = f"{value!r} is not a regular expression: {error}"
        raise slip(Problem((), what, "one as in Python, e.g. (?i)killed")) from error
    return value


class Rule(Model):
    """A rule: under which conditions it holds, and what is done then. Conditions that are left out hold always."""

    name: Annotated[str, AfterValidator(_name)]
    """Name of the rule. One of the same name takes the place of the campaign's, or of the one that cm_dagster ships."""
    action: Action
    """What is done: `retry` (a new attempt from scratch), `restart` (the failed jobs of the workflow), `rescue` (a new
    attempt that skips what exists), `more-memory` (a rescue, or retry, with more memory), `split` (the group in parts),
    `accept` (with what there is), `hold` (until a pilot releases it), `stop-step` (the step submits nothing more until
    a pilot resumes it), `fail` (nothing follows)."""
    task: Annotated[list[str], BeforeValidator(_one_or_more, json_schema_input_type=list[str] | str)] = Field(
        default=[]
    )
    """Labels of tasks (or of clusters) that failed, `*` for any part of one; by default any task, or none."""
    exit: Annotated[list[int], BeforeValidator(_one_or_more, json_schema_input_type=list[int] | int)] = Field(
        default=[]
    )
    """Exit codes of failed jobs, one of which is there; by default any."""
    text: Annotated[str, AfterValidator(_pattern)] = ""
    """Regular expression that is found in an exception (`ValueError: no stars`), in a warning or an error that a failed
    quantum has logged, or in why nothing could be submitted; by default anything."""
    min_tries: int = Field(default=1, ge=1)
    """Least number of tries at the group so far, restarts counted; by default 1."""
    max_tries: int | None = Field(default=None, ge=1)
    """Most tries at the group so far, restarts counted; by default no limit."""
    min_done: Quanta = 0.0
    """Least fraction of the group's quanta that have succeeded, 0 to 1; by default 0."""
    factor: float | None = Field(default=None, gt=1)
    """Factor by which `more-memory` raises the memory of the tasks that failed; by default 2."""
    ceiling: int | None = Field(default=None, ge=1)
    """Most memory that `more-memory` asks for, in MB; by default 65536."""
    parts: int | None = Field(default=None, ge=2, le=MAX_PARTS)
    """Number of parts that `split` makes; by default 2."""
    per_group: int | None = Field(default=None, ge=1)
    """How often the rule acts on a group at most; by default twice where something is processed again."""
    per_step: int | None = Field(default=None, ge=1)
    """How often the rule acts in a step at a site at most; by default 200 times where something is processed again."""
    passive: bool = False
    """Whether the rule only writes on the attempt what it would do, and later rules are asked; by default false."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for key, actions in _OWN.items():
            if getattr(self, key) is not None and self.action not in actions:
                message = f"has `{key}`, which `action: {self.action}` does not use"
                raise slip(Problem((), message, f"it with `action: {' or '.join(sorted(actions))}`"))
        if self.max_tries is not None and self.max_tries < self.min_tries:
            raise slip(Problem((), f"has max_tries {self.max_tries} below min_tries {self.min_tries}", "a larger one"))
        return self

    @property
    def budgets(self) -> tuple[int | None, int | None]:
        """How often it acts at most: on a group, in a step; None for no limit."""
        group, step = (2, 200) if self.action in AGAIN else (None, None)
        return self.per_group or group, self.per_step or step


def _once(rules: list[Rule]) -> list[Rule]:
    names = [rule.name for rule in rules]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise slip(Problem((), f"has two rules of the name {name}", "each name once"))
    return rules


Rules = Annotated[list[Rule], AfterValidator(_once)]
"""Rules in order: the first one that holds, may act and can, does."""


def joined(first: Iterable[Rule], then: Iterable[Rule]) -> tuple[Rule, ...]:
    """Put rules in order; of two of one name the first counts."""
    named: dict[str, Rule] = {}
    for rule in (*first, *then):
        named.setdefault(rule.name, rule)
    return tuple(named.values())
