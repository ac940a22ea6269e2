"""How runs get their runners: forked by a server that is warm, or started for them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from cm_dagster.local.wms import store
from cm_dagster.local.wms.definition import ENVIRONMENT_FILE, Options, Workflow
from cm_dagster.local.wms.process import clean_environment, end_session

__all__ = ["begin", "keep_environment", "look_after", "poke", "pool_name", "read_environment"]

_PATIENCE = 10.0
"""How long a run may wait for a runner before it is started without the server, in seconds."""


def pool_name(options: Options, environment: Mapping[str, str] = os.environ) -> str:
    """Name the server that may fork a workflow's runner.

    Parameters
    ----------
    options
        The workflow's options.
    environment
        The submitter's environment.

    Returns
    -------
    pool
        The same for all workflows that import the same things from the same places; empty if there is none.
    """
    if not options.warm:
        return ""
    text = json.dumps([sys.executable, environment.get("PYTHONPATH", ""), sorted(options.preload)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def keep_environment(folder: Path) -> None:
    """Write the submitter's environment into the submit directory, for its owner only.

    Parameters
    ----------
    folder
        The submit directory.
    """
    path = folder / ENVIRONMENT_FILE
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(clean_environment(os.environ), file)


def read_environment(folder: Path) -> dict[str, str]:
    """Read the environment in which a run's processes live.

    Parameters
    ----------
    folder
        The submit directory.
    """
    environment: dict[str, str] = json.loads((folder / ENVIRONMENT_FILE).read_text())
    return environment | {store.HOME: str(store.home())}


def begin(run: sqlite3.Row) -> None:
    """Get a runner for a run that was committed as waiting; the run's server is started if it is not there.

    Parameters
    ----------
    run
        The run.
    """
    if run["pool"] and not poke(run["pool"], run["run_id"]):
        preload = Workflow.read(Path(run["submit_path"])).options.preload
        _start(run, "cm_dagster.local.wms.server", run["pool"], *preload)
    elif not run["pool"]:
        _start(run, "cm_dagster.local.wms.runner", str(run["run_id"]))


def look_after(db: sqlite3.Connection) -> None:
    """Bring the state up to date, end what dead runners left behind, and begin runs that wait too long.

    Parameters
    ----------
    db
        The state.
    """
    gone, waiting = store.settle(db, _PATIENCE)
    for job in gone:
        end_session(job.pid, job.born)
    for run in waiting:
        try:
            _start(run, "cm_dagster.local.wms.runner", str(run["run_id"]))
        except OSError as error:
            db.execute("UPDATE run SET message = ? WHERE run_id = ?", (f"cannot be started: {error}", run["run_id"]))


def poke(pool: str, run_id: int) -> bool:
    """Ask a server to fork the runner of a run.

    Parameters
    ----------
    pool
        Name of the server.
    run_id
        Number of the run.

    Returns
    -------
    asked
        Whether the server is there: the kernel knows, as only it has its pipe open for reading.
    """
    try:
        pipe = os.open(store.home() / f"server-{pool}.fifo", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):
            return False
        raise
    try:
        os.write(pipe, f"{run_id}\n".encode())
    except BlockingIOError:  # it does not keep up: the run will be found waiting
        return True
    except BrokenPipeError:
        return False
    finally:
        os.close(pipe)
    return True


def _start(run: sqlite3.Row, module: str, *arguments: str) -> None:
    """Start a process of ours that detaches itself, with the interpreter and the environment of the run."""
    folder = Path(run["submit_path"])
    subprocess.run(
        [run["python"], "-m", module, *arguments],
        cwd=folder,
        env=read_environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        close_fds=True,
        check=False,
    )
