"""What the oracle found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["KINDS", "Finding", "Findings", "Kind"]

type Kind = Literal["lost", "twins", "redone", "early"]
KINDS: Final[tuple[Kind, ...]] = ("lost", "twins", "redone", "early")
"""What must never happen: work that is lost, that is done twice at once, again, or before its inputs are there."""


@dataclass(frozen=True)
class Finding:
    """One thing that must not be."""

    kind: Kind
    where: str
    """Workflow, group, step or collection."""
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.text}"


@dataclass(frozen=True)
class Findings:
    """All that was found."""

    found: tuple[Finding, ...] = ()
    cancelled_twins: int = 0
    """Second workflows of a name that were cancelled before they came to an end: by rule, so no fault."""
    resubmitted: int = 0
    """Of these, those that were submitted; the others the WMS has made by itself. There can be one only where a WMS
    has shown a list that lacked what it had: no fault then."""

    @property
    def counts(self) -> Mapping[Kind, int]:
        """Number of findings of each kind."""
        return {kind: sum(finding.kind == kind for finding in self.found) for kind in KINDS}

    @property
    def lost(self) -> int:
        """Number of things that are lost."""
        return self.counts["lost"]

    @property
    def twins(self) -> int:
        """Number of things done twice at once."""
        return self.counts["twins"]

    @property
    def redone(self) -> int:
        """Number of things done again without a good reason."""
        return self.counts["redone"]

    @property
    def early(self) -> int:
        """Number of things done before their inputs were there."""
        return self.counts["early"]

    @property
    def clean(self) -> bool:
        """Whether there is nothing."""
        return not self.found

    @property
    def lines(self) -> tuple[str, ...]:
        """A line of explanation for each finding."""
        return tuple(str(finding) for finding in self.found)

    def __str__(self) -> str:
        counts = " ".join(f"{kind} {number}" for kind, number in self.counts.items())
        told = f"cancelled twins, by rule: {self.cancelled_twins}, of which {self.resubmitted} were submitted"
        twins = [told] if self.cancelled_twins or self.resubmitted else []
        return "\n".join([counts, *twins, *self.lines])

    @classmethod
    def of(cls, found: Iterable[Finding], cancelled_twins: int, resubmitted: int) -> Findings:
        """Put findings into the order of their kinds."""
        ordered = sorted(found, key=lambda each: (KINDS.index(each.kind), each.where))
        return cls(tuple(ordered), cancelled_twins, resubmitted)
