"""Ask and command a workflow management system (WMS) through its BPS plugin.

The plugins' Python API is used, never the ``bps`` commands: those exit with 0 whether or not anything was done. What
is told here is said in our own words, and three things are kept apart that plugins mix up: *the WMS says so*, *the WMS
does not know the workflow*, and *the WMS could not be asked* (`WmsError`, transient).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cm_dagster.errors import WmsError

__all__ = ["WmsClient", "WmsState", "WorkflowReport"]


class WmsState(StrEnum):
    """State of a workflow or of a job, in our words."""

    UNKNOWN = "unknown"
    """The WMS cannot tell, or says what fits no other state."""
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    HELD = "held"
    BLOCKED = "blocked"
    """Of a job: never run, because one that it needs failed."""


_STATES = {
    "UNREADY": WmsState.PENDING,
    "READY": WmsState.PENDING,
    "PENDING": WmsState.PENDING,
    "RUNNING": WmsState.RUNNING,
    "SUCCEEDED": WmsState.SUCCEEDED,
    "FAILED": WmsState.FAILED,
    "DELETED": WmsState.CANCELLED,
    "HELD": WmsState.HELD,
    "PRUNED": WmsState.BLOCKED,
}
"""By name of BPS's state; all others are unknown."""

_UNSUCCESSFUL = (WmsState.FAILED, WmsState.CANCELLED, WmsState.BLOCKED)


@dataclass(frozen=True)
class WorkflowReport:
    """What a WMS says of a workflow."""

    wms_id: str
    name: str
    """Name of the workflow, which we chose."""
    state: WmsState
    jobs: Mapping[WmsState, int] = field(default_factory=dict)
    """Number of jobs in each state; states without jobs are left out."""
    tasks: Mapping[str, Mapping[WmsState, int]] = field(default_factory=dict)
    """The same for each task label."""
    exit_codes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Exit codes other than 0 by task label, where they were asked for."""
    path: str | None = None
    """Submit directory."""
    message: str = ""
    """What else the WMS has to say."""


class WmsClient:
    """Client of one site's WMS.

    Parameters
    ----------
    service
        Class of the BPS plugin, with modules.
    user
        Whose workflows are listed; None for all that the plugin lists by itself.
    env
        Environment variables that the plugin reads, exported into this process; ``$NAME`` in a value is expanded.
    deadline
        Seconds after which a call is given up.
    """

    def __init__(
        self,
        service: str,
        *,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        deadline: float = 60.0,
    ) -> None:
        self.service = service
        self.user = user
        self.env = dict(env or {})
        self.deadline = deadline
        self._plugin: Any = None
        self._hanging: threading.Thread | None = None

    # -------------------------------------------------------------------------------------------------- questions

    def report_all(self, history: float) -> dict[str, WorkflowReport]:
        """Ask for all workflows in one query.

        Parameters
        ----------
        history
            How far back ended workflows are listed, in days.

        Returns
        -------
        reports
            By id at the WMS.

        Raises
        ------
        WmsError
            If the WMS could not be asked.
        """
        runs, message = self._call("report", user=self.user, hist=history)
        if not runs and message:  # a plugin that can't list says so, and so does one whose WMS refuses
            raise self._slow("report", f"it lists no workflows: {message}")
        return {report.wms_id: report for report in map(_report, runs or ()) if report.wms_id}

    def report_one(self, wms_id: str, history: float) -> WorkflowReport | None:
        """Ask for one workflow, with the exit codes of its jobs.

        Parameters
        ----------
        wms_id
            Its id at the WMS.
        history
            How far back an ended workflow is looked for, in days.

        Returns
        -------
        report
            None if the WMS does not know the workflow (any more).

        Raises
        ------
        WmsError
            If the WMS could not be asked.
        """
        runs, _ = self._call("report", wms_workflow_id=wms_id, hist=history, return_exit_codes=True)
        found = [report for report in map(_report, runs or ()) if report.wms_id]
        return found[0] if found else None

    def find(self, names: Iterable[str], history: float, known: Sequence[str] = ()) -> dict[str, list[str]]:
        """Look workflows up by name.

        Parameters
        ----------
        names
            The names.
        history
            How far back ended workflows are looked for, in days.
        known
            Ids that the list must hold unless the WMS has forgotten them: what a list without them does not show may
            be there all the same.

        Returns
        -------
        ids
            For each name the ids of all workflows that have it, in the order of the WMS; empty if there is none.

        Raises
        ------
        WmsError
            If the look-up failed, or its list is not whole; that is never the same as an empty answer.
        """
        ids: dict[str, list[str]] = {name: [] for name in names}
        reports = self.report_all(history)
        for report in reports.values():
            if report.name in ids:
                ids[report.name].append(report.wms_id)
        hidden = next((id_ for id_ in known if id_ not in reports and self.report_one(id_, history)), None)
        if hidden is not None:
            what = f"the list of the WMS lacks workflow {hidden}, which it knows by its id: it may lack others too"
            raise WmsError(what, advice="a part of the WMS does not answer; ask who runs it", transient=True)
        return ids

    def ping(self) -> None:
        """Check that the WMS can be reached.

        Raises
        ------
        WmsError
            If it cannot.
        """
        code, message = self._call("ping", None)
        if code:
            raise WmsError(f"the WMS does not answer: {message}", advice="ask who runs the WMS", transient=True)

    # --------------------------------------------------------------------------------------------------- commands

    def cancel(self, wms_id: str) -> str:
        """Ask the WMS to cancel a workflow; it may take a while until its report says so.

        Returns
        -------
        message
            What the WMS says.

        Raises
        ------
        WmsError
            If it was refused (a workflow that has ended or is not known), or, transient, if nobody can tell.
        """
        done, message = self._call("cancel", wms_id)
        self._check(done, "cancel", wms_id, message)
        return str(message or "")

    def restart(self, wms_id: str) -> str:
        """Run the failed jobs of a workflow again.

        Returns
        -------
        wms_id
            Its id from now on; some WMSs give a new one.

        Raises
        ------
        WmsError
            If it was refused (nothing failed, still running, not known), or, transient, if nobody can tell.
        """
        new_id, _, message = self._call("restart", wms_id)
        self._check(new_id is not None, "restart", wms_id, message)
        return str(new_id)

    def _check(self, done: bool, verb: str, wms_id: str, message: object) -> None:
        refusal = _inner_refusal(message)
        if not done or refusal:
            raise WmsError(
                f"the WMS did not {verb} workflow {wms_id}: {refusal or message or 'no reason given'}",
                advice="look at the workflow's state at the WMS",
            )

    # ------------------------------------------------------------------------------------------------------ calls

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call the plugin in a thread, so that a call that hangs can be left behind."""
        if self._hanging is not None and self._hanging.is_alive():
            raise self._slow(method, "an earlier call still hangs")
        answer: list[Any] = []
        failure: list[BaseException] = []

        def run() -> None:
            try:
                answer.append(getattr(self._service(), method)(*args, **kwargs))
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=run, name=f"wms-{method}", daemon=True)
        thread.start()
        thread.join(self.deadline)
        if thread.is_alive():
            self._hanging = thread
            raise self._slow(method, f"no answer within {self.deadline:.0f} s")
        if failure:
            raise self._failed(method, failure[0]) from failure[0]
        return answer[0]

    def _service(self) -> Any:
        if self._plugin is None:
            os.environ.update({name: os.path.expandvars(value) for name, value in self.env.items()})
            from lsst.utils import doImportType

            self._plugin = doImportType(self.service)({})
        return self._plugin

    def _slow(self, method: str, what: str) -> WmsError:
        return WmsError(
            f"the WMS ({self.service}) could not be asked ({method}): {what}",
            advice="it is asked again; if it stays so, ask who runs the WMS",
            transient=True,
        )

    def _failed(self, method: str, error: BaseException) -> WmsError:
        """Judge an exception of a plugin: what it cannot do at all is permanent, everything else may pass."""
        if isinstance(error, NotImplementedError):
            return WmsError(
                f"the BPS plugin {self.service} cannot {method}",
                advice="use a site whose plugin can: local, HTCondor, PanDA",
            )
        if isinstance(error, ImportError | AttributeError) and self._plugin is None:
            return WmsError(
                f"the BPS plugin {self.service} cannot be imported: {error}",
                advice="check the site's wms.service, and install the package that has it",
            )
        return self._slow(method, f"{type(error).__name__}: {error}")


