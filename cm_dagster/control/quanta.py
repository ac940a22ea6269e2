"""Quanta of whole steps and campaigns: what was judged of the accepted groups, added up.

The verdict on each group is kept with its materialization (of one that a person accepted, with the observation of its
failure). These are read in pages, whatever the number of groups: nothing is asked for group by group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from cm_dagster.control.taskrows import TaskRow, metadata_table
from cm_dagster.errors import LedgerError
from cm_dagster.ledger import campaigns
from cm_dagster.ledger.attempts import Attempt, index_of
from cm_dagster.ledger.events import Metadata
from cm_dagster.ledger.plans import Plan, load_plans
from cm_dagster.plan.names import StepId
from cm_dagster.policy.states import State

__all__ = ["StepQuanta", "campaign_quanta", "quanta_metadata", "step_quanta"]

_PAGE = 1000
"""Events that are read at once."""
_PARTITIONS = 500
"""Groups that are named in one query; SQLite takes only so many values in a statement."""
_TABLE = "quanta"
"""Label of the table by task in the metadata of a judged group."""


@dataclass(frozen=True)
class StepQuanta:
    """Quanta of the accepted groups of a step."""

    step: str
    groups: int
    """Groups of the step; 0 before it is planned."""
    accepted: int = 0
    below: int = 0
    """Accepted groups that lack some of their quanta."""
    uncounted: int = 0
    """Accepted groups of which nothing is known by task: a person accepted what was never judged."""
    tasks: Mapping[str, TaskRow] = field(default_factory=dict)
    """By task label, in the order of the pipeline."""

    @property
    def total(self) -> Counter[str]:
        """Counts of all tasks together."""
        found: Counter[str] = Counter()
        for row in self.tasks.values():
            found.update(row.whole())
        return found

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON can hold it."""
        return {
            "step": self.step,
            "groups": {
                "total": self.groups,
                "accepted": self.accepted,
                "below": self.below,
                "uncounted": self.uncounted,
            },
            "tasks": [_plain({"task": row.task, **row.whole()}) for row in self.tasks.values()],
            "total": _plain(self.total),
        }


def _plain(counts: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace(" ", "_"): value for name, value in counts.items()}


def campaign_quanta(instance: dg.DagsterInstance, name: str, step: str | None = None) -> list[StepQuanta]:
    """Add up the quanta of a campaign's steps, in their order.

    Parameters
    ----------
    instance
        The Dagster instance.
    name
        The campaign.
    step
        The only step that is wanted; None for all.

    Raises
    ------
    LedgerError
        If there is no such campaign or step.
    """
    order = campaigns.find(instance, name).spec.order()
    if step is not None and step not in order:
        raise LedgerError(f"{name} has no step {step!r}", advice=f"its steps are {', '.join(order)}")
    wanted = order if step is None else [step]
    plans = load_plans(instance, name, wanted)
    return [step_quanta(instance, plans[each]) if each in plans else StepQuanta(each, 0) for each in wanted]


def step_quanta(instance: dg.DagsterInstance, plan: Plan) -> StepQuanta:
    """Add up the quanta of the accepted groups of a step.

    Parameters
    ----------
    instance
        The Dagster instance.
    plan
        The step's plan.
    """
    index = index_of(instance)
    accepted = 0
    judged: list[list[TaskRow]] = []
    for site in plan.sites:
        step = StepId(plan.campaign, plan.step, site)
        latest = index.of_step(step)
        attempts = [latest[group.name] for group in plan.at(site) if group.name in latest]
        good = [attempt for attempt in attempts if attempt.state is State.ACCEPTED]
        accepted += len(good)
        judged += _judged(instance, step, good)
    return StepQuanta(
        plan.step,
        len(plan.groups),
        accepted=accepted,
        below=sum(any(row.all_registered < row.all_expected for row in rows) for rows in judged),
        uncounted=accepted - len(judged),
        tasks=_added(judged),
    )


def _added(judged: Iterable[Sequence[TaskRow]]) -> dict[str, TaskRow]:
    tasks: dict[str, TaskRow] = {}
    for rows in judged:
        for row in rows:
            tasks[row.task] = tasks[row.task].plus(row) if row.task in tasks else row
    return tasks


def _judged(instance: dg.DagsterInstance, step: StepId, attempts: Sequence[Attempt]) -> list[list[TaskRow]]:
    """Read what was judged of attempts at groups of a step, of those that were, in the order of the groups."""
    runs = {attempt.run_id: attempt.id.group for attempt in attempts}
    found: dict[str, list[TaskRow]] = {}
    if runs:
        _take(found, runs, _materializations(instance, step))
    lacking = sorted(group for run_id, group in runs.items() if run_id not in found)
    for place in range(0, len(lacking), _PARTITIONS):
        _take(found, runs, _observations(instance, step, lacking[place : place + _PARTITIONS]))
    return [found[run_id] for run_id in runs if run_id in found]


def _take(found: dict[str, list[TaskRow]], runs: Mapping[str, str], records: Iterator[dg.EventLogRecord]) -> None:
    """Take the latest table of each run from records, the latest first."""
    for record in records:
        entry = record.event_log_entry
        event = entry.asset_materialization or entry.asset_observation
        table = event.metadata.get(_TABLE) if event else None
        if record.run_id in runs and record.run_id not in found and isinstance(table, dg.TableMetadataValue):
            found[record.run_id] = [TaskRow.read(row.data) for row in table.records]


def _materializations(instance: dg.DagsterInstance, step: StepId) -> Iterator[dg.EventLogRecord]:
    cursor = None
    while True:
        page = instance.fetch_materializations(dg.AssetKey(step.asset), limit=_PAGE, cursor=cursor)
        yield from page.records
        if not page.has_more:
            return
        cursor = page.cursor


def _observations(instance: dg.DagsterInstance, step: StepId, groups: Sequence[str]) -> Iterator[dg.EventLogRecord]:
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(step.asset), asset_partitions=list(groups))
    cursor = None
    while True:
        page = instance.fetch_observations(wanted, limit=_PAGE, cursor=cursor)
        yield from page.records
        if not page.has_more:
            return
        cursor = page.cursor


def quanta_metadata(found: StepQuanta) -> Metadata:
    """Write the quanta of a step for the page of its asset."""
    return {
        "quanta": metadata_table({"task": row.task, **row.whole()} for row in found.tasks.values()),
        "quanta expected": found.total["expected"],
        "quanta registered": found.total["registered"],
        "groups accepted below 100 %": found.below,
        **({"groups not counted by task": found.uncounted} if found.uncounted else {}),
    }
