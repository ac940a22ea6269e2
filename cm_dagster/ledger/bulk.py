"""Changes of many runs in three statements, and many new runs in two.

Uses of ``dagster._core``: the tables of runs and of their tags, names of two tags, Dagster's clock (rows are found by
when they were written, so all writers must take the time from the same one), and the form in which a run is stored:
JSON, whose ``tags`` and ``status`` are those of the run. Dagster's own ways read and write one run at a time, and make
an object of it twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster._core.events import EVENT_TYPE_TO_PIPELINE_RUN_STATUS
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable
from dagster._core.storage.tags import PARTITION_NAME_TAG, REPOSITORY_LABEL_TAG
from dagster._serdes import serialize_value
from dagster._time import get_current_datetime

__all__ = ["Change", "change_runs", "copy_run"]

_ENDS = frozenset(
    {dg.DagsterEventType.RUN_SUCCESS, dg.DagsterEventType.RUN_CANCELED}
)  # a failure has a tag for its reason, which Dagster writes

type _Row = dict[str, Any]


@dataclass
class Change:
    """What becomes of a run."""

    tags: dict[str, str] = field(default_factory=dict)
    """Tags that it gets, or gets anew."""
    status: dg.DagsterRunStatus | None = None
    started: float | None = None
    ended: float | None = None
    """Seconds since the epoch; None leaves what there is."""

    def follow(self, kind: dg.DagsterEventType, when: float) -> None:
        """Take over what an event makes of a run.

        Parameters
        ----------
        kind
            The kind of the event; none that Dagster follows with more than a status.
        when
            When it happened, in seconds since the epoch.
        """
        status = EVENT_TYPE_TO_PIPELINE_RUN_STATUS.get(kind)
        if status is None:
            return
        self.status = status
        if kind is dg.DagsterEventType.RUN_START:
            self.started = when
        elif kind in _ENDS:
            self.ended = when
        else:
            raise ValueError(f"{kind} changes more than the status of a run")


def change_runs(connection: sa.Connection, changes: Mapping[str, Change]) -> None:
    """Change runs.

    Parameters
    ----------
    connection
        Connection to the database, in a transaction that has locked these runs.
    changes
        What is to become of each run, by its id.
    """
    if not changes:
        return
    runs: list[_Row] = []
    new: list[_Row] = []
    old: list[_Row] = []
    for found in connection.execute(_bodies(list(changes))):
        run_id, document = found.run_id, json.loads(found.run_body)
        change = changes[run_id]
        known = document["tags"]
        for key, value in change.tags.items():
            (old if key in known else new).append({"of": run_id, "name": key, "to": value})
        runs.append(_row(run_id, document, change))
    _execute(connection, _UPDATE_RUN, runs)
    _execute(connection, _UPDATE_TAG, old)
    _execute(connection, _ADD_TAG, new)


def copy_run(connection: sa.Connection, model: str, copies: Sequence[dg.DagsterRun]) -> None:
    """Write new runs that differ from another one in their ids, partitions and tags alone.

    Parameters
    ----------
    connection
        Connection to the database, in a transaction.
    model
        Id of the other run, which belongs to no backfill.
    copies
        The new runs.
    """
    # Dagster keeps the repository of a run for queries only.
    of = sa.select(RunTagsTable).where(RunTagsTable.c.run_id == model, RunTagsTable.c.key == REPOSITORY_LABEL_TAG)
    labels = {row.key: row.value for row in connection.execute(of)}
    found = connection.execute(sa.select(RunsTable).where(RunsTable.c.run_id == model)).one()
    like = {name: value for name, value in found._mapping.items() if name != "id"}
    now = get_current_datetime()
    fresh = {"create_timestamp": now, "update_timestamp": now, "start_time": None, "end_time": None}
    runs = [
        {
            **like,
            **fresh,
            "run_id": run.run_id,
            "status": run.status.value,
            "partition": run.tags.get(PARTITION_NAME_TAG),
            "run_body": serialize_value(run),
        }
        for run in copies
    ]
    rows = [
        {"of": run.run_id, "name": key, "to": value} for run in copies for key, value in {**labels, **run.tags}.items()
    ]
    connection.execute(sa.insert(RunsTable), runs)
    connection.execute(_ADD_TAG, rows)


def _bodies(run_ids: Sequence[str]) -> sa.Select[tuple[str, str]]:
    return sa.select(RunsTable.c.run_id, RunsTable.c.run_body).where(RunsTable.c.run_id.in_(run_ids))


def _row(run_id: str, document: dict[str, Any], change: Change) -> _Row:
    document["tags"] |= change.tags
    if change.status is not None:
        document["status"] = json.loads(serialize_value(change.status))
    return {
        "of": run_id,
        "body": json.dumps(document),
        "now": change.status and change.status.value,
        "began": change.started,
        "over": change.ended,
        "when": get_current_datetime(),
    }


def _kept(column: sa.Column[Any], name: str) -> sa.ColumnElement[Any]:
    return sa.func.coalesce(sa.bindparam(name, type_=column.type), column)


_UPDATE_RUN = (
    sa.update(RunsTable)
    .where(RunsTable.c.run_id == sa.bindparam("of"))
    .values(
        run_body=sa.bindparam("body"),
        status=_kept(RunsTable.c.status, "now"),
        start_time=_kept(RunsTable.c.start_time, "began"),
        end_time=_kept(RunsTable.c.end_time, "over"),
        update_timestamp=sa.bindparam("when"),
    )
)
_UPDATE_TAG = (
    sa.update(RunTagsTable)
    .where(RunTagsTable.c.run_id == sa.bindparam("of"), RunTagsTable.c.key == sa.bindparam("name"))
    .values(value=sa.bindparam("to"))
)
_ADD_TAG = sa.insert(RunTagsTable).values(run_id=sa.bindparam("of"), key=sa.bindparam("name"), value=sa.bindparam("to"))


def _execute(connection: sa.Connection, statement: sa.Executable, rows: Sequence[_Row]) -> None:
    if rows:
        connection.execute(statement, rows)
