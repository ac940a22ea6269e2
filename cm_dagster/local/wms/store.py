"""The state of all runs: one SQLite file."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from cm_dagster.local.wms.definition import Workflow
from cm_dagster.local.wms.process import born

__all__ = [
    "ENDED",
    "HOME",
    "Gone",
    "claim",
    "connect",
    "delete",
    "end",
    "home",
    "home_name",
    "insert",
    "restart",
    "settle",
    "transaction",
]

HOME = "CM_LOCAL_WMS_HOME"
"""Environment variable: the folder of the state."""

ENDED = ("SUCCEEDED", "FAILED", "DELETED")
"""States in which a run stays until somebody restarts it."""

LOST = "runner process is gone; use bps restart"

_VERSION = 1
_SCHEMA = """
CREATE TABLE run(
  run_id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, submit_path TEXT NOT NULL, operator TEXT NOT NULL,
  attributes TEXT NOT NULL, summary TEXT NOT NULL, pool TEXT NOT NULL, python TEXT NOT NULL, state TEXT NOT NULL,
  message TEXT NOT NULL DEFAULT '', cancel INTEGER NOT NULL DEFAULT 0, pid INTEGER, born TEXT, asked REAL NOT NULL,
  created REAL NOT NULL, ended REAL, restarts INTEGER NOT NULL DEFAULT 0);
CREATE INDEX run_state ON run(state);
CREATE INDEX run_ended ON run(ended);
CREATE INDEX run_path ON run(submit_path);
CREATE TABLE job(
  run_id INTEGER NOT NULL, seq INTEGER NOT NULL, name TEXT NOT NULL, label TEXT NOT NULL, is_final INTEGER NOT NULL,
  state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, exit_code INTEGER, pid INTEGER, born TEXT, started REAL,
  ended REAL, cpu REAL NOT NULL DEFAULT 0, PRIMARY KEY(run_id, seq)) WITHOUT ROWID;
