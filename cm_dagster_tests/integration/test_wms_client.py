"""Asking and commanding a real WMS through its BPS plugin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cm_dagster.errors import WmsError
from cm_dagster.local.survey import Survey
from cm_dagster.services.submitter import SubmitOutcome
from cm_dagster.services.wms import WmsClient, WmsState
from cm_dagster_tests.integration.bps_bench import VISITS, WMS, Bench, open_bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, hsc_template: Survey) -> Iterator[Bench]:
    with open_bench(tmp_path_factory.mktemp("wms"), hsc_template) as bench:
        yield bench


def test_cancel_of_a_running_workflow(bench: Bench) -> None:
    bench.client.ping()
    bench.strike({"action": "sleep", "seconds": 60, "task": "isr"})
    result = bench.submit(bench.prepare(0, VISITS[:1]))["g0000"]
    assert result.outcome is SubmitOutcome.SUBMITTED
    assert result.wms_id is not None
    bench.wait(result.wms_id, WmsState.RUNNING)
    listed = bench.client.report_all(history=1)[result.wms_id]
    assert listed.name == "camp.step1.here.g0000.a01"
    assert set(listed.tasks) == {"pipetaskInit", "isr", "calibrateImage", "finalJob"}
    assert listed.jobs.get(WmsState.SUCCEEDED, 0) <= 1
    bench.client.cancel(result.wms_id)
    assert bench.wait(result.wms_id).state is WmsState.CANCELLED
    with pytest.raises(WmsError) as caught:
        bench.client.cancel(result.wms_id)
    assert not caught.value.transient


def test_restart_runs_failed_jobs_again(bench: Bench) -> None:
    bench.strike({"action": "raise", "task": "isr", "times": 1})
    result, report = bench.run(bench.prepare(1, VISITS[:1]))
    assert result.wms_id is not None
    assert report.state is WmsState.FAILED
    assert report.tasks["calibrateImage"] == {WmsState.BLOCKED: sum(report.tasks["calibrateImage"].values())}
    assert report.exit_codes["isr"] == (1,) * report.tasks["isr"][WmsState.FAILED]
    again = bench.client.restart(result.wms_id)
    assert bench.wait(again).state is WmsState.SUCCEEDED
    with pytest.raises(WmsError, match="did not restart"):
        bench.client.restart(again)


def test_workflow_that_is_not_known(bench: Bench) -> None:
    assert bench.client.report_one("99999", history=1) is None
    for command in (bench.client.cancel, bench.client.restart):
        with pytest.raises(WmsError):
            command("99999")


def test_others_are_not_listed(bench: Bench) -> None:
    assert WmsClient(WMS, user="nobody").report_all(history=1) == {}


def test_wms_that_cannot_be_asked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (bench.root / "file").touch()
    monkeypatch.setenv("CM_LOCAL_WMS_HOME", str(bench.root / "file" / "wms"))
    broken = WmsClient(WMS)
    with pytest.raises(WmsError) as caught:
        broken.find(["camp.step1.here.g0000.a01"], history=1)
    assert caught.value.transient


def test_parsl_cannot_report() -> None:
    with pytest.raises(WmsError, match="ParslService cannot report") as caught:
        WmsClient("lsst.ctrl.bps.parsl.ParslService").report_all(history=1)
    assert not caught.value.transient
