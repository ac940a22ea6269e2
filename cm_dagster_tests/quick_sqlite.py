"""Doing once a process what Dagster does on SQLite whenever it opens an instance, a run's database, or a connection.

It reads the scripts of all changes of its schemas, makes an engine, compiles each statement anew, and looks which
tables there are: together more than half of all the time that a test of the ledger takes. PostgreSQL storages keep
their engine.
"""

from __future__ import annotations

import functools
from typing import Any

from alembic.config import Config
from alembic.script import ScriptDirectory
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
from sqlalchemy import Engine, NullPool, create_engine

__all__ = ["spare_sqlite"]

_read = ScriptDirectory.from_config
_known: dict[str | None, ScriptDirectory] = {}


def _from_config(config: Config) -> ScriptDirectory:
    if config.config_file_name not in _known:
        _known[config.config_file_name] = _read(config)
    return _known[config.config_file_name]


@functools.cache
def _model() -> Engine:
    """Make the engine that lends its dialect to all others: a compiled statement is known for a dialect."""
    engine = create_engine("sqlite://", poolclass=NullPool)
    engine.connect().close()
    return engine


@functools.lru_cache(maxsize=256)
def _engine(url: str, timeout: float) -> Engine:
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": timeout})
    model = _model()
    engine.dialect, engine._compiled_cache = model.dialect, model._compiled_cache
    return engine


def _make_engine(url: str, poolclass: type[NullPool], connect_args: dict[str, Any] | None = None) -> Engine:
    assert poolclass is NullPool  # which keeps no connection, so that a fork may use the engine too
    return _engine(url, (connect_args or {}).get("timeout", 5.0))


def _ask_once(storage: type, name: str) -> None:
    """Have a storage remember that a table or index is there."""
    ask = getattr(storage, name)

    def remembered(self: Any, *args: Any) -> bool:
        key = (name, *(arg for arg in args if isinstance(arg, str)))
        known = vars(self).setdefault("_known_to_be_there", set())
        if key not in known and ask(self, *args):
            known.add(key)
        return key in known

    setattr(storage, name, remembered)


def spare_sqlite() -> None:
    """Have this process, and those that it forks, do so."""
    ScriptDirectory.from_config = _from_config  # type: ignore[method-assign]
    for module in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
        vars(module)["create_engine"] = _make_engine
    for name in ("has_instigators_table", "_has_instigators_table", "has_built_index"):
        _ask_once(sqlite_schedule_storage.SqliteScheduleStorage, name)
