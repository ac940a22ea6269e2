"""Terminate, and the cancellation of a backfill, cancel workflows; what a person stopped goes on by a person only."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from cm_dagster_tests.system.rig import TICKS, Case, Rig, wait_for

_SLEEP = {"task": "isr", "action": "sleep", "seconds": 3600}
_GROUPS = ["g0000", "g0001", "g0002", "g0003"]
_QUEUED = {"g0000": False, "g0001": True}
_STARTED = {"g0002": False, "g0003": True}
"""Groups terminated while queued and while their workflow ran; whether by force."""


@dataclass(frozen=True)
class Stops:
    """Campaigns of which everything was terminated."""

    case: Case
    """It is started, so that the dispatcher would go on with it."""
    called_off: Case
    """Its attempts belong to a backfill that was cancelled."""
    backfill: str


@pytest.fixture(scope="module")
def stops(rig: Rig) -> Stops:
    called_off = rig.campaign("calledoff", visits=[1, 2], faults=[_SLEEP])
    case = rig.campaign("stops", visits=[1, 2, 3, 4], faults=[_SLEEP])
    called_off.make_groups()
    backfill = rig.ui.backfill([called_off.key()], ["g0000", "g0001"])  # it goes on while we are at the other
    with rig.without_sensor("submit_local"):
        case.start()
        wait_for("queued attempts", lambda: case.count() == {"queued": 4})
        _terminate(case, _QUEUED)
        assert case.partitions().materializing == set(_STARTED)
    for group in _STARTED:
        case.wait_until_running(case.attempts(group)[0].run_id)
    _terminate(case, _STARTED)
    for group in ("g0000", "g0001"):
        called_off.wait_until_running(called_off.first_attempt(group).run_id)
    rig.ui.cancel_backfill(backfill)
    return Stops(case, called_off, backfill)


def _terminate(case: Case, groups: dict[str, bool]) -> None:
    for group, force in groups.items():
        case.rig.ui.terminate(case.attempts(group)[0].run_id, force=force)
    for group in groups:
        case.wait_until(case.attempts(group)[0].run_id, "CANCELED")


@pytest.mark.parametrize("group", list(_STARTED), ids=["safe", "force"])
def test_terminate_cancels_the_workflow(stops: Stops, group: str) -> None:
    case = stops.case
    attempt = case.attempts(group)[0]
    case.wait_until_cancelled(attempt.tags["cm/wms_id"])
    assert attempt.status == "CANCELED"
    assert group not in case.partitions().materializing


@pytest.mark.parametrize("group", list(_QUEUED), ids=["safe", "force"])
def test_terminated_while_queued_is_never_submitted(stops: Stops, group: str) -> None:
    assert stops.case.attempts(group)[0].status == "CANCELED"
    assert not stops.case.submitted()[f"{group}.a01"]
    assert group not in stops.case.partitions().materializing


def test_held_until_a_person_goes_on(stops: Stops) -> None:
    """One test, since the groups are held until somebody launches them."""
    case = stops.case
    time.sleep(TICKS)
    assert case.count() == {"held": 4}
    assert {group: len(case.attempts(group)) for group in _GROUPS} == dict.fromkeys(_GROUPS, 1)
    case.set_faults([])
    again = {
        "g0000": case.launch("g0000").run_id,
        "g0002": case.rig.ui.reexecute(case.attempts("g0002")[0].run_id).run_id,
        "g0003": case.launch("g0003").run_id,
    }
    for group, run_id in again.items():
        assert case.wait_until(run_id, "SUCCESS").tags["cm/attempt"] == "2"
        assert case.submitted()[f"{group}.a02"] == 1
    assert case.partitions().materialized == set(again)


def test_cancelled_backfill_cancels_its_attempts(stops: Stops) -> None:
    case, ui = stops.called_off, stops.called_off.rig.ui
    for group in ("g0000", "g0001"):
        attempt = case.wait_until(case.attempts(group)[0].run_id, "CANCELED")
        case.wait_until_cancelled(attempt.tags["cm/wms_id"])
    wait_for("end of the backfill", lambda: ui.backfill_status(stops.backfill).status == "CANCELED")
    assert not case.partitions().materializing
    assert case.submitted() == {"g0000.a01": 1, "g0001.a01": 1}
