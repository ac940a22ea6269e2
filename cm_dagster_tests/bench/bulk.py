"""Attempts by the thousand, in seconds: copies of one that was made as usual, written by PostgreSQL itself."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from cm_dagster.testing.fakewms.session import connect
from cm_dagster.testing.fakewms.store import FakeWms
from cm_dagster.testing.postgres import Database
from cm_dagster_tests.integration.databases import connected

__all__ = ["FIRST_ID", "copy_attempts", "copy_workflows", "new_id"]

FIRST_ID = 900_000_000
"""Id at the WMS of the workflow of an attempt that is copied; those of the copies follow."""
_TABLES = ("runs", "run_tags", "event_logs", "asset_check_executions")
_OLDER = "2 hours"
"""How much older the copies are, so that nothing of them counts as changed just now."""
_ids = itertools.count(FIRST_ID + 1)


def new_id() -> int:
    """Give an id at the WMS that no workflow has."""
    return next(_ids)


def copy_attempts(database: Database, run_id: str, group: str, groups: Sequence[str]) -> list[tuple[str, str, int]]:
    """Copy an attempt with all its events.

    Parameters
    ----------
    database
        Database of Dagster's storage.
    run_id, group
        Run of the attempt, and its group; no other word in it is like the group's name. Its workflow, if it has one,
        has the id `FIRST_ID`.
    groups
        The groups of the copies.

    Returns
    -------
    copies
        Of each its group, its run, and the id of its workflow.
    """
    copies = [(name, str(uuid.uuid4()), new_id()) for name in groups]
    with connected(database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE copy(grp text, run text, wms text)")
        with cursor.copy("COPY copy FROM STDIN") as rows:
            for copy in copies:
                rows.write_row(tuple(map(str, copy)))
        for table in _TABLES:
            _copy(cursor, table, run_id, group)
        cursor.execute("ANALYZE")
    return copies


def _copy(cursor: psycopg.Cursor[tuple[Any, ...]], table: str, run_id: str, group: str) -> None:
    """Copy the rows of a run in a table."""
    query = (
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = %s AND column_name <> 'id'"
    )
    columns = [(str(name), str(kind)) for name, kind in cursor.execute(query, [table]).fetchall()]
    values = sql.SQL(", ").join(_value(name, kind, run_id, group) for name, kind in columns)
    names = sql.SQL(", ").join(sql.Identifier(name) for name, _ in columns)
    cursor.execute(
        sql.SQL(
            "INSERT INTO {0}({1}) SELECT {2} FROM {0} CROSS JOIN copy WHERE {0}.run_id = {3} ORDER BY grp, id"
        ).format(sql.Identifier(table), names, values, sql.Literal(run_id))
    )


def _value(name: str, kind: str, run_id: str, group: str) -> sql.Composable:
    column: sql.Composable = sql.Identifier(name)
    if kind.startswith("timestamp"):
        return sql.SQL("{} - {}::interval").format(column, sql.Literal(_OLDER))
    if kind in ("text", "character varying"):
        for before, after in ((run_id, "run"), (group, "grp"), (str(FIRST_ID), "wms")):
            column = sql.SQL("replace({}, {}, copy.{})").format(column, sql.Literal(before), sql.Identifier(after))
    return column


def copy_workflows(
    wms: FakeWms, workflows: Sequence[tuple[int, str]], state: str, jobs: str, ended: float | None = None
) -> None:
    """Put workflows into a fake WMS.

    Parameters
    ----------
    wms
        The fake WMS.
    workflows
        Ids and names.
    state
        Their state.
    jobs
        Their jobs, as it keeps them: a JSON object of the number of jobs by label.
    ended
        When they ended, in seconds since the epoch, if they have.
    """
    db = connect(wms.home)
    rows = [(wms_id, name, state, "", "", "", jobs, 0.0, 0.0, ended) for wms_id, name in workflows]
    columns = "id, name, state, submit_dir, run, user, jobs, submitted, visible_from, ended"
    db.executemany(f"INSERT INTO workflow({columns}) VALUES ({', '.join('?' * 10)})", rows)
    db.close()
