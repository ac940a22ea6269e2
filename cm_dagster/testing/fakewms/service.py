"""The BPS plugin of the fake WMS, and what it tells in BPS's words."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lsst.ctrl.bps import (
    BaseWmsService,
    BaseWmsWorkflow,
    BpsConfig,
    GenericWorkflow,
    WmsJobReport,
    WmsRunReport,
    WmsStates,
)

from cm_dagster.testing.fakewms.store import ENDED, HOME, FakeWms, Workflow

__all__ = ["FakeWmsService", "FakeWmsWorkflow"]

_DAY = 86400.0
_STATES = dict(WmsStates.__members__)


class FakeWmsWorkflow(BaseWmsWorkflow):  # type: ignore[misc]  # untyped library
    """A workflow that nobody will run.

    Parameters
    ----------
    config
        BPS's configuration of the submission.
    workflow
        BPS's workflow.
    submit_path
        Its submit directory.
    """

    def __init__(self, config: BpsConfig, workflow: GenericWorkflow, submit_path: str) -> None:
        super().__init__(workflow.name, config)
        self.jobs = {label: int(count) for label, count in workflow.job_counts.items()}
        self.submit_path = submit_path

    @classmethod
    def from_generic_workflow(
        cls, config: BpsConfig, generic_workflow: GenericWorkflow, out_prefix: str, service_class: str
    ) -> FakeWmsWorkflow:
        """Make one of BPS's generic workflow; see `lsst.ctrl.bps.BaseWmsWorkflow`."""
        self = cls(config, generic_workflow, str(Path(out_prefix).resolve()))
        self.service_class = service_class
        return self

    def write(self, out_prefix: str) -> None:
        """Write nothing, since nothing will run."""


class FakeWmsService(BaseWmsService):  # type: ignore[misc]  # untyped library
    """The plugin; its WMS is that of ``$CM_FAKE_WMS_HOME``, and methods are those of `lsst.ctrl.bps.BaseWmsService`."""

    @property
    def _wms(self) -> FakeWms:
        return FakeWms(Path(os.environ[HOME]))

    def prepare(
        self, config: BpsConfig, generic_workflow: GenericWorkflow, out_prefix: str | None = None
    ) -> FakeWmsWorkflow:
        """Make a workflow, and fail if that is to happen before anything is sent."""
        self._wms.check(generic_workflow.name)
        name = f"{type(self).__module__}.{type(self).__qualname__}"
        folder = out_prefix or config["submitPath"]
        return FakeWmsWorkflow.from_generic_workflow(config, generic_workflow, folder, name)

    def submit(self, workflow: FakeWmsWorkflow, **kwargs: Any) -> FakeWmsWorkflow:
        """Submit a workflow."""
        config = workflow.config
        run, user = (str(config.search(key, opt={"default": ""})[1]) for key in ("outputRun", "operator"))
        workflow.run_id = self._wms.submit(workflow.name, workflow.submit_path, run=run, user=user, jobs=workflow.jobs)
        return workflow

    def restart(self, wms_workflow_id: int | str) -> tuple[str | None, str | None, str]:
        """Let a workflow that was stopped begin again."""
        return self._wms.restart(str(wms_workflow_id))

    def list_submitted_jobs(
        self,
        wms_id: int | str | None = None,
        user: str | None = None,
        require_bps: bool = True,
        pass_thru: str | None = None,
        is_global: bool = False,
    ) -> list[str]:
        """List the ids of a workflow, or of all that have not ended."""
        if wms_id is not None:
            found = self._wms.one(str(wms_id))
            return [found.wms_id] if found else []
        return [each.wms_id for each in self._wms.list() if _is_of(each, user) and each.state not in ENDED]

    def report(
        self,
        wms_workflow_id: int | str | None = None,
        user: str | None = None,
        hist: float | None = 0,
        pass_thru: str | None = None,
        is_global: bool = False,
        return_exit_codes: bool = False,
    ) -> tuple[list[WmsRunReport], str]:
        """Report on one workflow with its jobs, or on all of them with counts of jobs only."""
        if wms_workflow_id is None:
            since = time.time() - float(hist or 0) * _DAY
            found = [each for each in self._wms.list() if _is_of(each, user) and (each.ended or since) >= since]
            return [_report(each, return_exit_codes) for each in found], ""
        one = self._wms.one(str(wms_workflow_id))
        if one is None:
            return [], ""
        report = _report(one, return_exit_codes)
        report.jobs = _jobs(one)
        return [report], ""

    def get_status(
        self, wms_workflow_id: int | str, hist: float = 1, is_global: bool = False
    ) -> tuple[WmsStates | str, str]:
        """Tell the state of a workflow."""
        found = self._wms.one(str(wms_workflow_id))
        return (WmsStates.UNKNOWN, f"no such run: {wms_workflow_id}") if found is None else (_state(found.state), "")

    def cancel(self, wms_id: int | str, pass_thru: str | None = None) -> tuple[bool, str]:
        """Cancel a workflow."""
        return self._wms.cancel(str(wms_id))

    def run_submission_checks(self) -> None:
        """Refuse nothing."""

    def ping(self, pass_thru: str | None) -> tuple[int, str]:
        """Tell whether the WMS answers."""
        try:
            self._wms.ping()
        except Exception as error:  # whatever a fault says
            return 1, str(error)
        return 0, ""


def _is_of(workflow: Workflow, user: str | None) -> bool:
    return user is None or workflow.user in ("", user)


def _state(word: str) -> WmsStates | str:
    """Translate a state; a word that BPS does not have is handed on as it is, as a faulty plugin would do."""
    return _STATES.get(word, word)


def _counts(workflow: Workflow) -> Mapping[str, dict[WmsStates | str, int]]:
    """Count jobs by label: all are in the state of the workflow. States without jobs are left out: it is faster."""
    state = _state(workflow.state)
    return {label: {state: count} for label, count in workflow.jobs.items()}


def _jobs(workflow: Workflow) -> list[WmsJobReport]:
    names = [(label, f"{label}_{number}") for label, count in workflow.jobs.items() for number in range(count)]
    state = _state(workflow.state)
    return [WmsJobReport(f"{workflow.wms_id}.{n}", name, label, state) for n, (label, name) in enumerate(names)]


def _report(workflow: Workflow, exit_codes: bool) -> WmsRunReport:
    total = sum(workflow.jobs.values())
    failed = workflow.state == "FAILED"
    return WmsRunReport(
        wms_id=workflow.wms_id,
        global_wms_id=workflow.wms_id,
        path=workflow.submit_dir,
        label=workflow.name,
        run=workflow.name,
        operator=workflow.user,
        run_summary=";".join(f"{label}:{count}" for label, count in workflow.jobs.items()),
        state=_state(workflow.state),
        total_number_jobs=total,
        job_state_counts={_state(workflow.state): total},
        job_summary=_counts(workflow),
        exit_code_summary={label: [1] * count if failed else [] for label, count in workflow.jobs.items()}
        if exit_codes
        else None,
    )
