"""Ends everything that the local WMS of one home has started, and nothing else."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Callable

from cm_dagster.local.wms import launch, store
from cm_dagster.local.wms.process import alive, end_session, send

__all__ = ["shutdown"]

_PATIENCE = 15.0


def shutdown() -> int:
    """Cancel all runs of ``$CM_LOCAL_WMS_HOME``, end its servers, and wait until their processes are gone.

    Returns
    -------
    count
        Number of runs that had not ended.
    """
    with store.connect() as db:
        servers = db.execute("SELECT pid, born FROM server").fetchall()
        for row in servers:  # first: they fork runners
            send(row["pid"], row["born"], signal.SIGKILL)
        pending = db.execute("SELECT run_id FROM run WHERE state = 'PENDING'").fetchall()
        for row in pending:
            store.delete(db, row["run_id"], only_pending=True)
        db.execute("UPDATE run SET cancel = 1 WHERE state = 'RUNNING'")
        running = _running(db)
        for row in running:
            send(row["pid"], row["born"], signal.SIGTERM)
        if not _wait(lambda: not any(alive(row["pid"], row["born"]) for row in running)):
            _kill(db, running)
        launch.look_after(db)
    return len(pending) + len(running)


def _running(db: sqlite3.Connection) -> list[sqlite3.Row]:
    return db.execute("SELECT run_id, pid, born FROM run WHERE state = 'RUNNING'").fetchall()


def _kill(db: sqlite3.Connection, runs: list[sqlite3.Row]) -> None:
    for row in runs:
        jobs = db.execute("SELECT pid, born FROM job WHERE run_id = ? AND state = 'RUNNING'", (row["run_id"],))
        processes = jobs.fetchall()
        send(row["pid"], row["born"], signal.SIGKILL)
        for job in processes:
            end_session(job["pid"], job["born"])


def _wait(done: Callable[[], bool]) -> bool:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        if done():
            return True
        time.sleep(0.05)
    return done()
