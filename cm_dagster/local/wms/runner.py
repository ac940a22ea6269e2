"""The runner of one run: starts jobs as their parents succeed and cores are free, and records what becomes of them."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sqlite3
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from cm_dagster.local.wms import store
from cm_dagster.local.wms.command import execute, preload
from cm_dagster.local.wms.definition import Job, Workflow
from cm_dagster.local.wms.launch import read_environment
from cm_dagster.local.wms.process import (
    Slots,
    born,
    detach,
    die_with_parent,
    end_session,
    hold,
    log_to_stderr,
    redirect,
)

__all__ = ["Runner", "run_forked"]

_LOG = logging.getLogger(__name__)

_POLL = 0.1
"""How often cores are asked for that others have, in seconds."""

_GRACE = 5.0
"""How long a job may take to end when it is told to, in seconds."""

_NEVER = 3600.0

MEMORY = "CM_LOCAL_WMS_MEMORY"
"""Environment variable that tells a job how much memory it was given, in MB."""


@dataclass
class Process:
    """A try of a job."""

    seq: int
    pid: int
    slots: list[int]


class Runner:
    """Runs what is left to do of a run.

    Parameters
    ----------
    db
        The state of all runs.
    run
        The run, which this process has claimed.
    """

    def __init__(self, db: sqlite3.Connection, run: sqlite3.Row) -> None:
        self._db = db
        self._run_id: int = run["run_id"]
        folder = Path(run["submit_path"])
        workflow = Workflow.read(folder)
        self._jobs = workflow.jobs
        self._options = workflow.options
        self._environment = read_environment(folder)
        self._slots = Slots(store.home() / "slots.lock", workflow.options.cores)
        rows = db.execute("SELECT seq, state, attempts FROM job WHERE run_id = ? ORDER BY seq", (self._run_id,))
        self._states, self._attempts = [], []
        for row in rows:
            self._states.append(str(row["state"]))
            self._attempts.append(int(row["attempts"]))
        self._tries = [0] * len(self._jobs)
        self._processes: dict[int, Process] = {}
        self._ready: deque[int] = deque()
        self._cancelled = False
        self._wake, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake)  # or a signal that comes just before we wait would be noticed late
        signal.signal(signal.SIGTERM, self._on_cancel)

    def warm_up(self) -> None:
        """Import what jobs need, unless the server that forked this process did."""
        if self._options.warm:
            preload(self._options.preload)

    def _on_cancel(self, *_: object) -> None:
        self._cancelled = True

    def main(self) -> str:
        """Run the jobs.

        Returns
        -------
        state
            How the run ended.
        """
        self._order()
        try:
            while not self._cancelled and (self._ready or self._processes or self._add_final()):
                starved = self._start_ready()
                self._wait(_POLL if starved else _NEVER)
        finally:
            if self._processes:
                self._kill()
        if self._cancelled:
            return "DELETED"
        return "SUCCEEDED" if all(state == "SUCCEEDED" for state in self._states) else "FAILED"

    def _order(self) -> None:
        """Find out who waits for whom, and who need not."""
        seqs = {job.name: seq for seq, job in enumerate(self._jobs)}
        self._children: dict[int, list[int]] = defaultdict(list)
        self._missing: dict[int, int] = {}
        for seq, job in enumerate(self._jobs):
            parents = [seqs[name] for name in job.parents]
            self._missing[seq] = sum(self._states[parent] != "SUCCEEDED" for parent in parents)
            for parent in parents:
                self._children[parent].append(seq)
        todo = [s for s, job in enumerate(self._jobs) if self._states[s] != "SUCCEEDED" and not job.is_final]
        self._make_ready(seq for seq in todo if not self._missing[seq])

    def _add_final(self) -> bool:
        """Add the final job, which runs when nothing else is left, whatever became of it."""
        final = [s for s, job in enumerate(self._jobs) if job.is_final and self._states[s] == "UNREADY"]
        self._make_ready(final)
        return bool(final)

    def _make_ready(self, seqs: Iterable[int]) -> None:
        for seq in seqs:
            self._ready.append(seq)
            self._set(seq, "READY")

    def _set(self, seq: int, state: str) -> None:
        self._states[seq] = state
        self._db.execute("UPDATE job SET state = ? WHERE run_id = ? AND seq = ?", (state, self._run_id, seq))

    def _start_ready(self) -> bool:
        """Start jobs as long as there are cores; tell whether some are lacking."""
        while self._ready and not self._cancelled:
            job = self._jobs[self._ready[0]]
            if not job.command:
                self._succeeded(self._ready.popleft())
                continue
            slots = self._slots.acquire(job.cores)
            if slots is None:
                return True
            self._start(self._ready.popleft(), slots)
        return False

    def _start(self, seq: int, slots: list[int]) -> None:
        job = self._jobs[seq]
        self._attempts[seq] += 1
        self._tries[seq] += 1
        Path(job.log).parent.mkdir(parents=True, exist_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        runner = os.getpid()
        pid = os.fork()
        if not pid:
            self._become(job, seq, runner)
        self._processes[os.pidfd_open(pid)] = Process(seq, pid, slots)
        self._states[seq] = "RUNNING"
        self._db.execute(
            "UPDATE job SET state = 'RUNNING', attempts = ?, started = ?, ended = NULL, pid = ?, born = ? "
            "WHERE run_id = ? AND seq = ?",
            (self._attempts[seq], time.time(), pid, born(pid), self._run_id, seq),
        )

    def _become(self, job: Job, seq: int, runner: int) -> NoReturn:
        """Be the job: this is its own process."""
        try:
            os.setsid()
            die_with_parent(runner)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            log = f"{job.log}.{self._attempts[seq]}"
            redirect(Path(log + ".out"), Path(log + ".err"))
            environment = dict(os.environ) | {MEMORY: str(job.memory_of(self._tries[seq]))}
            environment |= {name: os.path.expandvars(value) for name, value in job.environment.items()}
            command = job.command.replace("<WMS:attemptNum>", str(self._attempts[seq]))
            execute(command, environment, warm=self._options.warm)
        except BaseException:
            _LOG.exception("job %s", job.name)
        finally:
            os._exit(127)

    def _wait(self, seconds: float) -> None:
        """Wait until a job ends, somebody cancels, or some time has passed."""
        poll = select.poll()
        for descriptor in (self._wake, *self._processes):
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(1000 * seconds):
            if descriptor == self._wake:
                os.read(self._wake, 4096)
            else:
                self._reap(descriptor)

    def _reap(self, descriptor: int) -> None:
        process = self._processes.pop(descriptor)
        os.close(descriptor)
        end_session(process.pid, None)  # before its number is free: children that it left behind
        _, status, usage = os.wait4(process.pid, 0)
        self._slots.release(process.slots)
        code = os.waitstatus_to_exitcode(status)
        code = 128 - code if code < 0 else code  # as a shell tells of signals
        with store.transaction(self._db):
            self._db.execute(
                "UPDATE job SET exit_code = ?, ended = ?, cpu = cpu + ?, pid = NULL, born = NULL "
                "WHERE run_id = ? AND seq = ?",
                (code, time.time(), usage.ru_utime + usage.ru_stime, self._run_id, process.seq),
            )
            if not self._cancelled:
                self._ended(process.seq, code)

    def _ended(self, seq: int, code: int) -> None:
        """Draw the conclusions from a job's exit code."""
        job = self._jobs[seq]
        if code == 0:
            self._succeeded(seq)
        elif self._tries[seq] <= job.retries and code not in job.final_exits:
            _LOG.info("job %s: exit code %d, tried again", job.name, code)
            self._make_ready([seq])
        else:
            _LOG.info("job %s: exit code %d", job.name, code)
            self._set(seq, "FAILED")
            self._prune(seq)

    def _succeeded(self, seq: int) -> None:
        self._set(seq, "SUCCEEDED")
        for child in self._children[seq]:
            self._missing[child] -= 1
            if not self._missing[child] and self._states[child] == "UNREADY":
                self._make_ready([child])

    def _prune(self, seq: int) -> None:
        """Give up all jobs that depend on one."""
        stack = list(self._children[seq])
        while stack:
            child = stack.pop()
            if self._states[child] == "UNREADY":
                self._set(child, "PRUNED")
                stack += self._children[child]

    def _kill(self) -> None:
        """End all jobs: they are told to, and after a while made to."""
        for number, grace in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, _NEVER)):
            for process in self._processes.values():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
            end = time.monotonic() + grace
            while self._processes and (left := end - time.monotonic()) > 0:
                self._wait(left)


