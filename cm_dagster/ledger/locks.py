"""Locks on what several hosts change: each holder reads, changes and writes while all others wait.

The lock lives where the data do: in the PostgreSQL server of Dagster's storage, which drops it with the connection of
its holder, or beside the SQLite files, where the kernel drops it with the process. A holder that neither dies nor goes
on (a host that is suspended) makes the others give up for now, not wait for ever.

Uses of ``dagster._core``: none by import. ``connect`` of Dagster's SQL run storages is not documented; it gives a
connection of theirs.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import dagster as dg
import sqlalchemy as sa

from cm_dagster.errors import LedgerError

__all__ = ["one_writer"]

_LOCK = sa.text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
_UNLOCK = sa.text("SELECT pg_advisory_unlock(hashtextextended(:name, 0))")
_PATIENCE = 60.0
"""Seconds for which another holder is waited for: a change takes a second."""
_POLL = 0.1
"""Seconds between two looks."""


@contextmanager
def one_writer(instance: dg.DagsterInstance, name: str) -> Iterator[None]:
    """Wait until no other process, on whatever host, holds the lock of this name, and hold it.

    Parameters
    ----------
    instance
        The Dagster instance whose storage holds what is changed.
    name
        Name of the lock, e.g. ``plan/rc2/step1``.

    Raises
    ------
    LedgerError
        If another process holds it for longer than any change takes. It passes.
    """
    storage: Any = instance.run_storage
    if getattr(storage, "postgres_url", None):
        key = {"name": f"cm_dagster/{name}"}
        with storage.connect() as connection:
            _wait(lambda: bool(connection.execute(_LOCK, key).scalar()), name)
            try:
                yield
            finally:
                connection.execute(_UNLOCK, key)
    else:
        folder = Path(instance.root_directory) / "cm_locks"
        folder.mkdir(exist_ok=True)
        with (folder / name.replace("/", ".")).open("a") as lock:
            _wait(lambda: _locked(lock), name)
            yield


def _wait(take: Callable[[], bool], name: str) -> None:
    end = time.monotonic() + _PATIENCE
    while not take():
        if time.monotonic() > end:
            cause = f"another process has been changing {name} for {_PATIENCE:.0f} s"
            raise LedgerError(cause, advice="it is tried again by itself; is a host suspended?", transient=True)
        time.sleep(_POLL)


def _locked(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
