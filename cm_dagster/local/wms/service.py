"""The plugin that BPS sees."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lsst.ctrl.bps import (
    BaseWmsService,
    BaseWmsWorkflow,
    BpsConfig,
    GenericWorkflow,
    WmsJobReport,
    WmsRunReport,
    WmsSpecificInfo,
    WmsStates,
)
from lsst.daf.butler import Config

from cm_dagster.local.wms import launch, store
from cm_dagster.local.wms.definition import Workflow
from cm_dagster.local.wms.process import send
from cm_dagster.local.wms.translate import translate

__all__ = ["LocalWmsService", "LocalWmsWorkflow"]

_DAY = 86400.0
_DEFAULTS = {"computeSite": "local", "finalJob": {"requestCpus": 1, "requestMemory": 2048}}
_UNKNOWN = "no such run: {}"


class LocalWmsWorkflow(BaseWmsWorkflow):  # type: ignore[misc]  # untyped library
    """A workflow in its submit directory.

    Parameters
    ----------
    workflow
        What is to be run.
    config
        BPS's configuration of the submission.
    folder
        The submit directory.
    """

    def __init__(self, workflow: Workflow, config: BpsConfig, folder: Path) -> None:
        super().__init__(workflow.name, config)
        self.workflow = workflow
        self.submit_path = str(folder)

    @classmethod
    def from_generic_workflow(
        cls, config: BpsConfig, generic_workflow: GenericWorkflow, out_prefix: str, service_class: str
    ) -> LocalWmsWorkflow:
        """Make one of BPS's generic workflow; see `lsst.ctrl.bps.BaseWmsWorkflow`."""
        folder = Path(out_prefix).resolve()
        self = cls(translate(config, generic_workflow, folder), config, folder)
        self.service_class = service_class
        return self

    def write(self, out_prefix: str) -> None:
        """Write the files that the run needs; see `lsst.ctrl.bps.BaseWmsWorkflow`."""
        self.workflow.write(Path(out_prefix))
        launch.keep_environment(Path(out_prefix))


class LocalWmsService(BaseWmsService):  # type: ignore[misc]  # untyped library
    """Runs workflows on this machine; methods are those of `lsst.ctrl.bps.BaseWmsService`."""

    @property
    def defaults(self) -> Config:
        """What BPS's own defaults, made for batch farms, are changed to."""
        return Config(_DEFAULTS)

    def prepare(
        self, config: BpsConfig, generic_workflow: GenericWorkflow, out_prefix: str | None = None
    ) -> LocalWmsWorkflow:
        """Write a workflow's files."""
        name = f"{type(self).__module__}.{type(self).__qualname__}"
        folder = out_prefix or config["submitPath"]
        workflow = LocalWmsWorkflow.from_generic_workflow(config, generic_workflow, folder, name)
        workflow.write(folder)
        return workflow

    def submit(self, workflow: LocalWmsWorkflow, **kwargs: Any) -> LocalWmsWorkflow:
        """Add a run and get it a runner; the run can be found as soon as it is added."""
        folder = Path(workflow.submit_path)
        with store.connect() as db:
            run_id = store.insert(db, workflow.workflow, folder, launch.pool_name(workflow.workflow.options))
            launch.begin(_get(db, run_id))
        workflow.run_id = run_id
        return workflow

    def restart(self, wms_workflow_id: int | str) -> tuple[str | None, str | None, str]:
        """Run again what did not succeed."""
        with store.connect() as db:
            launch.look_after(db)
            run = _find(db, wms_workflow_id)
            if run is None:
                return None, None, _UNKNOWN.format(wms_workflow_id)
            if run["state"] == "RUNNING":
                return None, None, f"run {run['run_id']} is still running"
            if run["state"] in store.ENDED and not store.restart(db, run["run_id"]):
                return None, None, "nothing to restart: all jobs succeeded"
            launch.begin(run)
        return str(run["run_id"]), run["name"], ""

    def list_submitted_jobs(
        self,
        wms_id: int | str | None = None,
        user: str | None = None,
        require_bps: bool = True,
        pass_thru: str | None = None,
        is_global: bool = False,
    ) -> list[str]:
        """List the ids of a run, or of all that have not ended."""
        with store.connect() as db:
            launch.look_after(db)
            if wms_id is not None:
                run = _find(db, wms_id)
                return [] if run is None else [str(run["run_id"])]
            return [str(run["run_id"]) for run in _runs(db, user, time.time() + _DAY)]

    def report(
        self,
        wms_workflow_id: int | str | None = None,
        user: str | None = None,
        hist: float | None = 0,
        pass_thru: str | None = None,
        is_global: bool = False,
        return_exit_codes: bool = False,
    ) -> tuple[list[WmsRunReport], str]:
        """Report on one run with its jobs, or on all of them with counts of jobs only."""
        with store.connect() as db:
            launch.look_after(db)
            if wms_workflow_id is None:
                runs = _runs(db, user, time.time() - float(hist or 0) * _DAY)
                return _reports(db, runs, return_exit_codes), ""
            run = _find(db, wms_workflow_id)
            if run is None:
                return [], ""
            reports = _reports(db, [run], return_exit_codes)
            reports[0].jobs = _jobs(db, run["run_id"])
            return reports, ""

    def get_status(self, wms_workflow_id: int | str, hist: float = 1, is_global: bool = False) -> tuple[WmsStates, str]:
        """Tell the state of a run."""
        with store.connect() as db:
            launch.look_after(db)
            run = _find(db, wms_workflow_id)
        if run is None:
            return WmsStates.UNKNOWN, _UNKNOWN.format(wms_workflow_id)
        return WmsStates[run["state"]], run["message"]

    def cancel(self, wms_id: int | str, pass_thru: str | None = None) -> tuple[bool, str]:
        """Have a run end; its jobs get a few seconds to do so."""
        with store.connect() as db:
            launch.look_after(db)
            run = _find(db, wms_id)
            if run is None:
                return False, _UNKNOWN.format(wms_id)
            if run["state"] in store.ENDED:
                return False, f"run already {run['state']}"
            db.execute("UPDATE run SET cancel = 1 WHERE run_id = ?", (run["run_id"],))
            if store.delete(db, run["run_id"], only_pending=True):
                return True, ""
            run = _get(db, run["run_id"])  # its runner may have begun meanwhile
            send(run["pid"], run["born"], signal.SIGTERM)
        return True, ""

    def run_submission_checks(self) -> None:
        """Refuse to submit where the state cannot be written."""
        status, message = self.ping(None)
        if status:
            raise RuntimeError(message)

    def ping(self, pass_thru: str | None) -> tuple[int, str]:
        """Tell whether the state can be written."""
        try:
            with store.connect() as db:
                launch.look_after(db)
                with store.transaction(db):
                    db.execute("SELECT count(*) FROM run").fetchone()
        except (OSError, sqlite3.Error) as error:
            return 1, f"the local WMS cannot use its state in {store.home_name()}: {error}"
        return 0, ""