def _state(state: object) -> WmsState:
    return _STATES.get(getattr(state, "name", ""), WmsState.UNKNOWN)


def _counts(counts: Mapping[Any, int] | None) -> dict[WmsState, int]:
    found: dict[WmsState, int] = {}
    for state, count in (counts or {}).items():
        if count:
            found[_state(state)] = found.get(_state(state), 0) + count
    return found


def _run_state(state: object, jobs: Mapping[WmsState, int]) -> WmsState:
    """Put a workflow's state right: PanDA's plugin calls one succeeded that ended with failed jobs (SubFinished)."""
    found = _state(state)
    if found is WmsState.BLOCKED or (found is WmsState.SUCCEEDED and any(jobs.get(bad) for bad in _UNSUCCESSFUL)):
        return WmsState.FAILED
    return found


def _report(run: Any) -> WorkflowReport:
    """Translate a ``WmsRunReport``; any of its fields may be None."""
    jobs = _counts(run.job_state_counts)
    codes = run.exit_code_summary or {}
    return WorkflowReport(
        wms_id="" if run.wms_id is None else str(run.wms_id),
        name=run.run or "",
        state=_run_state(run.state, jobs),
        jobs=jobs,
        tasks={label: _counts(counts) for label, counts in (run.job_summary or {}).items()},
        exit_codes={label: tuple(found) for label, found in codes.items() if found},
        path=run.path or None,
        message=str(run.specific_info or ""),
    )


def _inner_refusal(message: object) -> str:
    """Read the refusal that PanDA's plugin hides in the message of a success: a list of ``[code, {...}]``."""
    try:
        parts = json.loads(message) if isinstance(message, str) else message
    except ValueError:
        return ""
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, list | tuple) and part and isinstance(part[0], int) and part[0] != 0:
            detail = part[1].get("message", "") if len(part) > 1 and isinstance(part[1], dict) else ""
            return str(detail or f"code {part[0]}")
    return ""
