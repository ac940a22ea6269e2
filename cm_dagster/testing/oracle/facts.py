"""What the oracle compares, in plain records: workflows at the WMS, attempts and steps in the ledger, chains."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

__all__ = ["STOPPED", "AtWms", "Attempt", "Facts", "GroupKey", "Step"]

STOPPED = ("SUCCEEDED", "FAILED", "DELETED")
"""States of workflows that run no more, in BPS's words."""

_NAME = re.compile(r"([A-Za-z]\w*)\.([A-Za-z]\w*)\.([A-Za-z]\w*)\.(g\d{4,}[a-z]*)\.a(\d{2,})")


class GroupKey(NamedTuple):
    """A group of a step at a site."""

    campaign: str
    step: str
    site: str
    group: str

    def __str__(self) -> str:
        return ".".join(self)


@dataclass(frozen=True)
class AtWms:
    """A workflow, as the WMS has it."""

    wms_id: str
    name: str
    state: str
    """In BPS's words."""
    submitted: float
    """When the WMS got it, or a moment before, in seconds since the epoch."""
    ended_itself: bool
    """Whether it ever ended otherwise than by being cancelled."""
    by_wms: bool = False
    """Whether the WMS made it by itself, where nobody had submitted a second one."""

    @cached_property
    def _parts(self) -> re.Match[str] | None:
        return _NAME.fullmatch(self.name)

    @property
    def key(self) -> GroupKey:
        """The group that it is for; of empty names if it is not a campaign's."""
        return GroupKey(*(self._parts.groups()[:4] if self._parts else [""] * 4))

    @property
    def number(self) -> int:
        """Number of the attempt that it is for; 0 of a workflow that is not a campaign's."""
        return int(self._parts[5]) if self._parts else 0

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled before it came to an end of its own."""
        return self.state == "DELETED" and not self.ended_itself


@dataclass(frozen=True)
class Attempt:
    """An attempt, as its run in Dagster's storage shows it; times in seconds since the epoch."""

    run_id: str
    key: GroupKey
    number: int
    status: str
    """Of the run, in Dagster's words."""
    wms_id: str = ""
    by_person: bool = False
    """Whether a person launched it."""
    parent: str | None = None
    """The run that it re-executes."""
    started: float | None = None
    ended: float | None = None
    cancel_asked: float | None = None
    """When a person asked for its cancellation."""
    swept: bool = False
    """Whether the ledger says that its workflow is cancelled."""
    materialized: bool = False
    """Whether it has materialized its group."""
    expected: int | None = None
    registered: int | None = None
    """Quanta by the verdict that was written at its end."""
    by_hand: bool = False
    """Whether it was accepted by decision, whatever its verdict."""
    rejected: float | None = None
    """When it was rejected by decision after it had been accepted."""
    restarts: int = 0
    """How often its workflow was restarted; some WMSs make a new one of it."""

    @property
    def name(self) -> str:
        """Name that its workflow should have."""
        return f"{self.key}.a{self.number:02d}"

    @property
    def open(self) -> bool:
        """Whether it is not ended."""
        return self.status not in ("SUCCESS", "FAILURE", "CANCELED")

    @property
    def accepted(self) -> bool:
        """Whether its outputs count."""
        return self.status == "SUCCESS"


@dataclass(frozen=True)
class Step:
    """A step of a campaign, as it was planned."""

    campaign: str
    name: str
    needs: Sequence[str] = ()
    groups: Sequence[GroupKey] | None = None
    """None if it was not planned."""
    collected: float | None = None
    """When it was collected first."""
    output: str = ""
    """Output collection of the campaign."""
    threshold: float = 1.0
    """Least part of the quanta that a group needs to be accepted."""

    def __str__(self) -> str:
        return f"{self.campaign}.{self.name}"


@dataclass(frozen=True)
class Facts:
    """All that is known from outside about campaigns."""

    workflows: Sequence[AtWms]
    attempts: Sequence[Attempt]
    steps: Sequence[Step]
    unmarked: Sequence[str] = ()
    """Runs of steps' assets that have not ended and were never made attempts."""
    chains: Mapping[str, Sequence[str]] | None = None
    """Children of the chains in the Butler, by name; None if it was not read."""
    by_name: dict[str, list[AtWms]] = field(init=False, repr=False, default_factory=lambda: defaultdict(list))
    by_group: dict[GroupKey, list[Attempt]] = field(init=False, repr=False, default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        known = {step.campaign for step in self.steps}
        for workflow in sorted(self.workflows, key=lambda each: each.submitted):
            if workflow.key.campaign in known:
                self.by_name[workflow.name].append(workflow)
        for attempt in sorted(self.attempts, key=lambda each: each.number):
            self.by_group[attempt.key].append(attempt)

    @cached_property
    def by_id(self) -> Mapping[str, AtWms]:
        """Workflows by their id."""
        return {workflow.wms_id: workflow for workflow in self.workflows}

    @cached_property
    def recorded(self) -> frozenset[str]:
        """Workflows that attempts record as theirs."""
        return frozenset(attempt.wms_id for attempt in self.attempts if attempt.wms_id)

    def of(self, attempt: Attempt) -> list[AtWms]:
        """Workflows of an attempt's name."""
        # Two runs may have been given one number; the one that never began has no workflow.
        return self.by_name.get(attempt.name, []) if attempt.started is not None else []
