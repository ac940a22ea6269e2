"""What an audit may find: the kinds, what they mean, and what was looked at, in the audit's own words."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from cm_dagster.plan.names import AttemptId, group_folder
from cm_dagster.policy.states import SHOWN_AS, RunStatus, State

__all__ = ["ALARMING", "MEANING", "Finding", "Kind", "Known", "Place", "Workflow", "listed"]

_ENDED = ("succeeded", "failed", "cancelled")
_DAY = 86400.0
_NAMED = 5
"""Most names that a finding about many of them lists."""


class Kind(StrEnum):
    """What does not fit."""

    TWIN_WORKFLOW = "twin-workflow"
    TWIN_ATTEMPT = "twin-attempt"
    MISSING_OUTPUT = "missing-output"
    MISSING_WORKFLOW = "missing-workflow"
    ORPHAN_WORKFLOW = "orphan-workflow"
    LOST_CANCEL = "lost-cancel"
    CLAIM_WITHOUT_RUN = "claim-without-run"
    RUN_WITHOUT_CLAIM = "run-without-claim"
    STALE_UNKNOWN = "stale-unknown"
    STUCK = "stuck"
    ORPHAN_OUTPUT = "orphan-output"


ALARMING = frozenset({Kind.TWIN_WORKFLOW, Kind.TWIN_ATTEMPT, Kind.MISSING_OUTPUT})
"""Work is done twice, or done work is not where it belongs: the nightly run fails, so that it is seen."""

MEANING: Mapping[Kind, str] = {
    Kind.TWIN_WORKFLOW: "two workflows of one name: work is done twice, into the same collection",
    Kind.TWIN_ATTEMPT: "two attempts at one group at once",
    Kind.MISSING_OUTPUT: "accepted, but its output is not where it belongs",
    Kind.MISSING_WORKFLOW: "the WMS does not know the workflow of an open attempt",
    Kind.ORPHAN_WORKFLOW: "a workflow at the WMS that no attempt waits for",
    Kind.LOST_CANCEL: "cancelled, but its workflow still runs",
    Kind.CLAIM_WITHOUT_RUN: "a claim in the submit area whose run the ledger does not have",
    Kind.RUN_WITHOUT_CLAIM: "an open attempt without its claim in the submit area",
    Kind.STALE_UNKNOWN: "unknown for more than a day",
    Kind.STUCK: "waits in the queue for more than a day though the site answers",
    Kind.ORPHAN_OUTPUT: "a RUN collection that belongs to no attempt",
}
"""Each kind in a line, the most urgent first."""


@dataclass(frozen=True)
class Finding:
    """One thing that does not fit."""

    kind: Kind
    campaign: str
    seen: str
    """What is seen, and where."""
    advice: str
    """What to do next, with the commands in backticks."""
    step: str = ""
    """Empty where it is about a whole campaign; so are the next two."""
    group: str = ""
    attempt: int | None = None
    run_id: str = ""
    """Run of the attempt; empty if the ledger has none."""
    wms_id: str = ""
    """Workflow that it is about."""
    since: float | None = None
    """Seconds since the epoch since when it is so, where that is known."""
    cancel: bool = False
    """Whether the rule has the workflow cancelled: it is the twin of one that is recorded."""
    done: str = ""
    """What was done about it."""

    @property
    def where(self) -> str:
        """Campaign, step, group and attempt, as far as it is about one."""
        short = f"a{self.attempt:02d}" if self.attempt else ""
        return " ".join(word for word in (self.campaign, self.step, self.group, short) if word) or "the site"

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON can hold it; times are seconds since the epoch."""
        return {
            "kind": str(self.kind),
            "alarm": self.kind in ALARMING,
            "campaign": self.campaign,
            "step": self.step or None,
            "group": self.group or None,
            "attempt": self.attempt,
            "run_id": self.run_id or None,
            "wms_id": self.wms_id or None,
            "since": self.since,
            "seen": self.seen,
            "advice": self.advice,
            "done": self.done or None,
        }


@dataclass(frozen=True)
class Place:
    """A site, as far as advice needs it."""

    site: str
    service: str
    """Class of its BPS plugin."""
    area: Path
    """Its submit area."""
    settle: float
    """Seconds after which the WMS shows a new workflow."""

    def bps(self, verb: str, wms_id: str) -> str:
        """Write the command that does something to a workflow."""
        return f"`bps {verb} --wms-service-class {self.service} --id {shlex.quote(wms_id)}`"

    def sensor(self, name: str) -> str:
        """Say that a sensor does it by itself."""
        return f"the sensor {name}_{self.site} does so by itself; see that it is on: `cm doctor`"

    def claim(self, attempt: AttemptId) -> Path:
        """File of an attempt's claim."""
        return group_folder(self.area, attempt.step, attempt.group) / "claims" / attempt.short


@dataclass(frozen=True)
class Known:
    """An attempt, as the ledger knows it."""

    id: AttemptId
    run_id: str
    state: State
    wms_ids: frozenset[str] = frozenset()
    """Workflows that are recorded for it, on its run or beside its claim."""
    quiet: float = _DAY
    """Seconds since anything was last done for it."""
    since: float | None = None
    """Seconds since the epoch at which it came to its state, where that is known."""
    restarts: int = 0
    """How often its workflow was restarted."""

    @property
    def in_hands(self) -> bool:
        """Whether the site is to have a workflow of it, or to be making one."""
        return SHOWN_AS[self.state] is RunStatus.STARTED

    def verb(self, verb: str, reason: str) -> str:
        """Write the command that does something about its group."""
        id_ = self.id
        return f"`cm group {verb} {id_.step.campaign} {id_.step.step} {id_.group} --reason '{reason}'`"

    def finding(self, kind: Kind, seen: str, advice: str, *, wms_id: str = "", cancel: bool = False) -> Finding:
        """Make a finding about it."""
        id_ = self.id
        return Finding(
            kind,
            id_.step.campaign,
            seen,
            advice,
            step=id_.step.step,
            group=id_.group,
            attempt=id_.number,
            run_id=self.run_id,
            wms_id=wms_id,
            since=self.since,
            cancel=cancel,
        )


@dataclass(frozen=True)
class Workflow:
    """A workflow at the WMS that has a name of ours."""

    wms_id: str
    attempt: AttemptId
    state: str
    """In the words of `cm_dagster.services.wms`."""
    path: str = ""
    """Submit directory."""

    @property
    def alive(self) -> bool:
        """Whether it may still do something."""
        return self.state not in _ENDED

    def __str__(self) -> str:
        return f"{self.wms_id} ({self.state})"


def listed(names: Sequence[str], what: str) -> str:
    """Write how many there are of something, and the first of them."""
    shown = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'} ({shown})"
