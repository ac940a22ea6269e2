"""The plain ``bps`` commands with the local WMS, and with Parsl, on the survey and the mini pipeline."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from lsst.ctrl.bps import WmsStates
from lsst.daf.butler import Butler

from cm_dagster.local.minidrp import PIPELINE
from cm_dagster.local.minidrp.faults import FAULTS
from cm_dagster.local.survey import Survey
from cm_dagster.local.wms import LocalWmsService
from cm_dagster.local.wms.process import clean_environment

LOCAL = "cm_dagster.local.wms.LocalWmsService"


def bps(*words: str, cwd: Path, service: str = LOCAL) -> subprocess.CompletedProcess[str]:
    scripts = Path(sys.executable).parent
    environment = clean_environment(os.environ) | {
        "BPS_WMS_SERVICE_CLASS": service,
        "PATH": f"{scripts}:{os.environ['PATH']}",
    }
    return subprocess.run(
        [scripts / "bps", *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def configuration(folder: Path, survey: Survey, name: str, where: str, **more: Any) -> str:
    document: dict[str, Any] = {
        "project": "cm",
        "campaign": "test",
        "operator": "tester",
        "pipelineYaml": f"{PIPELINE}#step1",
        "submitPath": str(folder / name),
        "uniqProcName": name,
        "payload": {
            "payloadName": name,
            "butlerConfig": str(survey.root),
            "inCollection": survey.defaults,
            "output": f"u/{name}",
            "outputRun": f"u/{name}/run",
            "dataQuery": f"{survey.where} AND ({where})",
        },
        "qgraphPreCmdOpts": "--log-level=INFO",
        "defaultPreCmdOpts": "--log-level=INFO",
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document | more))
    return str(path)


def wait(run_id: str, cwd: Path) -> str:
    """Wait until the run ends, and ask ``bps status`` then, whose exit code is the state."""
    service = LocalWmsService({})
    while (state := service.get_status(run_id)[0]) in (WmsStates.PENDING, WmsStates.RUNNING):
        time.sleep(0.1)
    assert bps("status", "--id", run_id, cwd=cwd).returncode == state.value
    return str(state.name)


def rows(report: str) -> dict[str, dict[str, int]]:
    """Read the table of jobs by label that ``bps report --id`` prints."""
    lines = [line.split() for line in report.splitlines()]
    header = next(line for line in lines if line[:2] == ["UNKNOWN", "MISFIT"])
    return {
        line[0]: dict(zip(header, map(int, line[1:]), strict=True))
        for line in lines
        if len(line) == len(header) + 1 and line[1].isdigit()
    }


def test_submit_retry_fail_restart_and_register(
    hsc_repo: Survey, local_wms_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = tmp_path / "faults.json"
    once = {"task": "isr", "where": "exposure=903334 AND detector=16", "action": "raise", "times": 1}
    always = {"task": "calibrateImage", "where": "visit=903334 AND detector=22", "action": "exit", "code": 42}
    faults.write_text(json.dumps([once, always]))
    monkeypatch.setenv(FAULTS, str(faults))
    where = "visit IN (903334, 903336) AND detector IN (16, 17, 22, 23)"
    site = {"local": {"cores": 2, "warm": True, "preload": "cm_dagster.local.minidrp.tasks"}}
    config = configuration(tmp_path, hsc_repo, "w1", where, site=site, numberOfRetries=1, retryUnlessExit=2)

    submitted = bps("submit", config, cwd=tmp_path)
    assert submitted.returncode == 0, submitted.stderr
    run_id = re.search(r"^Run Id: (\d+)$", submitted.stdout, re.MULTILINE)
    assert run_id is not None
    assert "Run Name: w1" in submitted.stdout
    assert wait(run_id[1], tmp_path) == "FAILED"

    report = bps("report", "--id", run_id[1], "--return-exit-codes", cwd=tmp_path)
    table = rows(report.stdout)
    assert table["isr"]["SUCCEEDED"] == table["isr"]["EXPECTED"] == 4
    assert table["calibrateImage"]["SUCCEEDED"] == 3
    assert table["calibrateImage"]["FAILED"] == 1
    assert table["finalJob"]["SUCCEEDED"] == 1
    assert re.search(r"calibrateImage\s.*\b42\b", report.stdout)
    assert "w1" in bps("report", "--hist", "1", cwd=tmp_path).stdout
    assert count(hsc_repo, "calexp", "u/w1") == 3  # the final job ran, and registered what there is

    faults.write_text("[]")
    restarted = bps("restart", "--id", run_id[1], cwd=tmp_path)
    assert f"Run Id: {run_id[1]}" in restarted.stdout
    assert wait(run_id[1], tmp_path) == "SUCCEEDED"
    assert count(hsc_repo, "calexp", "u/w1") == 4
    assert len(list((tmp_path / "w1/logs/isr").rglob("*_16.*.err"))) == 2  # only what failed was done twice
    assert "Restart failed: nothing to restart" in bps("restart", "--id", run_id[1], cwd=tmp_path).stdout


def count(survey: Survey, dataset_type: str, collection: str) -> int:
    with Butler.from_config(str(survey.root)) as butler:
        return len(butler.query_datasets(dataset_type, collection, explain=False))


def test_cancel_and_ping(
    hsc_repo: Survey, local_wms_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = tmp_path / "faults.json"
    faults.write_text(json.dumps([{"action": "sleep", "seconds": 600}]))
    monkeypatch.setenv(FAULTS, str(faults))
    assert bps("ping", cwd=tmp_path).returncode == 0
    config = configuration(tmp_path, hsc_repo, "w2", "visit = 903334", site={"local": {"cores": 2, "warm": False}})
    assert bps("submit", config, cwd=tmp_path).returncode == 0
    assert "Successfully canceled job with id '1'" in bps("cancel", "--id", "1", cwd=tmp_path).stdout
    assert wait("1", tmp_path) == "DELETED"
    assert "run already DELETED" in bps("cancel", "--id", "1", cwd=tmp_path).stdout
    (local_wms_home / "wms.sqlite").write_bytes(b"not a database" * 1000)
    ping = bps("ping", cwd=tmp_path)
    assert ping.returncode == 1
    assert "file is not a database" in ping.stderr
    (local_wms_home / "wms.sqlite").unlink()


def test_parsl_runs_the_same_workflow(hsc_repo: Survey, tmp_path: Path) -> None:
    service = "lsst.ctrl.bps.parsl.ParslService"
    site = {"local": {"class": "lsst.ctrl.bps.parsl.sites.Local", "cores": 2}}
    more = {"wmsServiceClass": service, "computeSite": "local", "site": site, "finalJob": {"requestCpus": 1}}
    config = configuration(tmp_path, hsc_repo, "w3", "visit = 903334 AND detector = 16", **more)
    submitted = bps("submit", config, cwd=tmp_path, service=service)
    assert submitted.returncode == 0, submitted.stderr
    assert count(hsc_repo, "calexp", "u/w3") == 1
