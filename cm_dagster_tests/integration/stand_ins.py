"""Stand-ins for the WMS and for `bps submit`, for faults that the real ones cannot be made to show on demand."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from cm_dagster.errors import SubmitError, WmsError
from cm_dagster.services.submitter import Prepared, SubmitOutcome, SubmitResult, Submitter
from cm_dagster.services.wms import WmsClient, WmsState, WorkflowReport
from cm_dagster.spec import SiteSpec

ALIVE = (WmsState.PENDING, WmsState.RUNNING, WmsState.HELD, WmsState.UNKNOWN)


class Killed(BaseException):
    """Stands for the death of the process: nothing catches it, and its locks are freed."""


class ScriptedWms(WmsClient):
    """A WMS whose workflows are set by hand."""

    def __init__(self) -> None:
        super().__init__("a.ScriptedWms")
        self.down = False
        self.workflows: dict[str, WorkflowReport] = {}
        self.unlisted: set[str] = set()
        """Workflows that the list does not show, but which are known by id."""
        self.hidden: set[str] = set()
        """Workflows that nothing shows yet."""
        self.asked: Counter[str] = Counter()
        self.on_look_up: Callable[[], None] = lambda: None

    def add(self, name: str, state: WmsState = WmsState.RUNNING) -> str:
        """Begin a workflow."""
        wms_id = str(len(self.workflows) + 1)
        self.workflows[wms_id] = WorkflowReport(wms_id, name, state, jobs={WmsState.RUNNING: 2})
        return wms_id

    def set(self, wms_id: str, state: WmsState) -> None:
        self.workflows[wms_id] = replace(self.workflows[wms_id], state=state)

    def alive(self) -> list[str]:
        """Names of the workflows that run."""
        return [report.name for report in self.workflows.values() if report.state in ALIVE]

    def named(self, name: str) -> list[str]:
        return [wms_id for wms_id, report in self.workflows.items() if report.name == name]

    def report_all(self, history: float) -> dict[str, WorkflowReport]:
        self._answer("list")
        return {key: each for key, each in self.workflows.items() if key not in self.hidden | self.unlisted}

    def report_one(self, wms_id: str, history: float) -> WorkflowReport | None:
        self._answer("one")
        return None if wms_id in self.hidden else self.workflows.get(wms_id)

    def find(self, names: object, history: float) -> dict[str, list[str]]:
        self.on_look_up()
        return super().find(names, history)  # type: ignore[arg-type]

    def cancel(self, wms_id: str) -> str:
        self._answer("cancel")
        if wms_id not in self.workflows or wms_id in self.hidden or self.workflows[wms_id].state not in ALIVE:
            raise WmsError(f"the WMS did not cancel workflow {wms_id}: it has ended or is not known")
        self.set(wms_id, WmsState.CANCELLED)
        return "cancelled"

    def _answer(self, question: str) -> None:
        self.asked[question] += 1
        if self.down:
            raise WmsError("the WMS could not be asked: connection refused", transient=True)


type Turn = Callable[[Prepared], SubmitResult]


class ScriptedSubmitter(Submitter):
    """Writes all files as the real one, and submits to a scripted WMS as it is told."""

    def __init__(self, site: SiteSpec, wms: ScriptedWms) -> None:
        super().__init__(site)
        self.wms = wms
        self.turns: list[Turn] = []
        """How the next submissions go; when it is empty, well."""
        self.submissions: Counter[str] = Counter()
        self.locks: list[int] = []

    def submit(self, batch: Sequence[Prepared], *, pass_fds: Sequence[int] = ()) -> Iterator[SubmitResult]:
        self.locks = list(pass_fds)
        for one in batch:
            self.submissions[one.attempt.workflow] += 1
            yield (self.turns.pop(0) if self.turns else self.well)(one)

    def well(self, one: Prepared) -> SubmitResult:
        wms_id = self.wms.add(one.attempt.workflow)
        _write(one, "submitted", ok=True, wms_id=wms_id)
        return SubmitResult(one.attempt, SubmitOutcome.SUBMITTED, wms_id=wms_id, submit_dir=one.paths.submit_dir)

    def bad(self, one: Prepared, *, transient: bool = False) -> SubmitResult:
        """Nothing was sent."""
        word = "timed out" if transient else "is wrong"
        _write(one, "failed", ok=False, error={"type": "X", "message": word})
        error = SubmitError(f"the database {word}", transient=transient)
        return SubmitResult(one.attempt, SubmitOutcome.FAILED, submit_dir=one.paths.submit_dir, error=error)

    def shaky(self, one: Prepared) -> SubmitResult:
        """Nothing was sent, and it may go well next time."""
        return self.bad(one, transient=True)

    def lost(self, one: Prepared) -> SubmitResult:
        """It is not known whether anything was sent; nothing was."""
        _write(one, "sending", ok=None)
        error = SubmitError("no answer", transient=True)
        return SubmitResult(one.attempt, SubmitOutcome.UNKNOWN, submit_dir=one.paths.submit_dir, error=error)

    def sent(self, one: Prepared) -> SubmitResult:
        """It is not known whether anything was sent; it was."""
        self.wms.add(one.attempt.workflow)
        return self.lost(one)

    def dies(self, one: Prepared) -> SubmitResult:
        """The process dies when the WMS has the workflow and before anybody knows its id."""
        self.sent(one)
        raise Killed


def _write(one: Prepared, phase: str, **result: object) -> None:
    one.paths.submit_dir.mkdir()
    one.paths.log.touch()
    one.paths.result.write_text(json.dumps({"phase": phase, "started": 0.0, **result}))
