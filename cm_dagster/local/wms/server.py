"""The warm server of a stack: imports it once and forks the runners of its runs.

It ends when it has had nothing to do for a while, and after some time in any case, so that a stack that was changed is
imported anew. Nothing depends on it: a run whose server died, hangs or never came is begun by the next command that
asks for its state.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import time
from pathlib import Path

from cm_dagster.local.wms import store
from cm_dagster.local.wms.command import preload
from cm_dagster.local.wms.process import born, detach, hold, log_to_stderr, redirect
from cm_dagster.local.wms.runner import run_forked

__all__ = ["Server"]

_LOG = logging.getLogger(__name__)

_IDLE = 60.0
"""Ends when it has had nothing to do for so long, in seconds."""

_AGE = 900.0
"""Ends at that age, in seconds."""


class Server:
    """One server.

    Parameters
    ----------
    pool
        Its name.
    modules
        What it imports besides the stack's commands.
    """

    def __init__(self, pool: str, modules: list[str]) -> None:
        self._pool = pool
        self._modules = modules

    def main(self) -> None:
        """Serve, unless another process does already."""
        folder = store.home()
        lock = hold(folder / f"server-{self._pool}.lock")
        if lock is None:
            return
        redirect(folder / f"server-{self._pool}.log")
        self._record()
        path = folder / f"server-{self._pool}.fifo"
        if not path.exists():
            os.mkfifo(path, 0o600)
        # Whoever finds nobody reading has committed its run before we look for runs; see also the end.
        # Open for writing too: the pipe must not end when a writer closes it.
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # runners are not waited for
        preload(self._modules)
        self._sweep()
        self._serve()
        os.close(lock)  # first: who finds nobody reading from here on starts a new server, which must get the lock
        os.close(self._pipe)
        self._pipe = -1
        self._sweep()  # runs whose request lay unread in the pipe

    def _record(self) -> None:
        with store.connect() as db:
            db.execute(
                "INSERT OR REPLACE INTO server(pool, pid, born) VALUES (?, ?, ?)",
                (self._pool, os.getpid(), born(os.getpid())),
            )

    def _serve(self) -> None:
        end = time.monotonic() + _AGE
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        while (left := end - time.monotonic()) > 0:
            if not poll.poll(1000 * min(left, _IDLE)):
                return
            for number in os.read(self._pipe, 2**16).split():
                self._fork(int(number))

    def _sweep(self) -> None:
        with store.connect() as db:
            rows = db.execute("SELECT run_id FROM run WHERE state = 'PENDING' AND pool = ?", (self._pool,)).fetchall()
        for row in rows:
            self._fork(row["run_id"])

    def _fork(self, run_id: int) -> None:
        """Fork a runner; of two for the same run, one will end at once."""
        if os.fork():
            return
        try:
            os.setsid()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if self._pipe >= 0:
                os.close(self._pipe)  # or the server would seem to be there as long as the runner is
            run_forked(run_id)
        except BaseException:
            _LOG.exception("runner of run %d", run_id)
        finally:
            os._exit(0)


def main() -> None:
    """Run a server: ``python -m cm_dagster.local.wms.server POOL [MODULE ...]``."""
    detach()
    os.chdir(Path("/"))
    log_to_stderr()
    Server(sys.argv[1], sys.argv[2:]).main()


if __name__ == "__main__":
    main()
