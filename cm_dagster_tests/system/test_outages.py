"""Servers that die and a WMS that does not answer: nothing is lost, done twice, or called failed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cm_dagster.local.wms import store
from cm_dagster.local.wms.process import end_session
from cm_dagster_tests.system.rig import CODE, SITE, TICKS, Case, Rig, wait_for

_SLEEP_ONCE = {"task": "isr", "where": "exposure=1", "action": "sleep", "seconds": 3600, "times": 1}


def test_campaign_survives_the_death_of_its_servers(rig: Rig) -> None:
    """Each server is killed, with all that it has started, at the worst moments, and started again."""
    case = rig.campaign("mortal", visits=[1, 2, 3], steps=["step1", "step2"])
    case.start()
    _soon("attempts that are requested", lambda: bool(case.runs()))
    rig.kill("daemon")
    rig.kill("web")
    rig.revive("daemon", "web")
    _soon("a submission under way", lambda: _submitting(case))
    rig.kill(CODE)  # and with it the process that submits
    rig.revive(CODE)
    _soon("a workflow at the WMS", lambda: bool(case.submitted()))
    rig.kill("daemon")
    wait_for("the end of all workflows", lambda: _ended(case) == 3 or not _all_there(case))
    rig.revive("daemon")
    _soon("the second step", lambda: bool(case.runs("step2")))
    rig.kill("web")
    rig.kill(CODE)
    rig.kill("daemon")
    rig.revive(CODE, "web", "daemon")
    case.wait_until_done()
    assert case.submitted() == {"g0000.a01": 1, "g0001.a01": 1, "g0002.a01": 1}
    assert case.submitted("step2") == {"g0000.a01": 1}
    assert [run.status for run in (*case.runs(), *case.runs("step2"))] == ["SUCCESS"] * 4


@contextmanager
def _second_daemon(rig: Rig) -> Iterator[None]:
    """Have two daemons run at once; Dagster only warns of it."""
    running = rig.servers.running
    first = running.pop("daemon")
    rig.servers.start("daemon")
    try:
        yield
    finally:
        rig.servers.stop("daemon")
        running["daemon"] = first


def test_a_second_daemon_does_no_harm(rig: Rig) -> None:
    case = rig.campaign("doubled", visits=[1, 2, 3], steps=["step1", "step2"])
    with _second_daemon(rig):
        case.start()
        case.wait_until_done()
    assert case.submitted() == {"g0000.a01": 1, "g0001.a01": 1, "g0002.a01": 1}
    assert case.submitted("step2") == {"g0000.a01": 1}
    assert sorted(run.status for run in case.runs() if run.status != "CANCELED") == ["SUCCESS"] * 3


def _soon(what: str, look: Callable[[], bool]) -> None:
    """Wait for a moment that is over soon."""
    wait_for(what, look, every=0.1)


def _submitting(case: Case) -> bool:
    """Whether a claim is made of which no workflow is recorded."""
    claims = case.rig.deployment.submit_area(SITE) / case.name / "step1" / "g0000" / "claims"
    return (claims / "a01").exists() and not (claims / "a01.json").exists()


def _ended(case: Case) -> int:
    ended = (report for report in case.rig.workflows() if report.state in ("succeeded", "failed", "cancelled"))
    return sum(report.name.startswith(f"{case.name}.step1.") for report in ended)


def _all_there(case: Case) -> bool:
    return case.submitted().total() == 3


@contextmanager
def _wms_away(rig: Rig) -> Iterator[None]:
    """Have the WMS not answer: where its state was, there is something else."""
    home = rig.deployment.wms_home(SITE)
    away = home.with_name("away")
    home.rename(away)
    home.touch()
    try:
        yield
    finally:
        home.unlink()
        away.rename(home)


def test_wms_that_does_not_answer_fails_nothing(rig: Rig) -> None:
    case = rig.campaign("deaf", visits=[1, 2], faults=[_SLEEP_ONCE])
    case.make_groups()
    first = case.launch("g0000").run_id
    case.wait_until_running(first)
    with _wms_away(rig):
        wait_for("the unknown group", lambda: case.count() == {"unknown": 1, "planned": 1})
        second = case.launch("g0001").run_id
        time.sleep(TICKS)
        (step,) = json.loads(rig.program("cm", "status", case.name, "--json"))["steps"]
        assert {state: n for state, n in step["groups"].items() if n} == {"total": 2, "unknown": 1, "queued": 1}
        assert "has not answered since" in step["reason"]
        assert [rig.ui.run(run_id).status for run_id in (first, second)] == ["STARTED", "QUEUED"]
    _end_sleep(case)
    for run_id in (first, second):
        assert case.wait_until(run_id, "SUCCESS").tags["cm/attempt"] == "1"
    assert case.submitted() == {"g0000.a01": 1, "g0001.a01": 1}


def _end_sleep(case: Case) -> None:
    """Kill the job that sleeps; the WMS tries it again."""
    query = "SELECT job.pid, job.born FROM job JOIN run USING(run_id) WHERE job.state = 'RUNNING' AND run.name = ?"
    with store.connect() as db:
        for row in db.execute(query, (f"{case.name}.step1.local.g0000.a01",)).fetchall():
            end_session(row["pid"], row["born"])
