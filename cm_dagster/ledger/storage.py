"""Dagster's PostgreSQL storage with one connection pool a process, and one transaction for each write to a run.

It is named in dagster.yaml (``storage: {custom: ...}``), so that every process uses it. Tables and their contents are
those of Dagster's own storage: either can be used on the database of the other, also at the same time.

Dagster's own storage opens a connection for each call, which costs PostgreSQL ten times as much as the call, asks again
each time which columns there are, and commits a run, its tags and its status one by one: a crash leaves a run without
tags, and of two processes that write tags onto one run one may lose its own.

Uses of ``dagster._core`` and of what `dagster_postgres` does not document: a storage class is Dagster's extension
point, but there is none for connections. Its SQL storages get theirs from ``_engine``, ``connect`` and ``_connect``;
`_Pooled` replaces these and nothing else. `DagsterStorage`, `ConfigurableClass` and its data are not re-exported.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from functools import wraps
from typing import Any, Self

import dagster as dg
import sqlalchemy as sa
from dagster._config.config_schema import UserConfigSchema
from dagster._core.events import (
    ASSET_CHECK_EVENTS,
    ASSET_EVENTS,
    EVENT_TYPE_TO_PIPELINE_RUN_STATUS,
    DagsterEvent,
)
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.config import pg_config
from dagster._core.storage.event_log.schema import AssetKeyTable, SqlEventLogStorageTable
from dagster._core.storage.runs.schema import RunsTable
from dagster._serdes import ConfigurableClass, ConfigurableClassData
from dagster_postgres import PostgresEventLogStorage, PostgresRunStorage, PostgresScheduleStorage
from dagster_postgres.auth import PgTokenProvider
from dagster_postgres.utils import (
    create_pg_connection,
    create_pg_engine,
    get_token_provider_from_config,
    pg_url_from_config,
    set_pg_statement_timeout,
)

from cm_dagster.ledger.bulk import Change, change_runs, copy_run
from cm_dagster.ledger.rows import read_run

__all__ = ["PooledPostgresStorage"]

_KEPT = 5
"""Connections that a process keeps open, once it has needed as many at a time."""
_MORE = 10
"""Connections that it may open besides, for as long as they are needed."""
_TRUSTED = 0.1
"""Seconds for which a connection that was used is taken to be alive, less than a server takes to be started again."""
_CONNECT: dict[str, Any] = {
    "application_name": "cm_dagster",  # in pg_stat_activity
    "connect_timeout": 10,
    # A host that vanishes without a word is noticed in a minute instead of in two hours.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
_OPTIONS = " ".join(
    f"-c {setting}"
    for setting in (
        # The same on the server's side.
        *(f"tcp_{name}={value}" for name, value in _CONNECT.items() if name.startswith("keepalives_")),
        # A host that is suspended in a transaction keeps its rows from others for a minute, and nobody waits for long.
        "idle_in_transaction_session_timeout=60s",
        "lock_timeout=90s",
        # Times are written with their zone into columns without one, and are read as UTC.
        "timezone=UTC",
    )
)
"""Settings of a connection at the server."""


class _Pool:
    """What all instances of a process share that use one database."""

    def __init__(self, url: str, token_provider: PgTokenProvider | None) -> None:
        own = sa.make_url(url)
        options = " ".join([_OPTIONS, *own.normalized_query.get("options", ())])  # of two settings the later one holds
        arguments = {**_CONNECT, **own.query, "options": options}
        self.engine = create_pg_engine(
            url,
            token_provider,
            isolation_level="AUTOCOMMIT",
            pool_size=_KEPT,
            max_overflow=_MORE,
            pool_use_lifo=True,
            connect_args=arguments,
            executemany_mode="values_plus_batch",  # many changes at a time go in one message too, not only new rows
        )
        sa.event.listen(self.engine, "checkin", _note_use)
        sa.event.listen(self.engine, "checkout", self._check)
        self.held = threading.local()
        """Its ``connection`` is the one that is in a transaction in this thread."""
        self.facts: set[tuple[Any, ...]] = set()
        """What was found out about the database and stays true, since its schema only grows."""
        self._limit = 0

    def _check(self, connection: Any, record: sa.pool.ConnectionPoolEntry, _: object) -> None:
        """Replace a connection before its use that did not survive a restart of the server.

        SQLAlchemy's own ``pool_pre_ping`` tries each connection at each use: half of all that we ask of the server.
        """
        if time.monotonic() - record.info.get("used", math.inf) > _TRUSTED:
            dialect = self.engine.dialect
            try:
                alive = dialect.do_ping(connection)
            except dialect.loaded_dbapi.Error as error:
                if not dialect.is_disconnect(error, connection, None):
                    raise
                alive = False
            if not alive:
                raise sa.exc.DisconnectionError

    def limit(self, millis: int) -> None:
        """End statements of this process that take longer; the web UI asks for that."""
        if not self._limit:
            sa.event.listen(
                self.engine, "connect", lambda connection, _: set_pg_statement_timeout(connection, self._limit)
            )
        if self._limit != millis:
            self._limit = millis
            self.engine.dispose()  # open connections have no limit


def _note_use(_: object, record: sa.pool.ConnectionPoolEntry) -> None:
    record.info["used"] = time.monotonic()


_pools: dict[str, _Pool] = {}
_lock = threading.Lock()


def _pool_of(url: str, token_provider: PgTokenProvider | None) -> _Pool:
    with _lock:
        if url not in _pools:
            _pools[url] = _Pool(url, token_provider)
        return _pools[url]


def _forget_pools() -> None:
    """Have a forked child make its own connections (psycopg2 does not close those of its parent)."""
    global _lock
    _lock = threading.Lock()  # a thread that does not exist in the child may hold it
    _pools.clear()


os.register_at_fork(after_in_child=_forget_pools)


class _Pooled:
    """Part of a storage that gets its connections from the process's pool."""

    postgres_url: str
    _token_provider: PgTokenProvider | None

    @property
    def _pool(self) -> _Pool:
        return _pool_of(self.postgres_url, self._token_provider)

    @property
    def _engine(self) -> sa.Engine:
        return self._pool.engine

    @_engine.setter
    def _engine(self, engine: sa.Engine) -> None:
        """Leave the engine alone that a storage makes of its own; it has no connection yet."""

    def _connect(self) -> AbstractContextManager[sa.Connection]:
        """Give a connection: that of this thread's transaction, if there is one."""
        held: sa.Connection | None = getattr(self._pool.held, "connection", None)
        return nullcontext(held) if held is not None else create_pg_connection(self._engine)

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """Make one transaction of what this thread writes within, whatever part of the storage; or be part of one."""
        held = self._pool.held
        if getattr(held, "connection", None) is not None:
            yield held
            return
        with create_pg_connection(self._engine) as connection:
            connection.execution_options(isolation_level="READ COMMITTED")  # until it goes back to the pool
            with connection.begin():
                held.connection, held.locked = connection, set()
                try:
                    yield held
                finally:
                    held.connection = None

    def optimize_for_webserver(self, statement_timeout: int, *_: int, **__: int) -> None:
        """Limit the time of statements; the pool is there already."""
        self._pool.limit(statement_timeout)


