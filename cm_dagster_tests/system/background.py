"""Campaigns that are started first and run by themselves while tests act on others."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cm_dagster.local.wms import store
from cm_dagster_tests.system.rig import Case, Rig

__all__ = ["FinalJobKiller", "Unattended", "running_by_themselves"]

_ONCE = {"task": "isr", "where": "exposure=1", "action": "raise", "times": 1}
_ALWAYS = {"task": "calibrateImage", "where": "visit=2", "action": "raise", "message": "no stars at all"}
_SLEEP = {"task": "isr", "where": "exposure=3", "action": "sleep", "seconds": 3600}


class FinalJobKiller:
    """Kills the final job of a workflow whenever it starts, as the kernel does where memory is short.

    Parameters
    ----------
    workflow
        Name of the workflow.
    """

    def __init__(self, workflow: str) -> None:
        self._workflow = workflow
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.killed: set[int] = set()
        """Numbers of the processes."""

    def __enter__(self) -> FinalJobKiller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        query = (
            "SELECT job.pid FROM job JOIN run USING(run_id) WHERE is_final AND job.state = 'RUNNING'"
            " AND job.pid IS NOT NULL AND run.name = ?"
        )
        with store.connect() as db:
            while not self._stop.wait(0.05):
                for row in db.execute(query, (self._workflow,)).fetchall():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(row["pid"], signal.SIGKILL)
                        self.killed.add(row["pid"])


@dataclass(frozen=True)
class Unattended:
    """The campaigns."""

    auto: Case
    """Two steps; one quantum fails once. It was created and started by ``cm`` while the servers ran."""
    uneven: Case
    """Two steps; of the first step's groups one is accepted, one fails, one goes on for an hour."""
    unregistered: Case
    """The final job of its only workflow is killed each time."""
    killer: FinalJobKiller


@contextmanager
def running_by_themselves(rig: Rig) -> Iterator[Unattended]:
    """Start the campaigns."""
    auto = rig.describe("auto", visits=[1, 2, 3], steps=["step1", "step2"], faults=[_ONCE])
    rig.program("cm", "campaign", "create", auto.file, "--reason", "to be tested")
    rig.program("cm", "campaign", "start", auto.name, "--reason", "to be tested")
    uneven = rig.campaign("uneven", visits=[1, 2, 3], steps=["step1", "step2"], faults=[_ALWAYS, _SLEEP], start=True)
    with FinalJobKiller("unregistered.step1.local.g0000.a01") as killer:
        yield Unattended(auto, uneven, rig.campaign("unregistered", visits=[4], start=True), killer)