def run_forked(run_id: int) -> None:
    """Be the runner of a run, in a process that was made for it.

    Parameters
    ----------
    run_id
        Number of the run; nothing happens if it has a runner or needs none.
    """
    lock = hold(store.home() / "runners.lock", run_id)
    if lock is None:
        return
    with store.connect() as db:
        run = store.claim(db, run_id)
        if run is None:
            return
        try:
            state, message = _run(db, run), ""
        except Exception as error:
            _LOG.exception("run %d", run_id)
            state, message = "FAILED", f"the runner failed: {error}"
        if state == "DELETED":
            store.delete(db, run_id)
        else:
            store.end(db, run_id, state, message)
        _LOG.info("run %d: %s", run_id, state)


def _run(db: sqlite3.Connection, run: sqlite3.Row) -> str:
    folder = Path(run["submit_path"])
    redirect(folder / "local_wms.log", append=True)
    os.chdir(folder)
    environment = read_environment(folder)  # before ours is gone: it says where the state is
    os.environ.clear()
    os.environ.update(environment)
    runner = Runner(db, run)
    runner.warm_up()
    return runner.main()


def main() -> None:
    """Run a run: ``python -m cm_dagster.local.wms.runner RUN_ID``."""
    detach()
    log_to_stderr()
    run_forked(int(sys.argv[1]))


if __name__ == "__main__":
    main()
