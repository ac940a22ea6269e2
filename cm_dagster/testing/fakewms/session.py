"""The state of a fake WMS: one SQLite file, the log beside it, and transactions on both. Standard library only."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cm_dagster.testing.fakewms.faults import DISTORTING, Fault

__all__ = [
    "ENDED",
    "STATE",
    "STATES",
    "Request",
    "Session",
    "Workflow",
    "Workflows",
    "connect",
    "read",
    "session",
]

ENDED = ("SUCCEEDED", "FAILED", "DELETED")
"""States in which a workflow stays until somebody restarts it."""
STATES = ("UNKNOWN", "MISFIT", "UNREADY", "READY", "PENDING", "RUNNING", "HELD", "PRUNED", *ENDED)
"""BPS's states."""

STATE: Final = "state.sqlite"
"""Name of the file that holds the state."""

_SCHEMA = """
CREATE TABLE workflow(
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, state TEXT NOT NULL, submit_dir TEXT NOT NULL,
  run TEXT NOT NULL, user TEXT NOT NULL, jobs TEXT NOT NULL, submitted REAL NOT NULL, visible_from REAL NOT NULL,
  ended REAL, forgotten INTEGER NOT NULL DEFAULT 0);
CREATE TABLE fault(id INTEGER PRIMARY KEY AUTOINCREMENT, fault TEXT NOT NULL, times INTEGER NOT NULL);
CREATE TABLE log(number INTEGER NOT NULL, size INTEGER NOT NULL);
INSERT INTO log VALUES (0, 0);
"""
_COLUMNS = "id, name, state, submit_dir, run, user, jobs, submitted, visible_from, ended, forgotten"


@dataclass(frozen=True)
class Workflow:
    """A workflow at the fake WMS."""

    wms_id: str
    name: str
    state: str
    """One of `STATES`; under a fault any word."""
    submit_dir: str
    run: str
    """RUN collection that it would write."""
    user: str
    """Who submitted it; empty: it is listed for everybody."""
    jobs: Mapping[str, int]
    """Number of jobs by label."""
    submitted: float
    """Seconds since the epoch, real time."""
    visible_from: float
    """The same by the callers' clock: before, nobody is told of it."""
    ended: float | None = None
    """When it ended, real time."""
    forgotten: bool = False
    """Whether nobody is told of it any more."""


@dataclass(frozen=True)
class Request:
    """A line of the log: a request, or a change of state that was `FakeWms.set`."""

    number: int
    """From 1, without gaps."""
    time: float
    """Seconds since the epoch, real time."""
    pid: int
    kind: str
    """One of `REQUESTS`, or ``became``."""
    name: str
    """Name of the workflow; empty where it is about none or an unknown one."""
    wms_id: str
    """Empty of a submission that made no workflow."""
    outcome: str
    """Of ``became``: the state."""


type Workflows = list[Workflow]


def _real_time() -> float:
    """Seconds since the epoch, also in a process whose `time.time` was replaced."""
    return time.clock_gettime(time.CLOCK_REALTIME)


def _shown_time() -> float:
    """Seconds since the epoch by the callers' clock."""
    return _real_time() + float(os.environ.get("CM_FAKE_CLOCK_AHEAD") or 0.0)


