"""Running scripts as processes that can be left alone, watched and ended whole; files that are replaced whole."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

__all__ = ["kill", "spawn", "unwritable", "write_text"]


def write_text(path: Path, text: str) -> None:
    """Replace a file, so that a reader or a crash meets the old or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def unwritable(folder: Path) -> str:
    """Try whether a folder can be written; gives why not, e.g. that its disk is full, or empty text if it can."""
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(bytes(4096))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        return str(error)
    return ""


def spawn(
    script: Path, *, stdout: IO[bytes] | int, stderr: IO[bytes] | int, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a bash script in its own folder and session, so that a Ctrl-C meant for us does not hit it half-way.

    Parameters
    ----------
    script
        The script.
    stdout, stderr
        As of `subprocess.Popen`.
    pass_fds
        File descriptors that it inherits.
    """
    return subprocess.Popen(
        ["bash", str(script)],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        cwd=script.parent,
        pass_fds=pass_fds,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a script and what it started; one that has ended is left alone, its process id may be another's by now."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
