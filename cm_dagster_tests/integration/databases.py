"""Databases of a private PostgreSQL server for Dagster instances, and the ``storage`` blocks that use them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import sqlalchemy as sa
from dagster._core.storage.runs.schema import RunTagsTable

from cm_dagster.ledger import storage
from cm_dagster.local.deployment import Deployment
from cm_dagster.testing.postgres import Database, PostgresServer
from cm_dagster_tests.integration.ledger_rig import make_blank, use_storage

_numbers = itertools.count()


def connected(database: Database) -> psycopg.Connection[tuple[Any, ...]]:
    """Connect to a database of a private server."""
    return psycopg.connect(
        host=database.host,
        port=database.port,
        user=database.user,
        password=database.password,
        dbname=database.name,
        autocommit=True,
    )


def stock(database: Database) -> dict[str, Any]:
    """The block that takes Dagster's own storage."""
    return {"postgres": {"postgres_db": database.postgres_db}}


def pooled(database: Database, **params: str) -> dict[str, Any]:
    """The block that takes ours; with further parameters of its connections."""
    config = {"postgres_db": {**database.postgres_db, "params": params}}
    return {"custom": {"module": storage.__name__, "class": storage.PooledPostgresStorage.__name__, "config": config}}


def close_pool(database: Database) -> None:
    """Close the connections that this process has to a database."""
    pool = storage._pools.pop(database.url, None)
    if pool is not None:
        pool.engine.dispose()


@contextmanager
def empty(server: PostgresServer) -> Iterator[Database]:
    """Make a database without tables, for a while."""
    with _for_a_while(server, "template1") as database:
        yield database


class BlankDatabase:
    """A database with Dagster's tables and nothing in them: to make these takes a second, to copy them 30 ms."""

    def __init__(self, server: PostgresServer, name: str) -> None:
        self._server = server
        self._name = name

    @classmethod
    def make(cls, server: PostgresServer, folder: Path) -> BlankDatabase:
        """Make one; the folder is for the instance that does it."""
        database = server.create("blank")
        make_blank(folder, stock(database))
        return cls(server, database.name)

    @contextmanager
    def copied(self) -> Iterator[Database]:
        """Make a copy, for a while."""
        with _for_a_while(self._server, self._name) as database:
            yield database


@contextmanager
def _for_a_while(server: PostgresServer, template: str) -> Iterator[Database]:
    database = server.create(f"test{next(_numbers)}", template=template)
    try:
        yield database
    finally:
        close_pool(database)
        if server.is_running:
            server.drop(database.name)


def home(folder: Path, block: dict[str, Any]) -> Path:
    """Write a ``DAGSTER_HOME`` whose instance uses a storage."""
    deployment = Deployment(folder)
    deployment.write({"sites": {}})
    use_storage(deployment, block)
    return deployment.home


@contextmanager
def opened(folder: Path, block: dict[str, Any]) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home(folder, block))) as made:
        yield made


def add_run(instance: dg.DagsterInstance, run_id: str = "run", **run_tags: str) -> dg.DagsterRun:
    return instance.add_run(dg.DagsterRun("job", run_id=run_id, tags=run_tags))


def tags_of(instance: dg.DagsterInstance, run_id: str = "run") -> dict[str, str]:
    """Tags of a run, which must be the same in the run itself and in the table for queries."""
    run = instance.get_run_by_id(run_id)
    assert run is not None
    query = sa.select(RunTagsTable.c.key, RunTagsTable.c.value).where(RunTagsTable.c.run_id == run_id)
    rows = instance.run_storage.fetchall(query)  # type: ignore[attr-defined]
    assert {row["key"]: row["value"] for row in rows} == dict(run.tags)
    return dict(run.tags)
