"""What processes have used: CPU seconds, also of those that have ended, and the most memory that each had."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from cm_dagster.testing.postgres import PostgresServer

__all__ = ["Peaks", "Used", "command", "is_worker", "machine", "postmaster", "tree", "used"]

_TICKS = os.sysconf("SC_CLK_TCK")
_EVERY = 1.0
"""Seconds between two looks at the memory of processes."""


class Used(NamedTuple):
    """CPU seconds of a process and of all that it has started."""

    living: float
    """Of the processes that live."""
    ended: float
    """Of those that have ended, and were waited for."""

    @property
    def total(self) -> float:
        """Both."""
        return self.living + self.ended

    def since(self, before: Used) -> Used:
        """What was used since."""
        return Used(self.living - before.living, self.ended - before.ended)


def used(pid: int) -> Used:
    """Measure a process with all its descendants."""
    found = [fields for each in tree(pid) if (fields := _stat(each))]
    own = sum(int(field) for fields in found for field in fields[11:13])
    children = sum(int(field) for fields in found for field in fields[13:15])
    return Used(own / _TICKS, children / _TICKS)


def machine() -> float:
    """Measure the CPU seconds that all processes of the machine have used since it was started."""
    kinds = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, *interrupts = map(int, kinds[:7])
    return sum([user, nice, system, *interrupts]) / _TICKS


def tree(pid: int) -> list[int]:
    """Find a process and all its descendants that live."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children[int(fields[1])].append(int(entry.name))
    return list(_descend(pid, children))


def postmaster(server: PostgresServer) -> int:
    """Give the id of the process that has started all others of a PostgreSQL server."""
    return int((server.folder / "data" / "postmaster.pid").read_text().split()[0])


def is_worker(pid: int) -> bool:
    """Whether a process executes a run: a fork of a fork server."""
    fields = _stat(pid)
    return bool(fields) and all(b"multiprocessing.forkserver" in command(each) for each in (pid, int(fields[1])))


def command(pid: int) -> bytes:
    """Give the command line of a process, with zeros between words; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _descend(pid: int, children: Mapping[int, list[int]]) -> Iterator[int]:
    yield pid
    for child in children.get(pid, ()):
        yield from _descend(child, children)


def _stat(pid: int) -> list[str]:
    """Give the fields of a process from its state on; none if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _peak(pid: int) -> float:
    """The most memory that a process had so far, in MB; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


@dataclass
class Peaks:
    """Follows the memory of processes while it is entered; `most` is what each kind of them had at most, in MB.

    What they start meanwhile counts apart, as ``started by KIND``.
    """

    roots: Mapping[str, int]
    """Process ids, by kind."""
    most: dict[str, float] = field(default_factory=dict)
    _known: dict[str, set[int]] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._known = {kind: set(tree(pid)) for kind, pid in self.roots.items()}
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _follow(self) -> None:
        while True:
            self._look()
            if self._over.wait(_EVERY):
                return

    def _look(self) -> None:
        for kind, root in self.roots.items():
            for pid in tree(root):
                name = kind if pid in self._known[kind] else f"started by {kind}"
                self.most[name] = max(self.most.get(name, 0.0), _peak(pid))
