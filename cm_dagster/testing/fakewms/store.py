"""The fake WMS: workflows that nobody runs, in a folder that any number of processes use at once.

Standard library only: it is imported by a program that must start at once. Each request is a line of
``requests.jsonl``. A line is written before its effect is committed, and what a process leaves of it that died in
between is taken back by the next one, so that the log and the state always agree.

A process that lives by another clock than the real one says so by ``CM_FAKE_CLOCK_AHEAD`` (seconds): delays go by that
clock, and the times in the log stay real.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

from cm_dagster.testing.fakewms.faults import ALWAYS, KINDS, REQUESTS, Fault, suffer
from cm_dagster.testing.fakewms.session import (
    ENDED,
    STATES,
    Request,
    Session,
    Workflow,
    Workflows,
    connect,
    read,
    session,
)

__all__ = ["ALWAYS", "ENDED", "HOME", "KINDS", "REQUESTS", "STATES", "TWIN", "FakeWms", "Fault", "Request", "Workflow"]

HOME: Final = "CM_FAKE_WMS_HOME"
"""Environment variable: the folder of the fake WMS that the plugin and the stand-in for ``bps`` use."""

_BEFORE = ("die-before", "down", "error-before", "lost-submit")
"""Faults by which nothing else happens."""
_AFTER = ("late", "twin", "lost-cancel", "slow", "done-but-error", "done-but-timeout", "die-after")
TWIN: Final = "done, as a twin"
"""Outcome of a submission that nobody made."""
_OUTCOMES = {
    "die-before": "died before it",
    "down": "down",
    "error-before": "refused",
    "lost-submit": "lost",
    "lost-cancel": "lost",
    "done-but-error": "done, answered by an error",
    "done-but-timeout": "done, not answered in time",
    "die-after": "done, then died",
}


class FakeWms:
    """The fake WMS of a folder.

    Parameters
    ----------
    home
        The folder; it is made if absent.
    """

    def __init__(self, home: Path) -> None:
        self.home = Path(home)
        self.home.mkdir(parents=True, exist_ok=True)
        self.log = self.home / "requests.jsonl"

    # ---------------------------------------------------------------------------------- what a plugin asks of a WMS

    def submit(
        self,
        name: str,
        submit_dir: str,
        *,
        run: str = "",
        user: str = "",
        jobs: Mapping[str, int] | None = None,
    ) -> str:
        """Begin a workflow, which is PENDING then.

        Parameters
        ----------
        name
            Its name; there may be others of the same.
        submit_dir
            Its submit directory.
        run
            RUN collection that it would write.
        user
            Who submits it.
        jobs
            Number of jobs by label.

        Returns
        -------
        wms_id
            Its id.

        Raises
        ------
        Exception
            What a fault says.
        """
        row = (name, submit_dir, run, user, json.dumps(dict(jobs or {})))
        with self._request("submit", name) as (work, used):
            late = used["late"].seconds if "late" in used else 0.0
            wms_id = work.insert(*row, late=late)
            work.write("submit", name, wms_id, _outcome(used))
            if "twin" in used:
                work.write("submit", name, work.insert(*row, late=late), TWIN)
        return wms_id

    def check(self, name: str) -> None:
        """Do what a plugin does before it sends a workflow: meet the faults of kind ``error-before``.

        Raises
        ------
        Exception
            What a fault says.
        """
        with session(self.home, self.log) as work:
            used = work.take("submit", name, "error-before")
            if used:
                work.write("submit", name, "", _outcome(used))
        suffer(used)

    def list(self) -> Workflows:
        """List all workflows that can be seen, the oldest first.

        Raises
        ------
        Exception
            What a fault says.
        """
        with self._request("list", "") as (work, _):
            found = work.seen("list")
            work.write("list", "", "", f"{len(found)} workflows")
        return found

    def one(self, wms_id: str) -> Workflow | None:
        """Look for a workflow by its id; None if it can't be seen.

        Raises
        ------
        Exception
            What a fault says.
        """
        name = self._name(wms_id)
        with self._request("one", name) as (work, _):
            found = work.seen("one", wms_id)
            work.write("one", name, wms_id, found[0].state if found else "unknown")
        return found[0] if found else None

    def cancel(self, wms_id: str) -> tuple[bool, str]:
        """Cancel a workflow: it is DELETED at once.

        Returns
        -------
        cancelled, message
            Whether it was, and if not, why.

        Raises
        ------
        Exception
            What a fault says.
        """
        name = self._name(wms_id)
        with self._request("cancel", name) as (work, used):
            seen = work.seen("cancel", wms_id)
            refusal = _refusal(seen, wms_id, may=lambda state: state not in ENDED)
            if not refusal and "lost-cancel" not in used:
                work.change(seen[0], "DELETED")
            outcome = f"refused: {refusal}" if refusal else _outcome(used)
            work.write("cancel", name, wms_id, outcome)
        return not refusal, refusal

    def restart(self, wms_id: str) -> tuple[str | None, str | None, str]:
        """Let a workflow that failed or was cancelled be PENDING again.

        Returns
        -------
        wms_id, name, message
            Its id (the same) and its name; or None twice, and why not.

        Raises
        ------
        Exception
            What a fault says.
        """
        name = self._name(wms_id)
        with self._request("restart", name) as (work, used):
            seen = work.seen("restart", wms_id)
            refusal = _refusal(seen, wms_id, may=lambda state: state in ("FAILED", "DELETED"))
            if not refusal:
                work.change(seen[0], "PENDING")
            outcome = f"refused: {refusal}" if refusal else _outcome(used)
            work.write("restart", name, wms_id, outcome)
        return (None, None, refusal) if refusal else (wms_id, seen[0].name, "")

    def ping(self) -> None:
        """Ask whether it is there.

        Raises
        ------
        Exception
            What a fault says.
        """
        with self._request("ping", "") as (work, used):
            work.write("ping", "", "", _outcome(used))

    # --------------------------------------------------------------------------------------- what a test does to it

    def script(self, *faults: Fault) -> None:
        """Add faults; of those that fit a request, the oldest of each kind befalls it."""
        rows = [(json.dumps(asdict(fault)), fault.times) for fault in faults]
        with session(self.home, self.log) as work:
            work.db.executemany("INSERT INTO fault(fault, times) VALUES (?, ?)", rows)

    def clear(self) -> None:
        """Take all faults back that were not used, and show what is late; what was forgotten stays so."""
        with session(self.home, self.log) as work:
            work.db.execute("DELETE FROM fault")
            work.db.execute("UPDATE workflow SET visible_from = 0")

    def workflows(self) -> Workflows:
        """Tell the truth: all workflows, the oldest first; nobody notices."""
        with closing(connect(self.home)) as db:
            return read(db)

    def set(self, wms_id: str, state: str) -> None:
        """Have a workflow come to a state.

        Raises
        ------
        ValueError
            If there is no such state.
        KeyError
            If there is no such workflow.
        """
        if state not in STATES:
            raise ValueError(f"{state!r} is no state of BPS: {', '.join(STATES)}")
        with session(self.home, self.log) as work:
            found = read(work.db, wms_id)
            if not found:
                raise KeyError(f"there is no workflow {wms_id}")
            work.change(found[0], state)
            work.write("became", found[0].name, found[0].wms_id, state)

    def requests(self) -> Sequence[Request]:
        """Read the log, the first request first."""
        with closing(connect(self.home)) as db:
            size = db.execute("SELECT size FROM log").fetchone()[0]
        text = self.log.read_bytes()[:size].decode() if size else ""
        return [Request(**json.loads(line)) for line in text.splitlines()]

    # ------------------------------------------------------------------------------------------------------- within

    @contextmanager
    def _request(self, kind: str, name: str) -> Iterator[tuple[Session, Mapping[str, Fault]]]:
        """Do a request and let its caller feel the faults that befall it."""
        with session(self.home, self.log) as work:
            used = work.take(kind, name, *_BEFORE)
            if used:
                work.write(kind, name, "", _outcome(used))
            else:
                used = work.take(kind, name, *_AFTER)
                yield work, used
        suffer(used)

    def _name(self, wms_id: str) -> str:
        with closing(connect(self.home)) as db:
            return next((each.name for each in read(db, wms_id)), "")


def _outcome(used: Mapping[str, Fault]) -> str:
    """Say what became of a request, for the log."""
    return next((_OUTCOMES[key] for key in used if key in _OUTCOMES), "done")


def _refusal(seen: Sequence[Workflow], wms_id: str, *, may: Callable[[str], bool]) -> str:
    if not seen:
        return f"no such run: {wms_id}"
    return "" if may(seen[0].state) else f"run is {seen[0].state}"