CREATE INDEX job_count ON job(run_id, label, state);
CREATE INDEX job_failed ON job(run_id, label, exit_code) WHERE state = 'FAILED';
CREATE TABLE server(pool TEXT PRIMARY KEY, pid INTEGER NOT NULL, born TEXT NOT NULL);
"""


def home_name() -> Path:
    """Tell where the state is, or would be."""
    return Path(os.environ.get(HOME) or "~/.cm_local_wms").expanduser()


def home() -> Path:
    """Tell where the state is, and make the place."""
    folder = home_name()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def connect() -> Iterator[sqlite3.Connection]:
    """Open the state; statements outside of a `transaction` are committed one by one."""
    folder = home()
    with contextlib.closing(sqlite3.connect(folder / "wms.sqlite", timeout=60, isolation_level=None)) as db:
        db.row_factory = sqlite3.Row
        if db.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
            _create(db, folder)
        db.execute("PRAGMA synchronous = NORMAL")
        yield db


def _create(db: sqlite3.Connection, folder: Path) -> None:
    """Make the tables, one process at a time: SQLite does not wait when it is switched to its log mode."""
    with (folder / "create.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if db.execute("PRAGMA user_version").fetchone()[0] == 0:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Do all or nothing, and nobody else meanwhile."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def insert(db: sqlite3.Connection, workflow: Workflow, submit_path: Path, pool: str) -> int:
    """Add a run that waits for its runner.

    Parameters
    ----------
    db
        The state.
    workflow
        What is to be run.
    submit_path
        Its submit directory.
    pool
        Name of the server that may fork its runner; empty: none.

    Returns
    -------
    run_id
        Number of the run.
    """
    now = time.time()
    row = {
        "name": workflow.name,
        "path": str(submit_path),
        "operator": workflow.attributes.get("bps_operator", ""),
        "attributes": json.dumps(workflow.attributes),
        "summary": workflow.summary,
        "pool": pool,
        "python": sys.executable,
        "now": now,
    }
    with transaction(db):
        run_id = db.execute(
            "INSERT INTO run(name, submit_path, operator, attributes, summary, pool, python, state, asked, created) "
            "VALUES (:name, :path, :operator, :attributes, :summary, :pool, :python, 'PENDING', :now, :now)",
            row,
        ).lastrowid
        assert run_id is not None
        db.executemany(
            "INSERT INTO job(run_id, seq, name, label, is_final, state) VALUES (?, ?, ?, ?, ?, 'UNREADY')",
            [(run_id, seq, job.name, job.label, job.is_final) for seq, job in enumerate(workflow.jobs)],
        )
    return run_id


def claim(db: sqlite3.Connection, run_id: int) -> sqlite3.Row | None:
    """Make the calling process the runner of a run.

    Parameters
    ----------
    db
        The state.
    run_id
        Number of the run.

    Returns
    -------
    run
        The run; None if it does not wait for a runner.
    """
    rows = db.execute(
        "UPDATE run SET state = 'RUNNING', pid = ?, born = ? WHERE run_id = ? AND state = 'PENDING' RETURNING *",
        (os.getpid(), born(os.getpid()), run_id),
    ).fetchall()
    return rows[0] if rows else None


def end(db: sqlite3.Connection, run_id: int, state: str, message: str = "") -> None:
    """Record how the calling process's run ended.

    Parameters
    ----------
    db
        The state.
    run_id
        Number of the run.
    state
        One of `ENDED`.
    message
        What more there is to say.
    """
    db.execute(
        "UPDATE run SET state = ?, message = ?, ended = ? WHERE run_id = ? AND pid = ? AND state = 'RUNNING'",
        (state, message, time.time(), run_id, os.getpid()),
    )


def delete(db: sqlite3.Connection, run_id: int, *, only_pending: bool = False) -> bool:
    """Record that a run was cancelled, with all of its jobs that have not ended.

    Parameters
    ----------
    db
        The state.
    run_id
        Number of the run, whose runner is not alive or is the caller.
    only_pending
        Do so only if no runner has begun.

    Returns
    -------
    deleted
        Whether it was done.
    """
    begun = "state = 'PENDING'" if only_pending else "1"
    with transaction(db):
        changed = db.execute(
            f"UPDATE run SET state = 'DELETED', message = '', ended = ? WHERE run_id = ? AND {begun}",
            (time.time(), run_id),
        ).rowcount
        if changed:
            db.execute(
                "UPDATE job SET state = 'DELETED' WHERE run_id = ? AND state NOT IN ('SUCCEEDED', 'FAILED', 'PRUNED')",
                (run_id,),
            )
    return bool(changed)


def restart(db: sqlite3.Connection, run_id: int) -> bool:
    """Let a run that ended wait for a new runner, with all jobs to be done again that did not succeed.

    Parameters
    ----------
    db
        The state.
    run_id
        Number of the run.

    Returns
    -------
    restarted
        Whether there is anything to do; the final job is done again with any other.
    """
    again = "state = 'UNREADY', exit_code = NULL WHERE run_id = ?"
    with transaction(db):
        changed = db.execute(f"UPDATE job SET {again} AND state != 'SUCCEEDED'", (run_id,)).rowcount
        if changed:
            db.execute(f"UPDATE job SET {again} AND is_final", (run_id,))
            db.execute(
                "UPDATE run SET state = 'PENDING', message = '', cancel = 0, pid = NULL, born = NULL, ended = NULL, "
                f"asked = ?, restarts = restarts + 1 WHERE run_id = ? AND state IN {ENDED}",
                (time.time(), run_id),
            )
    return bool(changed)


class Gone(NamedTuple):
    """A process that led a session of a run whose runner is gone."""

    pid: int
    born: str


def settle(db: sqlite3.Connection, patience: float) -> tuple[list[Gone], list[sqlite3.Row]]:
    """Bring the state up to date with what processes there are.

    Parameters
    ----------
    db
        The state.
    patience
        How long a run may wait for its runner, in seconds.

    Returns
    -------
    gone
        Jobs of runners that died, of which processes may be left.
    waiting
        Runs that have waited too long; each is returned to one caller only, who should begin it.
    """
    active = db.execute("SELECT run_id, state, pid, born FROM run WHERE state IN ('PENDING', 'RUNNING')").fetchall()
    lost = [row["born"] for row in active if row["state"] == "RUNNING" and born(row["pid"]) != row["born"]]
    gone = _lose(db, lost) if lost else []
    waiting: list[sqlite3.Row] = []
    if any(row["state"] == "PENDING" for row in active):
        now = time.time()
        waiting = db.execute(
            "UPDATE run SET asked = ? WHERE state = 'PENDING' AND asked <= ? RETURNING *", (now, now - patience)
        ).fetchall()
    return gone, waiting


def _lose(db: sqlite3.Connection, lost: Iterable[str]) -> list[Gone]:
    """Record that runners died."""
    with transaction(db):
        # A run that was restarted since has another runner, born at another time.
        rows = db.execute(
            "UPDATE run SET state = iif(cancel, 'DELETED', 'FAILED'), message = iif(cancel, '', ?), ended = ? "
            "WHERE state = 'RUNNING' AND born IN (SELECT value FROM json_each(?)) RETURNING run_id",
            (LOST, time.time(), json.dumps(list(lost))),
        ).fetchall()
        jobs = db.execute(
            "UPDATE job SET state = iif((SELECT cancel FROM run WHERE run.run_id = job.run_id), 'DELETED', 'FAILED') "
            "WHERE state = 'RUNNING' AND run_id IN (SELECT value FROM json_each(?)) RETURNING pid, born",
            (json.dumps([row["run_id"] for row in rows]),),
        ).fetchall()
    return [Gone(row["pid"], row["born"]) for row in jobs if row["pid"] is not None]