def _get(db: sqlite3.Connection, run_id: int) -> sqlite3.Row:
    row: sqlite3.Row = db.execute("SELECT * FROM run WHERE run_id = ?", (run_id,)).fetchone()
    return row


def _find(db: sqlite3.Connection, key: int | str) -> sqlite3.Row | None:
    """Find a run by its number or its submit directory (then the latest)."""
    if str(key).isdigit():
        return _get(db, int(key))
    path = str(Path(str(key)).resolve())
    rows = db.execute("SELECT * FROM run WHERE submit_path = ? ORDER BY run_id DESC LIMIT 1", (path,)).fetchall()
    return rows[0] if rows else None


def _runs(db: sqlite3.Connection, user: str | None, since: float) -> list[sqlite3.Row]:
    """List runs that have not ended, or ended since then, in the order of their submission."""
    who = "" if user is None else " AND operator = :user"
    return db.execute(
        f"SELECT * FROM run WHERE (state IN ('PENDING', 'RUNNING') OR ended >= :since){who} ORDER BY run_id",
        {"user": user, "since": since},
    ).fetchall()


def _jobs(db: sqlite3.Connection, run_id: int) -> list[WmsJobReport]:
    rows = db.execute("SELECT seq, name, label, state FROM job WHERE run_id = ? ORDER BY seq", (run_id,))
    return [WmsJobReport(f"{run_id}.{row['seq']}", row["name"], row["label"], WmsStates[row["state"]]) for row in rows]


def _reports(db: sqlite3.Connection, runs: Sequence[sqlite3.Row], exit_codes: bool) -> list[WmsRunReport]:
    """Report on runs: two queries, however many there are."""
    chosen = (json.dumps([run["run_id"] for run in runs]),)
    summaries: dict[int, dict[str, dict[WmsStates, int]]] = defaultdict(dict)
    for row in db.execute(
        "SELECT run_id, label, state, count(*) AS n FROM job WHERE run_id IN (SELECT value FROM json_each(?)) "
        "GROUP BY run_id, label, state",
        chosen,
    ):
        counts = summaries[row["run_id"]].setdefault(row["label"], dict.fromkeys(WmsStates, 0))
        counts[WmsStates[row["state"]]] = row["n"]
    codes: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    if exit_codes:
        for row in db.execute(
            "SELECT run_id, label, exit_code FROM job WHERE state = 'FAILED' AND exit_code IS NOT NULL "
            "AND run_id IN (SELECT value FROM json_each(?))",
            chosen,
        ):
            codes[row["run_id"]][row["label"]].append(row["exit_code"])
    return [_report(run, summaries[run["run_id"]], codes[run["run_id"]] if exit_codes else None) for run in runs]


def _report(
    run: sqlite3.Row, summary: dict[str, dict[WmsStates, int]], codes: dict[str, list[int]] | None
) -> WmsRunReport:
    run_id = str(run["run_id"])
    attributes = json.loads(run["attributes"])
    labels = [item.partition(":")[0] for item in run["summary"].split(";")]
    ordered = {label: summary[label] for label in sorted(summary, key=lambda name: _place(labels, name))}
    counts = {state: sum(of[state] for of in ordered.values()) for state in WmsStates}
    info = WmsSpecificInfo()
    if run["message"]:
        info.add_message("{message}", message=run["message"])
    return WmsRunReport(
        wms_id=run_id,
        global_wms_id=run_id,
        path=run["submit_path"],
        label=run["name"],
        run=attributes.get("bps_run", run["name"]),
        project=attributes.get("bps_project", ""),
        campaign=attributes.get("bps_campaign", ""),
        payload=attributes.get("bps_payload", ""),
        operator=run["operator"],
        site=attributes.get("bps_runsite", ""),
        run_summary=run["summary"],
        state=WmsStates[run["state"]],
        total_number_jobs=sum(counts.values()),
        job_state_counts=counts,
        job_summary=ordered,
        exit_code_summary=None if codes is None else {label: codes.get(label, []) for label in ordered},
        specific_info=info,
    )


def _place(labels: list[str], label: str) -> int:
    return labels.index(label) if label in labels else len(labels)
