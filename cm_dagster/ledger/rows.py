"""Runs as the database has them, without the objects that Dagster makes of them: a tenth of the time for thousands.

Uses of ``dagster._core``: the tables of runs and of events, which Dagster's storages and ours have; ``fetchall`` and
``index_connection`` of the SQL storages; and the form in which a run is stored, JSON whose ``tags`` are those of the
run. Its public way to read runs makes the whole object of each.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import dagster as dg
import sqlalchemy as sa
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable
from dagster._serdes import deserialize_value

__all__ = ["RunRow", "all_runs", "last_events", "of_jobs", "of_runs", "read_run", "started", "tagged", "written_since"]

_RUNS = 8192
"""Runs whose deserialised form a process keeps: more than are open at a time (6 kB each)."""
_VALUES = 5000
"""Most values in one statement: older SQLite versions take only so many."""
_COLUMNS = (
    RunsTable.c.run_id,
    RunsTable.c.status,
    RunsTable.c.run_body,
    RunsTable.c.create_timestamp,
    RunsTable.c.update_timestamp,
    RunsTable.c.start_time,
    RunsTable.c.end_time,
)


class RunRow(NamedTuple):
    """A row of the table of runs."""

    run_id: str
    status: dg.DagsterRunStatus
    """Which counts; that in the body may be older."""
    body: str
    """The run, as Dagster stores it."""
    created: datetime
    updated: datetime
    """In UTC."""
    started: float | None
    ended: float | None
    """Seconds since the epoch."""

    @property
    def document(self) -> Mapping[str, Any]:
        """The run's body as plain JSON."""
        found: dict[str, Any] = json.loads(self.body)
        return found


@lru_cache(_RUNS)
def read_run(body: str, status: str) -> dg.DagsterRun:
    """Make Dagster's object of a run.

    Parameters
    ----------
    body
        The run, as Dagster stores it.
    status
        Its status by the column of that name.
    """
    run, known = deserialize_value(body, dg.DagsterRun), dg.DagsterRunStatus(status)
    return run if run.status is known else run.with_status(known)  # which makes another one: a fifth of all this


def of_runs(instance: dg.DagsterInstance, run_ids: Sequence[str]) -> list[RunRow]:
    """Read some runs; those that do not exist are left out."""
    return [
        row
        for first in range(0, len(run_ids), _VALUES)
        for row in _read(instance, RunsTable.c.run_id.in_(run_ids[first : first + _VALUES]))
    ]


def of_jobs(instance: dg.DagsterInstance, names: Sequence[str]) -> list[RunRow]:
    """Read the runs of some jobs."""
    return _read(instance, RunsTable.c.pipeline_name.in_(names))


def all_runs(instance: dg.DagsterInstance) -> list[RunRow]:
    """Read all runs."""
    return _read(instance)


def written_since(instance: dg.DagsterInstance, since: datetime) -> dict[str, datetime]:
    """Tell which runs were written after a time, and when: by their ids, without reading them."""
    storage: Any = instance.run_storage
    columns = RunsTable.c.run_id, RunsTable.c.update_timestamp
    later = RunsTable.c.update_timestamp > since.astimezone(UTC).replace(tzinfo=None)
    # All of them; the index of these tables begins with the status.
    any_status = RunsTable.c.status.in_([status.value for status in dg.DagsterRunStatus])
    rows = storage.fetchall(sa.select(*columns).where(any_status, later))
    return {row["run_id"]: row["update_timestamp"].replace(tzinfo=UTC) for row in rows}


def started(instance: dg.DagsterInstance) -> list[RunRow]:
    """Read the runs that are under way."""
    return _read(instance, RunsTable.c.status == dg.DagsterRunStatus.STARTED.value)


def tagged(instance: dg.DagsterInstance, tag: str, values: Sequence[str]) -> list[RunRow]:
    """Read the runs that have a tag with any of some values."""
    own = sa.select(RunTagsTable.c.run_id).where(RunTagsTable.c.key == tag, RunTagsTable.c.value.in_(values))
    return _read(instance, RunsTable.c.run_id.in_(own)) if values else []


def last_events(
    instance: dg.DagsterInstance, run_ids: Iterable[str], kinds: Collection[dg.DagsterEventType]
) -> dict[str, dg.DagsterEventType]:
    """Say of which kind the latest event of some runs is, of all of some kinds; runs without any are left out."""
    wanted = list(run_ids)
    log: Any = instance.event_log_storage
    if not getattr(log, "postgres_url", None):  # on SQLite each run has a file of its own
        found = {run_id: _last_event(instance, run_id, kinds) for run_id in wanted}
        return {run_id: kind for run_id, kind in found.items() if kind}
    if not wanted:
        return {}
    column, names = SqlEventLogStorageTable.c, [kind.value for kind in kinds]
    query = (
        sa.select(column.run_id, column.dagster_event_type)
        .where(column.run_id.in_(wanted), column.dagster_event_type.in_(names))
        .group_by(column.run_id, column.dagster_event_type)
        .order_by(sa.func.max(column.id))
    )
    with log.index_connection() as connection:
        return {run_id: dg.DagsterEventType(kind) for run_id, kind in connection.execute(query)}  # the last one stays


def _last_event(
    instance: dg.DagsterInstance, run_id: str, kinds: Collection[dg.DagsterEventType]
) -> dg.DagsterEventType | None:
    records = instance.get_records_for_run(run_id, of_type=set(kinds), limit=1, ascending=False).records
    return records[0].event_log_entry.dagster_event_type if records else None


def _read(instance: dg.DagsterInstance, *where: sa.ColumnElement[bool]) -> list[RunRow]:
    storage: Any = instance.run_storage
    return [
        RunRow(
            row["run_id"],
            dg.DagsterRunStatus(row["status"]),
            row["run_body"],
            row["create_timestamp"].replace(tzinfo=UTC),
            row["update_timestamp"].replace(tzinfo=UTC),
            row["start_time"],
            row["end_time"],
        )
        for row in storage.fetchall(sa.select(*_COLUMNS).where(*where))
    ]
