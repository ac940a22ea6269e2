"""Campaigns that nobody touches: the dispatcher's attempts, faults of quanta, groups that end unequally."""

from __future__ import annotations

import time
from pathlib import Path

from lsst.daf.butler import Butler

from cm_dagster.ledger.campaigns import UNPLANNED
from cm_dagster.local.servers import code_server
from cm_dagster_tests.bench.processes import command, tree
from cm_dagster_tests.system.background import Unattended
from cm_dagster_tests.system.rig import MONITORING, SITE, TICKS, Case, wait_for


def test_campaign_created_while_the_servers_run_goes_to_its_end(unattended: Unattended) -> None:
    auto = unattended.auto
    auto.wait_until_done()
    assert {auto.key(), auto.key("step2", "collected")} <= auto.rig.ui.assets()
    assert auto.submitted() == {"g0000.a01": 1, "g0001.a01": 1, "g0002.a01": 1}
    assert auto.submitted("step2") == {"g0000.a01": 1}
    with Butler.from_config(str(auto.rig.survey.root)) as butler:
        found = butler.query_datasets("visitSummary", collections=f"u/test/{auto.name}")
    assert sorted(int(ref.dataId["visit"]) for ref in found) == [1, 2, 3]


def test_dispatcher_makes_the_same_attempts_as_a_person(unattended: Unattended) -> None:
    auto = unattended.auto
    auto.wait_until_done()
    for group in ("g0000", "g0001", "g0002"):
        (attempt,) = auto.attempts(group)
        assert (attempt.status, attempt.tags["cm/attempt"], attempt.tags["cm/by"]) == ("SUCCESS", "1", "dispatch")
        found = auto.rig.ui.materialization(auto.key(), group)
        assert found is not None
        assert found["workflow"] == attempt.tags["cm/wms_id"]
    assert auto.partitions().materialized == {"g0000", "g0001", "g0002"}


def test_runs_begin_as_forks_and_not_as_new_programs(unattended: Unattended) -> None:
    auto = unattended.auto
    auto.wait_until_done()
    server = auto.rig.servers.running[code_server(SITE)].pid
    # Loading another campaign starts the process anew that makes the forks: with the next run.
    wait_for("a run", lambda: any(b"multiprocessing.forkserver" in command(pid) for pid in tree(server)))
    assert not [pid for pid in tree(server) if b"multiprocessing.spawn" in command(pid)]


def test_quantum_that_fails_once_is_tried_again_by_the_wms(unattended: Unattended) -> None:
    auto = unattended.auto
    auto.wait_until_done()
    (counter,) = Path(f"{auto.faults_file}.state").iterdir()
    assert counter.read_text() == "2"
    assert len(auto.attempts("g0000")) == 1


def _ends(uneven: Case) -> list[str]:
    """Wait until one group is accepted, one has failed and one is at work, and give the runs of their attempts."""
    wanted = {"accepted": 1, "failed": 1, "running": 1}
    wait_for("three unequal groups", lambda: uneven.count() == wanted)
    return [uneven.attempts(group)[0].run_id for group in ("g0000", "g0001", "g0002")]


def test_group_that_fails_is_shown_with_its_cause(unattended: Unattended) -> None:
    uneven = unattended.uneven
    _, failed, _ = _ends(uneven)
    run = uneven.wait_until(failed, "FAILURE")
    assert "calibrateImage: 1 of 1 quanta failed (1 x ValueError): no stars at all" in uneven.end_message(run)
    shown = uneven.partitions()
    assert shown.failed == {"g0001"}
    assert shown.materialized == {"g0000"}
    assert shown.materializing == {"g0002"}


def test_next_step_waits_for_all_groups(unattended: Unattended) -> None:
    uneven = unattended.uneven
    _ends(uneven)
    time.sleep(TICKS)
    assert [str(step.state) for step in uneven.view().steps] == ["running", "waiting"]
    ui = uneven.rig.ui
    assert ui.materialization(uneven.key("step2", "inputs")) is None
    assert uneven.partitions("step2").unmaterialized == {UNPLANNED}
    assert not [run for run in ui.runs({"cm/kind": "advance"}) if _makes(uneven, run.run_id, "step2")]
    assert not uneven.runs("step2")


def test_step_that_is_not_planned_takes_no_launch(unattended: Unattended) -> None:
    uneven = unattended.uneven
    _ends(uneven)
    run = uneven.wait_until(uneven.launch(UNPLANNED, "step2").run_id, "CANCELED")
    assert f"{UNPLANNED!r} is no group" in uneven.end_message(run)
    assert not uneven.runs("step2")


def _makes(case: Case, run_id: str, step: str) -> bool:
    run = case.rig.instance.get_run_by_id(run_id)
    assert run is not None
    return any(tuple(key.path[:2]) == (case.name, step) for key in run.asset_selection or ())


def test_run_monitoring_and_a_reload_leave_attempts_alone(unattended: Unattended) -> None:
    uneven = unattended.uneven
    *_, running = _ends(uneven)
    record = uneven.rig.instance.get_run_record_by_id(running)
    assert record is not None
    assert record.start_time is not None
    uneven.rig.ui.reload()
    time.sleep(max(0.0, record.start_time + 10 * MONITORING - time.time()))
    assert uneven.rig.ui.run(running).status == "STARTED"
    assert {group: len(uneven.attempts(group)) for group in ("g0000", "g0001", "g0002")} == {
        "g0000": 1,
        "g0001": 1,
        "g0002": 1,
    }


def test_final_job_that_did_not_run_is_run_again(unattended: Unattended) -> None:
    """The WMS calls the workflow failed, and rightly; but its quanta are done, so nothing is processed again."""
    case = unattended.unregistered
    case.wait_until_done()
    (attempt,) = case.attempts("g0000")
    assert len(unattended.killer.killed) == 3
    assert case.workflow(attempt.tags["cm/wms_id"]).state == "failed"
    assert attempt.status == "SUCCESS"
    assert attempt.tags["cm/finalized"] == "1"
    assert case.submitted() == {"g0000.a01": 1}
    found = case.rig.ui.materialization(case.key(), "g0000")
    assert found is not None
    assert found["quanta registered"] == found["quanta expected"] == 2
    notes = case.rig.ui.messages(attempt.run_id, "EngineEvent")
    assert any("its final job did not (fully) run; it is run again" in note for note in notes)
