"""Locks on what several hosts change: each holder reads, changes and writes while all others wait.

The lock lives where the data do: in the PostgreSQL server of Dagster's storage, which drops it with the connection of
its holder, or beside the SQLite files, where the kernel drops it with the process.

Uses of ``dagster._core``: none by import. ``connect`` of Dagster's SQL run storages is not documented; it gives a
connection of theirs.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa

__all__ = ["one_writer"]

_LOCK = sa.text("SELECT pg_advisory_lock(hashtextextended(:name, 0))")
_UNLOCK = sa.text("SELECT pg_advisory_unlock(hashtextextended(:name, 0))")


@contextmanager
def one_writer(instance: dg.DagsterInstance, name: str) -> Iterator[None]:
    """Wait until no other process, on whatever host, holds the lock of this name, and hold it.

    Parameters
    ----------
    instance
        The Dagster instance whose storage holds what is changed.
    name
        Name of the lock, e.g. ``plan/rc2/step1``.
    """
    storage: Any = instance.run_storage
    if getattr(storage, "postgres_url", None):
        with storage.connect() as connection:
            connection.execute(_LOCK, {"name": f"cm_dagster/{name}"})
            try:
                yield
            finally:
                connection.execute(_UNLOCK, {"name": f"cm_dagster/{name}"})
    else:
        folder = Path(instance.root_directory) / "cm_locks"
        folder.mkdir(exist_ok=True)
        with (folder / name.replace("/", ".")).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