def _remember(*names: str) -> Callable[[type], type]:
    """Have a storage ask the database until the answer is yes, and not again; Dagster's own asks at each call."""

    def decorate(cls: type) -> type:
        for name in names:
            setattr(cls, name, _remembered(getattr(cls, name), name))
        return cls

    return decorate


def _remembered(ask: Callable[..., bool], name: str) -> Callable[..., bool]:
    @wraps(ask)
    def remembered(self: Any, *args: str) -> bool:
        facts, fact = self._pool.facts, (type(self), name, *args)
        if fact not in facts and ask(self, *args):
            facts.add(fact)
        return fact in facts

    return remembered


@_remember(
    "has_backfill_id_column",
    "has_backfill_tags_table",
    "has_built_index",
    "has_bulk_action_job_name_column",
    "has_bulk_actions_selector_cols",
    "has_run_stats_index_cols",
)
class PooledRunStorage(_Pooled, PostgresRunStorage):
    """Runs, each write to one of them as a whole."""

    def connect(self) -> AbstractContextManager[sa.Connection]:
        """Give a connection."""
        return self._connect()

    @contextmanager
    def one_transaction(self, *run_ids: str) -> Iterator[None]:
        """Make one transaction of what this thread writes within, to the event log too; part of a larger one, if any.

        Parameters
        ----------
        run_ids
            Runs whose rows are locked first, so that their writers queue for them.
        """
        with self._transaction() as held:
            new = set(run_ids) - held.locked
            if new:
                held.locked |= new
                # In order, since two that lock the same runs in another order would wait for each other.
                rows = sa.select(RunsTable.c.id).where(RunsTable.c.run_id.in_(new)).order_by(RunsTable.c.id)
                held.connection.execute(rows.with_for_update())
            yield

    def add_run(self, dagster_run: dg.DagsterRun) -> dg.DagsterRun:
        """Write a run with its tags."""
        with self.one_transaction():
            return super().add_run(dagster_run)

    def add_run_tags(self, run_id: str, new_tags: Mapping[str, str]) -> None:
        """Write tags onto a run."""
        with self.one_transaction(run_id):
            super().add_run_tags(run_id, new_tags)

    def handle_run_event(self, run_id: str, event: DagsterEvent, update_timestamp: datetime | None = None) -> None:
        """Write what an event makes of a run; most change nothing."""
        if event.event_type in EVENT_TYPE_TO_PIPELINE_RUN_STATUS:
            with self.one_transaction(run_id):
                super().handle_run_event(run_id, event, update_timestamp)

    def change_many(self, changes: Mapping[str, Change]) -> None:
        """Write what becomes of runs, by their ids, within `one_transaction` of them."""
        with self._connect() as connection:
            change_runs(connection, changes)

    def copy_run(self, model: str, copies: Sequence[dg.DagsterRun]) -> None:
        """Write new runs that differ from another one in ids, partitions and tags, within `one_transaction`."""
        with self._connect() as connection:
            copy_run(connection, model, copies)

    def _row_to_run(self, row: Any) -> dg.DagsterRun:
        # The queue and our sensors read the same open runs over and over. Nothing changes a run in place.
        return read_run(row["run_body"], row["status"])


