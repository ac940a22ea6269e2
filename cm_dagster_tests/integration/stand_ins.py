"""Stand-ins for the WMS and for `bps submit`, for faults that the real ones cannot be made to show on demand."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cm_dagster.errors import WmsError
from cm_dagster.services.submitter import Prepared, SubmitResult, Submitter, read_result
from cm_dagster.services.wms import WmsClient, WmsState, WorkflowReport
from cm_dagster.spec import SiteSpec

_SKIPPED = (
    "Dropping task isr because no quanta remain (96 previously succeeded and skipped).\n"
    "Error: QuantumGraph was empty; ERROR logs above should provide details.\n"
)
ALIVE = (WmsState.PENDING, WmsState.RUNNING, WmsState.HELD, WmsState.UNKNOWN)


class Killed(BaseException):
    """Stands for the death of the process: nothing catches it, and its locks are freed."""


class ScriptedWms(WmsClient):
    """A WMS whose workflows are set by hand."""

    def __init__(self) -> None:
        super().__init__("a.ScriptedWms")
        self.down = False
        self.workflows: dict[str, WorkflowReport] = {}
        self.ended: dict[str, float] = {}
        """When workflows ended, seconds since the epoch."""
        self.listed: list[str] = []
        """Workflows of the latest list."""
        self.unlisted: set[str] = set()
        """Workflows that the list does not show, but which are known by id."""
        self.hidden: set[str] = set()
        """Workflows that nothing shows yet."""
        self.asked: Counter[str] = Counter()
        self.restarts_as_new = False
        """Whether a restart gives the workflow another id."""
        self.deaf = False
        """Whether it confirms cancellations and does nothing."""
        self.restart_breaks = False
        """Whether nobody hears that a workflow was restarted."""
        self.on_one: Callable[[], object] = lambda: None
        """Happens when one workflow is asked for."""

    def add(self, name: str, state: WmsState = WmsState.RUNNING) -> str:
        """Begin a workflow."""
        wms_id = str(len(self.workflows) + 1)
        self.workflows[wms_id] = WorkflowReport(wms_id, name, state, jobs={WmsState.RUNNING: 2})
        return wms_id

    def set(self, wms_id: str, state: WmsState) -> None:
        self.workflows[wms_id] = replace(self.workflows[wms_id], state=state)
        if state not in ALIVE:
            self.ended[wms_id] = time.time()

    def ends(self, wms_id: str, state: WmsState, exit_codes: Mapping[str, tuple[int, ...]]) -> None:
        """End a workflow with exit codes, which only the question for its id shows."""
        self.set(wms_id, state)
        self.workflows[wms_id] = replace(self.workflows[wms_id], exit_codes=exit_codes, jobs={WmsState.FAILED: 1})

    def alive(self) -> list[str]:
        """Names of the workflows that run."""
        return [report.name for report in self.workflows.values() if report.state in ALIVE]

    def named(self, name: str) -> list[str]:
        return [wms_id for wms_id, report in self.workflows.items() if report.name == name]

    def report_all(self, history: float) -> dict[str, WorkflowReport]:
        self._answer("list")
        since = time.time() - history * 86400.0
        old = {key for key, ended in self.ended.items() if ended < since and self.workflows[key].state not in ALIVE}
        self.listed = [key for key in self.workflows if key not in self.hidden | self.unlisted | old]
        return {key: replace(self.workflows[key], exit_codes={}) for key in self.listed}

    def report_one(self, wms_id: str, history: float) -> WorkflowReport | None:
        self._answer("one")
        self.on_one()
        return None if wms_id in self.hidden else self.workflows.get(wms_id)

    def ping(self) -> None:
        self._answer("ping")

    def cancel(self, wms_id: str) -> str:
        self._answer("cancel")
        if wms_id not in self.workflows or wms_id in self.hidden or self.workflows[wms_id].state not in ALIVE:
            raise WmsError(f"the WMS did not cancel workflow {wms_id}: it has ended or is not known")
        if not self.deaf:
            self.set(wms_id, WmsState.CANCELLED)
        return "cancelled"

    def restart(self, wms_id: str) -> str:
        self._answer("restart")
        if self.workflows[wms_id].state in (*ALIVE, WmsState.SUCCEEDED):
            raise WmsError(f"the WMS did not restart workflow {wms_id}: nothing to restart")
        if self.restarts_as_new:
            return self.add(self.workflows[wms_id].name)
        self.set(wms_id, WmsState.RUNNING)
        if self.restart_breaks:
            raise WmsError("the WMS could not be asked: the connection broke", transient=True)
        return wms_id

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

    def submit(
        self,
        batch: Sequence[Prepared],
        *,
        pass_fds: Sequence[int] = (),
        meanwhile: Callable[[], object] = lambda: None,
    ) -> Iterator[SubmitResult]:
        self.locks = list(pass_fds)
        for one in batch:
            meanwhile()
            self.submissions[one.attempt.workflow] += 1
            yield (self.turns.pop(0) if self.turns else self.well)(one)

    def well(self, one: Prepared) -> SubmitResult:
        return _leave(one, "submitted", ok=True, wms_id=self.wms.add(one.attempt.workflow))

    def bad(self, one: Prepared) -> SubmitResult:
        """Nothing was sent."""
        return _leave(one, "failed", ok=False, error={"type": "RuntimeError", "message": "the pipeline is wrong"})

    def idle(self, one: Prepared) -> SubmitResult:
        """Nothing was sent, for there is nothing left to do."""
        return self._without_graph(one, _SKIPPED)

    def without_pipeline(self, one: Prepared) -> SubmitResult:
        """Nothing was sent, for there is no such pipeline."""
        error = "FileNotFoundError: [Errno 2] No such file or directory: '/nope/DRP.yaml'"
        return self._without_graph(one, f"Traceback (most recent call last):\n{error}\n")

    def _without_graph(self, one: Prepared, text: str) -> SubmitResult:
        one.paths.submit_dir.mkdir()
        (one.paths.submit_dir / "quantumGraphGeneration.out").write_text(text)
        return self.bad(one)

    def shaky(self, one: Prepared) -> SubmitResult:
        """Nothing was sent, and it may go well next time."""
        return _leave(one, "failed", ok=False, error={"type": "OperationalError", "message": "database is locked"})

    def lost(self, one: Prepared) -> SubmitResult:
        """It is not known whether anything was sent; nothing was."""
        return _leave(one, "sending", ok=None)

    def sent(self, one: Prepared) -> SubmitResult:
        """It is not known whether anything was sent; it was."""
        self.wms.add(one.attempt.workflow)
        return self.lost(one)

    def dies(self, one: Prepared) -> SubmitResult:
        """The process dies when the WMS has the workflow and before anybody knows its id."""
        self.sent(one)
        raise Killed


def _leave(one: Prepared, phase: str, **result: Any) -> SubmitResult:
    """Leave the files of a try that came so far, and say what they tell."""
    one.paths.submit_dir.mkdir(exist_ok=True)
    error = result.get("error")
    lines = ["Traceback (most recent call last):", f"{error['type']}: {error['message']}"] if error else []
    one.paths.log.write_text("\n".join(lines))
    one.paths.result.write_text(json.dumps({"phase": phase, "started": 0.0, **result}))
    told = read_result(one.attempt, one.paths.folder)
    assert told is not None
    return told