def connect(home: Path) -> sqlite3.Connection:
    """Open the state of a folder; one process at a time makes it."""
    path = home / STATE
    if not path.exists():
        with (home / "create.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _create(path)
    db = sqlite3.connect(path, timeout=60.0, isolation_level=None)
    db.execute("PRAGMA synchronous = OFF")  # what a process has written outlives it; only the machine may not die
    return db


def _create(path: Path) -> None:
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    with closing(sqlite3.connect(draft)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(_SCHEMA)
    draft.rename(path)


def read(db: sqlite3.Connection, wms_id: str | None = None) -> Workflows:
    """Read all workflows, the oldest first, or the one of an id."""
    where, values = ("", ()) if wms_id is None else ("WHERE id = ?", (wms_id,))
    rows = db.execute(f"SELECT {_COLUMNS} FROM workflow {where} ORDER BY id", values)
    return [
        Workflow(str(id_), name, state, folder, run, user, _jobs(jobs), submitted, visible, ended, bool(forgotten))
        for id_, name, state, folder, run, user, jobs, submitted, visible, ended, forgotten in rows
    ]


@functools.lru_cache(maxsize=64)  # most workflows have the same jobs
def _jobs(text: str) -> Mapping[str, int]:
    return MappingProxyType(json.loads(text))


@contextmanager
def session(home: Path, log: Path) -> Iterator[Session]:
    """Do all or nothing, and nobody else meanwhile."""
    with closing(connect(home)) as db, FileIO(log, "ab") as file:
        db.execute("BEGIN IMMEDIATE")
        try:
            yield Session(db, file)
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")


class Session:
    """A transaction on the state, with the log.

    Parameters
    ----------
    db
        The state.
    log
        The log, open for appending.
    """

    def __init__(self, db: sqlite3.Connection, log: FileIO) -> None:
        self.db = db
        self._log = log
        self._number, self._size = db.execute("SELECT number, size FROM log").fetchone()
        if os.fstat(log.fileno()).st_size > self._size:
            log.truncate(self._size)  # somebody died between a line and its effect
        rows = db.execute("SELECT id, times, fault FROM fault WHERE times > 0 ORDER BY id")
        self._faults = [(number, times, Fault(**json.loads(text))) for number, times, text in rows]

    def write(self, kind: str, name: str, wms_id: str, outcome: str) -> None:
        """Add a line to the log."""
        self._number += 1
        request = Request(self._number, _real_time(), os.getpid(), kind, name, wms_id, outcome)
        self._size += self._log.write(f"{json.dumps(vars(request))}\n".encode())
        self.db.execute("UPDATE log SET number = ?, size = ?", (self._number, self._size))

    def take(self, request: str, name: str, *keys: str) -> dict[str, Fault]:
        """Use up what befalls a request, one fault of each key."""
        used: dict[str, Fault] = {}
        for number, _, fault in self._faults:
            if fault.key in keys and fault.key not in used and fault.befalls(request, name):
                used[fault.key] = fault
                self._use(number)
        return used

    def _use(self, number: int, times: int = 1) -> None:
        self.db.execute("UPDATE fault SET times = times - ? WHERE id = ?", (times, number))

    def insert(self, name: str, submit_dir: str, run: str, user: str, jobs: str, *, late: float) -> str:
        """Add a workflow that is seen so many seconds late; gives its id."""
        # Without the fault it is seen at once, wherever the clock that callers see is set to later.
        row = (name, submit_dir, run, user, jobs, _real_time(), _shown_time() + late if late else 0.0)
        columns = "name, submit_dir, run, user, jobs, submitted, visible_from, state"
        done = self.db.execute(f"INSERT INTO workflow({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, 'PENDING')", row)
        return str(done.lastrowid)

    def change(self, workflow: Workflow, state: str) -> None:
        """Have a workflow come to a state."""
        ended = _real_time() if state in ENDED else None
        self.db.execute("UPDATE workflow SET state = ?, ended = ? WHERE id = ?", (state, ended, workflow.wms_id))

    def seen(self, request: str, wms_id: str | None = None) -> Workflows:
        """Read what callers are shown: not what is too young or forgotten, and misnamed as the faults say."""
        now = _shown_time()
        found = [each for each in read(self.db, wms_id) if each.visible_from <= now and not each.forgotten]
        used: set[str] = set()
        for number, times, fault in self._faults:
            met = [each for each in found if fault.key not in used and _is_met(each, fault, request)]
            if met:
                used.add(fault.key)
                found = self._distort(found, met[:times] if fault.kind == "forget" else met, fault)
                self._use(number, min(times, len(met)) if fault.kind == "forget" else 1)
        return found

    def _distort(self, found: Workflows, met: Workflows, fault: Fault) -> Workflows:
        ids = {each.wms_id for each in met}
        if fault.kind == "word":
            return [replace(each, state=fault.word) if each.wms_id in ids else each for each in found]
        if fault.kind == "forget":
            self.db.executemany("UPDATE workflow SET forgotten = 1 WHERE id = ?", [(each,) for each in ids])
        return [each for each in found if each.wms_id not in ids]


def _is_met(workflow: Workflow, fault: Fault, request: str) -> bool:
    """Whether a fault changes what a question shows of a workflow."""
    chosen = zlib.crc32(workflow.wms_id.encode()) / 2**32 < fault.fraction
    return fault.kind in DISTORTING and fault.befalls(request, workflow.name) and chosen
