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
from dagster._core.storage.runs.schema import RunsTable
from dagster._serdes import deserialize_value

__all__ = ["RunRow", "changed_since", "of_runs", "read_run", "runs_with"]

_RUNS = 8192
"""Runs whose deserialised form a process keeps: more than are open at a time (6 kB each)."""
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
    return _read(instance, RunsTable.c.run_id.in_(run_ids)) if run_ids else []


def changed_since(instance: dg.DagsterInstance, since: datetime | None) -> list[RunRow]:
    """Read the runs that were written after a time; all of them without one."""
    if since is None:
        return _read(instance)
    return _read(instance, RunsTable.c.update_timestamp > since.astimezone(UTC).replace(tzinfo=None))


def runs_with(instance: dg.DagsterInstance, run_ids: Iterable[str], kinds: Collection[dg.DagsterEventType]) -> set[str]:
    """Say which of some runs have an event of any of some kinds."""
    wanted = list(run_ids)
    if not wanted:
        return set()
    log: Any = instance.event_log_storage
    if not getattr(log, "postgres_url", None):  # on SQLite each run has a file of its own
        return {
            run_id for run_id in wanted if instance.get_records_for_run(run_id, of_type=set(kinds), limit=1).records
        }
    names = [kind.value for kind in kinds]
    column = SqlEventLogStorageTable.c
    query = sa.select(column.run_id).where(column.run_id.in_(wanted), column.dagster_event_type.in_(names)).distinct()
    with log.index_connection() as connection:
        return set(connection.execute(query).scalars())


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
