"""Attempts as the ledger knows them, and an index of them that costs what has changed."""

from __future__ import annotations

import sys
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from cm_dagster.ledger import tags
from cm_dagster.ledger.refusal import group_tag
from cm_dagster.ledger.rows import RunRow, all_runs, of_jobs, of_runs, read_run, started, tagged, written_since
from cm_dagster.plan.names import AttemptId, StepId
from cm_dagster.plan.recipe import Recipe
from cm_dagster.policy.line import Latest
from cm_dagster.policy.states import OPEN, SHOWN_AS, RunStatus, State

__all__ = [
    "UNFINISHED",
    "Attempt",
    "AttemptIndex",
    "index_at",
    "index_of",
    "read_attempt",
    "read_attempts",
    "read_started",
]

UNFINISHED = [
    status
    for status in dg.DagsterRunStatus
    if status not in (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
]
"""Statuses of runs that are not over."""

_OVERLAP = timedelta(seconds=300)
"""Changes are asked for from this long before the latest seen: clocks of hosts differ, and commits overtake.

A write has the time at which it began, and may wait for another one for 90 s (see `cm_dagster.ledger.storage`).
"""

_QUICKLY = 1
"""Level of compression: a third is left, in 30 us."""
_MORE = (tags.STATE, tags.SENT, tags.WAIT, tags.HOW, tags.RESTARTED, tags.USER)
"""Tags that an attempt keeps as they are."""

_BY_STATUS = {
    RunStatus.NOT_STARTED: State.QUEUED,
    RunStatus.QUEUED: State.QUEUED,
    RunStatus.CANCELING: State.CANCELLING,
    RunStatus.CANCELED: State.CANCELLED,
    RunStatus.SUCCESS: State.ACCEPTED,
    RunStatus.FAILURE: State.FAILED,
}
_IN_HANDS = frozenset(state for state, shown in SHOWN_AS.items() if shown is RunStatus.STARTED)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A run that is an attempt; a process holds tens of thousands of them."""

    run_id: str
    id: AttemptId
    state: State
    wms_id: str
    """Empty until the workflow is known at the WMS."""
    submit_dir: str
    output_run: str
    finalized: int
    """How often the workflow's final job was run again."""
    swept: bool
    """Whether the workflow of a cancelled attempt is known to be cancelled."""
    by_person: bool
    priority: int
    parent: str | None
    """The run that it re-executes."""
    backfill: str | None
    created: float
    started: float | None
    ended: float | None
    """Seconds since the epoch."""
    status: dg.DagsterRunStatus
    """What Dagster shows it as."""
    job: str
    """Name of the job of its run."""
    packed: bytes = field(repr=False)
    """Its run, as Dagster stores it, compressed."""
    tags: Mapping[str, str] = field(repr=False, compare=False)
    """Those of its run that say more."""

    @property
    def run(self) -> dg.DagsterRun:
        """Its run."""
        return read_run(self._body, self.status.value)

    @property
    def _body(self) -> str:
        return zlib.decompress(self.packed).decode()

    def is_of(self, row: RunRow) -> bool:
        """Whether a row of its run says nothing else of it."""
        known = (self.status, self.started, self.ended) == (row.status, row.started, row.ended)
        return known and self._body == row.body

    @property
    def folder(self) -> str:
        """Its folder in the submit area; empty until its workflow is known."""
        return str(Path(self.submit_dir).parent) if self.submit_dir else ""

    @property
    def recipe(self) -> Recipe:
        """In what it differs from a plain attempt."""
        return Recipe.load(self.tags.get(tags.HOW, ""), self.id.number)

    @property
    def restarts(self) -> int:
        """How often its workflow was restarted."""
        return int(self.tags.get(tags.RESTARTED, "").partition(" ")[0] or 0)

    @property
    def restarted(self) -> float:
        """Seconds since the epoch when its workflow was restarted last; 0 if it was not."""
        return float(self.tags.get(tags.RESTARTED, "").partition(" ")[2] or 0)

    def outputs(self, campaign_output: str) -> list[str]:
        """RUN collections that hold what the attempt stands for: its own, if anything was submitted, and the rescued.

        Parameters
        ----------
        campaign_output
            Output collection of the campaign.
        """
        own = [self.id.run(campaign_output)] if self.wms_id else []
        return own + self.rescued_runs(campaign_output)

    def rescued_runs(self, campaign_output: str) -> list[str]:
        """RUN collections of the attempts that it has rescued.

        Parameters
        ----------
        campaign_output
            Output collection of the campaign.
        """
        step, group = self.id.step, self.id.group
        return [AttemptId(step, group, number).run(campaign_output) for number in self.recipe.rescued]

    @property
    def sent(self) -> float | None:
        """When its workflow was recorded as submitted, not before it was; None if it never was.

        In seconds since the epoch. An attempt of an older release says only when it began.
        """
        return float(self.tags.get(tags.SENT) or self.started or self.created) if self.wms_id else None

    @property
    def is_open(self) -> bool:
        """Whether it still occupies its group."""
        return self.state in OPEN

    @property
    def began(self) -> bool:
        """Whether it has been in the site's hands, so that there may be a workflow of it."""
        # Its start is written before its tag: a process may have died between.
        return bool(self.wms_id) or self.started is not None or self.tags.get(tags.STATE, "") not in _BEFORE


def _attempt(row: RunRow) -> Attempt | None:
    """Read an attempt from a run's row; None if the run is none, or was turned away."""
    document = row.document
    found: dict[str, str] = document.get("tags") or {}
    tag = found.get
    if tag(tags.KIND) != tags.WORKFLOW or tag(tags.OF) != row.run_id:
        return None
    return Attempt(
        run_id=row.run_id,
        id=AttemptId(StepId.from_tag(found[tags.STEP]), found[tags.PARTITION], int(found[tags.ATTEMPT])),
        state=_state(row.status, tag(tags.STATE, "")),
        wms_id=tag(tags.WMS_ID, ""),
        submit_dir=tag(tags.SUBMIT_DIR, ""),
        output_run=tag(tags.OUTPUT_RUN, ""),
        finalized=int(tag(tags.FINALIZED) or 0),
        swept=tag(tags.CANCELLED) == "yes",
        by_person=tag(tags.BY) != "dispatch",
        priority=int(tag("dagster/priority") or 0),
        parent=document.get("parent_run_id"),
        backfill=tag("dagster/backfill"),
        created=row.created.timestamp(),
        started=row.started,
        ended=row.ended,
        status=row.status,
        job=sys.intern(document["pipeline_name"]),
        packed=zlib.compress(row.body.encode(), _QUICKLY),
        tags={name: found[name] for name in _MORE if name in found},
    )


def _state(status: dg.DagsterRunStatus, tag: str) -> State:
    # The status column is written by Dagster alone and can't lag behind; the tag only refines STARTED.
    known = _BY_STATUS.get(RunStatus(status.value)) if status.value in RunStatus else None
    if known:
        return known
    return State(tag) if tag in _IN_HANDS else State.CLAIMED


def read_attempt(instance: dg.DagsterInstance, run_id: str) -> Attempt | None:
    """Read one attempt afresh; None if there is no such run, or it is no attempt."""
    return read_attempts(instance, [run_id]).get(run_id)


def read_attempts(instance: dg.DagsterInstance, run_ids: Sequence[str]) -> dict[str, Attempt]:
    """Read attempts afresh, in one query; those runs are left out that do not exist or are no attempts."""
    return {found.run_id: found for row in of_runs(instance, run_ids) if (found := _attempt(row))}


def read_started(instance: dg.DagsterInstance, site: str) -> list[Attempt]:
    """Read the attempts that are in a site's hands afresh, the oldest first."""
    found = [attempt for row in started(instance) if (attempt := _attempt(row)) and attempt.id.step.site == site]
    return sorted(found, key=lambda a: (a.created, a.id))


_BEFORE = ("", State.QUEUED)
_BY_HAND = "__ASSET_JOB"
"""Dagster's name for the job of assets that were chosen by hand."""


class AttemptIndex:
    """All attempts, kept in memory and brought up to date by what has changed since.

    It is a cache: a new process reads everything once, and nothing is lost with it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: datetime | None = None
        self._written: dict[str, datetime] = {}
        """When the runs were written that were written last."""
        self._by_run: dict[str, Attempt] = {}
        self._by_group: dict[tuple[str, str], dict[str, Attempt]] = defaultdict(dict)
        self._latest: dict[str, dict[str, Attempt]] = defaultdict(dict)
        self._accepted: dict[str, dict[str, int]] = defaultdict(dict)
        self._open: dict[str, Attempt] = {}
        self._unswept: dict[str, Attempt] = {}
        self._changes: list[str] = []

    def refresh(self, instance: dg.DagsterInstance) -> None:
        """Read what has changed since the last call."""
        with self._lock:
            self._take(self._changed(instance))

    def read_groups(self, instance: dg.DagsterInstance, step: StepId, groups: Iterable[str]) -> None:
        """Read the attempts at some groups alone."""
        with self._lock:
            self._take(tagged(instance, tags.GROUP, [group_tag(step.tag, group) for group in groups]))

    def read_step(self, instance: dg.DagsterInstance, step: StepId) -> None:
        """Read the attempts at a step alone, and those that were launched by hand at any."""
        with self._lock:
            self._take(of_jobs(instance, [step.job, _BY_HAND]))

    def _take(self, rows: Iterable[RunRow]) -> None:
        for row in rows:
            known = self._by_run.get(row.run_id)
            if not (known and known.is_of(row)) and (attempt := _attempt(row)):
                self._add(attempt)

    def _changed(self, instance: dg.DagsterInstance) -> list[RunRow]:
        """Read the runs that were written since the last call.

        Not by their tags: Dagster's own PostgreSQL storage commits a run's tags for queries after the run, and a crash
        between leaves these out for ever. What the run itself says of its tags is complete.
        """
        if self._seen is None:
            rows = all_runs(instance)
            written = {row.run_id: row.updated for row in rows}
        else:
            # What was written while a clock was ahead must not hide what is written now.
            now = datetime.fromtimestamp(time.time(), UTC)
            written = written_since(instance, min(self._seen, now) - _OVERLAP)
            rows = of_runs(instance, [run_id for run_id, when in written.items() if self._written.get(run_id) != when])
        self._seen = max(written.values(), default=self._seen)
        self._written = written
        return rows

    def _add(self, attempt: Attempt) -> None:
        run_id = attempt.run_id
        self._by_run[run_id] = attempt
        self._changes.append(run_id)
        step, group = sys.intern(attempt.id.step.tag), attempt.id.group
        self._by_group[step, group][run_id] = attempt
        self._latest[step][group] = latest = max(self._by_group[step, group].values(), key=_rank)
        if latest.state is State.ACCEPTED:
            self._accepted[step][group] = latest.id.number
        else:
            self._accepted[step].pop(group, None)
        _keep(self._open, attempt, attempt.is_open)
        _keep(self._unswept, attempt, attempt.state is State.CANCELLED and attempt.began and not attempt.swept)

    def of_step(self, step: StepId) -> Mapping[str, Attempt]:
        """Latest attempt of each group of a step that has one."""
        return self._latest.get(step.tag, {})

    def accepted(self, step: StepId) -> dict[str, int]:
        """Number of the latest attempt of each group of a step whose latest attempt is accepted, in no order."""
        return self._accepted.get(step.tag, {}).copy()  # another thread may bring the index up to date

    def latest(self, step: StepId) -> dict[str, Latest]:
        """Give number and state of the latest attempts of a step, for the policies."""
        return {name: Latest(a.id.number, a.state) for name, a in self.of_step(step).items()}

    def open_at(self, site: str) -> list[Attempt]:
        """Attempts at a site that are not ended, the oldest first."""
        found = [a for a in list(self._open.values()) if a.id.step.site == site]
        return sorted(found, key=lambda a: (a.created, a.id))

    def unswept_at(self, site: str) -> list[Attempt]:
        """Cancelled attempts at a site whose workflow is not known to be cancelled."""
        return [a for a in list(self._unswept.values()) if a.id.step.site == site]

    def everything(self) -> list[Attempt]:
        """All attempts, in no particular order."""
        return list(self._by_run.values())

    def changes(self, mark: int) -> tuple[int, list[Attempt]]:
        """Give the attempts that are new or have changed since a mark, as they are now, and the mark of now.

        Parameters
        ----------
        mark
            What the last call gave; 0 for all attempts.
        """
        with self._lock:
            changed = dict.fromkeys(self._changes[mark:])
            return len(self._changes), [self._by_run[run_id] for run_id in changed]

    def all_of(self, step: StepId, group: str) -> list[Attempt]:
        """All attempts at a group, the first one first."""
        found = list(self._by_group.get((step.tag, group), {}).values())
        return sorted(found, key=lambda a: (a.id.number, a.created))


def _rank(attempt: Attempt) -> tuple[int, bool, float, str]:
    # Of two with one number (two coordinators at one moment) the one that is not turned away counts.
    return attempt.id.number, attempt.state is not State.CANCELLED, attempt.created, attempt.run_id


def _keep(where: dict[str, Attempt], attempt: Attempt, wanted: bool) -> None:
    if wanted:
        where[attempt.run_id] = attempt
    else:
        where.pop(attempt.run_id, None)


_INDEXES: dict[str, AttemptIndex] = {}


def index_of(instance: dg.DagsterInstance) -> AttemptIndex:
    """Give this process's index of an instance, up to date."""
    index = _INDEXES.setdefault(instance.root_directory, AttemptIndex())
    index.refresh(instance)
    return index


def index_at(instance: dg.DagsterInstance, step: StepId, groups: Iterable[str] | None = None) -> AttemptIndex:
    """Give this process's index, up to date, if it has one; else one of the attempts at a step or some of its groups.

    The process of a run does not live long enough for all attempts to be read.
    """
    if instance.root_directory in _INDEXES:
        return index_of(instance)
    index = AttemptIndex()
    if groups is None:
        index.read_step(instance, step)
    else:
        index.read_groups(instance, step, groups)
    return index
