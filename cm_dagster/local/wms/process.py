"""Processes and the locks that they hold: who is alive, who may run, and how to end a job with all that it began."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

__all__ = [
    "Slots",
    "alive",
    "born",
    "clean_environment",
    "detach",
    "die_with_parent",
    "end_session",
    "hold",
    "log_to_stderr",
    "redirect",
    "send",
    "session",
]


@cache
def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def born(pid: int) -> str | None:
    """Tell when a process was started: with its number, that identifies it for good.

    Parameters
    ----------
    pid
        Number of the process.

    Returns
    -------
    born
        Boot and clock ticks since; None if there is no such process, or only what is left of it.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{_boot()}:{fields[19]}"


def alive(pid: int | None, since: str | None) -> bool:
    """Whether a process that was started at a given time still runs.

    Parameters
    ----------
    pid
        Number of the process; None: there never was one.
    since
        What `born` told when it was started.
    """
    return pid is not None and since is not None and born(pid) == since


def send(pid: int | None, since: str | None, number: signal.Signals) -> bool:
    """Send a signal to exactly the process that is meant, even if its number has been given to another since.

    Parameters
    ----------
    pid, since
        The process, as for `alive`.
    number
        The signal.

    Returns
    -------
    sent
        Whether the process was there.
    """
    if pid is None:
        return False
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not alive(pid, since):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def end_session(leader: int | None, since: str | None) -> None:
    """Kill what is left of a job: all processes of the session that it led.

    Parameters
    ----------
    leader, since
        The session's first process, as for `alive`; it need not be alive any more.
    """
    if leader is None or born(leader) not in (None, since):
        return  # the number belongs to another process: the session is gone
    for pid in session(leader):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def session(leader: int) -> Iterator[int]:
    """Find the processes of the session that a process leads or led."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(int(entry.name)) == leader:
                    yield int(entry.name)


def detach() -> None:
    """Go on in a child with a session of its own; the caller's process ends, so that whoever started it can reap it."""
    if os.fork():
        os._exit(0)
    os.setsid()


def redirect(output: Path, errors: Path | None = None, *, append: bool = False) -> None:
    """Point the standard streams of this process to files, and its input to nothing.

    Parameters
    ----------
    output
        File of the standard output.
    errors
        File of the standard error; None: the same.
    append
        Whether to keep what a file holds.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC)
    for path, how, stream in ((Path(os.devnull), os.O_RDONLY, 0), (output, flags, 1), (errors, flags, 2)):
        descriptor = 1 if path is None else os.open(path, how, 0o644)
        os.dup2(descriptor, stream)
        if path is not None:
            os.close(descriptor)


def log_to_stderr() -> None:
    """Let this package's messages go to the standard error, and leave the root logger to the jobs' own commands."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger(__package__)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process as soon as its parent dies.

    Parameters
    ----------
    parent
        Number of the parent, read before the fork.
    """
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Make the environment of runners and jobs from that of a submitter.

    Parameters
    ----------
    environment
        The submitter's.

    Returns
    -------
    environment
        Without PYTHONDONTWRITEBYTECODE, which makes each start of the stack cost seconds, and with one thread for
        linear algebra, as a job has one core unless it says otherwise.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return threads | {name: value for name, value in environment.items() if name != "PYTHONDONTWRITEBYTECODE"}


def hold(path: Path, number: int = 0) -> int | None:
    """Take a lock for the rest of this process's life.

    Record locks are used as they belong to one process: children do not inherit them, and the kernel frees them when
    the process ends, however it ends.

    Parameters
    ----------
    path
        File of the locks.
    number
        Which of the file's locks.

    Returns
    -------
    descriptor
        Open file that holds the lock: it must stay open, and the process must not open the file again; None if another
        process has the lock.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if _try_lock(descriptor, number):
        return descriptor
    os.close(descriptor)
    return None


def _try_lock(descriptor: int, number: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
    except (BlockingIOError, PermissionError):
        return False
    return True


_GATE = 2**20


class Slots:
    """The cores of the machine, shared by all runners: one lock each.

    Whoever takes cores holds the gate meanwhile. A job of several cores keeps the gate, and the cores that it has got,
    until it has got all: so it is not starved by small jobs, and no two such jobs wait for each other.

    Parameters
    ----------
    path
        File of the locks.
    cores
        Number of cores that this runner may use.
    """

    def __init__(self, path: Path, cores: int) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._cores = cores
        self._held: set[int] = set()
        self._saved: list[int] = []

    def acquire(self, count: int) -> list[int] | None:
        """Take cores for a job; what it could not get is asked for again at the next call.

        Parameters
        ----------
        count
            Number of cores; no more than there are will do.

        Returns
        -------
        slots
            Numbers of the cores, to be released when the job ends; None if there are not enough free.
        """
        if not _try_lock(self._file, _GATE):
            return None
        count = max(1, min(count, self._cores))
        for number in range(self._cores):
            if len(self._saved) < count and number not in self._held and _try_lock(self._file, number):
                self._held.add(number)
                self._saved.append(number)
        if len(self._saved) < count:
            if count == 1:
                self._unlock(_GATE)
            return None
        slots, self._saved = self._saved, []
        self._unlock(_GATE)
        self.release(slots[count:])
        return slots[:count]

    def release(self, slots: list[int]) -> None:
        """Give cores back.

        Parameters
        ----------
        slots
            Their numbers.
        """
        for number in slots:
            self._held.discard(number)
            self._unlock(number)

    def _unlock(self, number: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)