@_remember("has_asset_key_col", "has_secondary_index", "has_table")
class PooledEventLogStorage(_Pooled, PostgresEventLogStorage):
    """The event log."""

    def store_event(self, event: dg.EventLogEntry) -> None:
        """Write an event."""
        with self._in_turn([event]):
            super().store_event(event)

    def store_event_batch(self, events: Sequence[dg.EventLogEntry]) -> None:
        """Write events of one kind."""
        with self._in_turn(events):
            super().store_event_batch(events)

    def store_many(self, entries: Sequence[dg.EventLogEntry]) -> list[int]:
        """Write events of any kind in one statement, and what follows from them for assets and checks.

        Parameters
        ----------
        entries
            The events, in order.

        Returns
        -------
        ids : `list` [`int`]
            Their ids in the log.
        """
        if not entries:
            return []
        insert = sa.insert(SqlEventLogStorageTable).returning(
            SqlEventLogStorageTable.c.id, sort_by_parameter_order=True
        )
        with self._in_turn(entries), self.index_transaction() as connection:
            ids = list(connection.execute(insert, [self._event_to_row(each) for each in entries]).scalars())
            written = list(zip(entries, ids, strict=True))
            for each, id_ in written:
                if each.dagster_event_type in ASSET_CHECK_EVENTS:
                    self.store_asset_check_event(each, id_)
            of_assets = [one for one in written if one[0].dagster_event_type in ASSET_EVENTS]
            self._store_asset_event_tags(connection, [each for each, _ in of_assets], [id_ for _, id_ in of_assets])
            latest = {str(each.get_dagster_event().asset_key): (each, id_) for each, id_ in of_assets}
            for key in sorted(latest):  # in order, as runs are locked
                self._store_asset_event(connection, *latest[key])
        return ids

    @contextmanager
    def _in_turn(self, entries: Sequence[dg.EventLogEntry]) -> Iterator[None]:
        """Let writers of events of an asset take turns, so that no event is seen after one with a higher id.

        Dagster's cache of partitions, and sensors with a cursor, only ever ask for what has come after the last id.
        """
        keys = {
            event.asset_key.to_string()
            for each in entries
            if (event := each.dagster_event) and event.event_type in ASSET_EVENTS and event.asset_key
        }
        if not keys:
            yield
            return
        with self._transaction() as held:
            rows = sa.select(AssetKeyTable.c.id).where(AssetKeyTable.c.asset_key.in_(keys))
            held.connection.execute(rows.order_by(AssetKeyTable.c.asset_key).with_for_update())
            yield


@_remember("has_built_index", "has_instigators_table", "has_secondary_index_table")
class PooledScheduleStorage(_Pooled, PostgresScheduleStorage):
    """Sensors and their ticks."""


class PooledPostgresStorage(DagsterStorage, ConfigurableClass):
    """Dagster's PostgreSQL storage with one connection pool a process and one transaction for each write to a run.

    Parameters
    ----------
    url
        SQLAlchemy's URL of the database.
    should_autocreate_tables
        Whether the tables are made in an empty database.
    token_provider
        Where passwords come from that are made anew for each connection.
    inst_data
        What Dagster makes it from again, in another process.
    """

    def __init__(
        self,
        url: str,
        should_autocreate_tables: bool = True,
        *,
        token_provider: PgTokenProvider | None = None,
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        self._inst_data = inst_data
        facts = _pool_of(url, token_provider).facts
        create = should_autocreate_tables and ("tables",) not in facts
        self._runs = PooledRunStorage(url, create, token_provider=token_provider)
        self._events = PooledEventLogStorage(url, create, token_provider=token_provider)
        self._schedules = PooledScheduleStorage(url, create, token_provider=token_provider)
        if create:
            facts.add(("tables",))
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """What Dagster makes it from again, in another process."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Its configuration: that of Dagster's own PostgreSQL storage."""
        return pg_config()

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """Make it from the ``config`` in dagster.yaml."""
        return cls(
            pg_url_from_config(config_value),
            config_value.get("should_autocreate_tables", True),
            token_provider=get_token_provider_from_config(config_value),
            inst_data=inst_data,
        )

    @property
    def run_storage(self) -> PostgresRunStorage:
        """Runs."""
        return self._runs

    @property
    def event_log_storage(self) -> PostgresEventLogStorage:
        """The event log."""
        return self._events

    @property
    def schedule_storage(self) -> PostgresScheduleStorage:
        """Sensors and their ticks."""
        return self._schedules
