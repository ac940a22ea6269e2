"""A small disk that can be full, for whoever may mount one: root, or a user with name spaces of their own."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["SmallDisk"]

_HOLDER = 'mount -t tmpfs -o "size=$2m" tmpfs "$1" && echo ready && read -r _'
_FILLER = ".filler"


class SmallDisk:
    """A file system of a few megabytes at a folder; a context manager that makes it, and ends it.

    It is there for those processes alone that are started with `prefix`, in a name space of their own: no mount is left
    behind, whatever happens, and no root is needed.

    Parameters
    ----------
    folder
        An empty folder.
    megabytes
        Its size.
    """

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder = folder
        self._megabytes = megabytes
        self._own_users = [] if os.geteuid() == 0 else ["--map-current-user", "--keep-caps"]

    def __enter__(self) -> Self:
        self._holder = subprocess.Popen(
            ["unshare", *self._own_users, "--mount", "sh", "-c", _HOLDER, "sh", str(self.folder), str(self._megabytes)],
            stdin=subprocess.PIPE,  # it ends with us, however we end
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        if not self._holder.stdout.readline():
            _, errors = self._holder.communicate()
            raise AssertionError(f"a disk of our own takes root, or a kernel with user name spaces: {errors}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._holder.communicate("\n")

    @property
    def prefix(self) -> list[str]:
        """What comes before the command of a process that is to see the disk."""
        user = ["--user", "--preserve-credentials"] if self._own_users else []
        return ["nsenter", f"--target={self._holder.pid}", *user, "--mount", "--"]

    @property
    def inside(self) -> Path:
        """The disk, for processes that do not see it at its place."""
        return Path(f"/proc/{self._holder.pid}/root", *self.folder.parts[1:])

    def fill(self) -> None:
        """Leave not a byte free."""
        filler = os.open(self.inside / _FILLER, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            while True:
                os.write(filler, bytes(2**20))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        finally:
            os.close(filler)

    def free(self) -> None:
        """Give the space back."""
        (self.inside / _FILLER).unlink()
