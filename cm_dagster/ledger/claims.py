"""Claims: files in the submit area that make sure that an attempt has one submitter and a group one open attempt.

A group's folder holds a ``lock`` (held by ``flock`` while anybody works on the group, so that it frees itself when
its holder dies), a claim per attempt (``claims/a01``, the id of the run that owns it, made by an atomic link) and a
record per attempt (``claims/a01.json``, what was submitted). Nothing of it needs another service.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cm_dagster.errors import LedgerError
from cm_dagster.plan.names import GROUP
from cm_dagster.services.shell import write_text

__all__ = ["BusyError", "Claims", "all_claims", "unlock"]


_CLAIM = re.compile(r"a[0-9]{2,}")


class BusyError(LedgerError):
    """Somebody else works on the group, or owns the attempt."""

    code = "busy"


class Claims:
    """The claims of one group.

    Parameters
    ----------
    folder
        The group's folder in the submit area; it is made if absent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._claims = folder / "claims"
        self._claims.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Hold the group's lock; gives its file descriptor, to be inherited by whoever submits.

        Raises
        ------
        BusyError
            If another process holds it.
        """
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o664)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(f"another process works on {self._folder}") from None
            yield lock
        finally:
            # Closing is enough if no child has inherited it; a child keeps the lock until it ends.
            os.close(lock)

    def owners(self) -> dict[int, str]:
        """Id of the run that owns each claimed attempt, by number."""
        files = (path for path in self._claims.glob("a*") if path.suffix == "")
        return {int(path.name[1:]): path.read_text() for path in files}

    def claim(self, number: int, run_id: str) -> bool:
        """Claim an attempt for a run.

        Returns
        -------
        new : `bool`
            False if the run owned it already.

        Raises
        ------
        BusyError
            If another run owns it.
        """
        path = self._path(number)
        draft, name = tempfile.mkstemp(dir=self._claims, prefix=".")
        try:
            with os.fdopen(draft, "w") as file:
                file.write(run_id)
                file.flush()
                os.fsync(file.fileno())
            Path(path).hardlink_to(name)
        except FileExistsError:
            owner = path.read_text()
            if owner != run_id:
                raise BusyError(f"attempt {number} belongs to run {owner}") from None
            return False
        finally:
            Path(name).unlink()
        return True

    def age(self, number: int) -> float:
        """Seconds since an attempt was claimed."""
        return time.time() - self._path(number).stat().st_mtime

    def touch(self, number: int) -> None:
        """Have an attempt be claimed just now."""
        os.utime(self._path(number))

    def record(self, number: int, content: dict[str, Any]) -> None:
        """Write down what was submitted for an attempt."""
        write_text(self._path(number).with_suffix(".json"), json.dumps(content, indent=1))

    def recorded(self, number: int) -> dict[str, Any] | None:
        """Read what was submitted for an attempt; None if nothing is known to be."""
        try:
            content: dict[str, Any] = json.loads(self._path(number).with_suffix(".json").read_text())
        except FileNotFoundError:
            return None
        return content

    def _path(self, number: int) -> Path:
        return self._claims / f"a{number:02d}"


def unlock(lock: int) -> None:
    """Let go of a group before `Claims.locked` ends, also for processes that have inherited the lock.

    Parameters
    ----------
    lock
        What `Claims.locked` gave.
    """
    fcntl.flock(lock, fcntl.LOCK_UN)


def all_claims(folder: Path) -> Iterator[tuple[str, int, str]]:
    """Read all claims of a step: group, number of the attempt, id of the run that owns it. Nothing is made.

    Parameters
    ----------
    folder
        The step's folder in the submit area, which holds the groups' folders.

    Raises
    ------
    OSError
        If anything that is there can't be read.
    """
    for group in _listed(folder):
        if GROUP.fullmatch(group.name):
            for claim in _listed(group / "claims"):
                if _CLAIM.fullmatch(claim.name):
                    yield group.name, int(claim.name[1:]), claim.read_text()


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
