"""Dagster gives up a backfill, or a run takes too long for it: the workflows go on, and only a person cancels them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from cm_dagster_tests.system.rig import Case, Rig, wait_for

_HOLD = {"task": "isr", "action": "wait"}
_CANCEL = "to cancel its workflow, terminate its run"
_RUNNING, _STOPPED = "g0000", "g0001"
_WAITING, _FORCED = "g0002", "g0003"
_LONG = "g0004"


@dataclass(frozen=True)
class GivenUp:
    """A campaign with two backfills that Dagster gave up: a partition of each was deleted."""

    case: Case
    begun: str
    """Its workflows ran when it failed; `_STOPPED` was terminated then."""
    waiting: str
    """Its attempts waited when it failed; `_FORCED` was terminated by force then."""
    seen: dict[str, str]
    """State of each group after Dagster has tried to end the backfills."""


@pytest.fixture(scope="module")
def given_up(rig: Rig) -> GivenUp:
    case = rig.campaign("givenup", visits=range(1, 6), faults=[_HOLD])
    case.make_groups()
    begun = rig.ui.backfill([case.key()], [_RUNNING, _STOPPED])
    rig.ui.launch([case.key()], _LONG, tags={"dagster/max_runtime": "5"})
    for group in (_RUNNING, _STOPPED, _LONG):
        case.wait_until_running(_queued(case, group))
    with rig.without_sensor("submit_local"):
        waiting = rig.ui.backfill([case.key()], [_WAITING, _FORCED])
        for group in (_WAITING, _FORCED):
            _queued(case, group)
        for group in (_STOPPED, _FORCED):
            rig.instance.delete_dynamic_partition(case.step("step1").tag, group)
        for backfill in (begun, waiting):
            _wait_for_a_vain_pass(rig, backfill)
        groups = (_RUNNING, _STOPPED, _WAITING, _FORCED, _LONG)
        seen = {group: case.attempts(group)[0].tags["cm/state"] for group in groups}
        rig.ui.terminate(case.attempts(_STOPPED)[0].run_id)
        rig.ui.terminate(case.attempts(_FORCED)[0].run_id, force=True)
        for group in (_STOPPED, _FORCED):
            case.wait_until(case.attempts(group)[0].run_id, "CANCELED")
    case.set_faults([])
    return GivenUp(case, begun, waiting, seen)


def _queued(case: Case, group: str) -> str:
    """Wait until a group's first attempt is queued, at least."""
    return case.wait_until(case.first_attempt(group).run_id, "QUEUED", "STARTED").run_id


def _wait_for_a_vain_pass(rig: Rig, backfill_id: str) -> None:
    """Wait until Dagster has failed at a backfill, and failed to end it."""

    def look() -> bool:
        backfill = rig.instance.get_backfill(backfill_id)
        assert backfill is not None
        return backfill.failure_count > 1

    wait_for(f"a vain pass over {backfill_id}", look)


def test_the_attempts_of_a_failing_backfill_go_on(given_up: GivenUp) -> None:
    case = given_up.case
    assert given_up.seen == {
        _RUNNING: "running",
        _STOPPED: "running",
        _WAITING: "queued",
        _FORCED: "queued",
        _LONG: "running",
    }
    for group in (_RUNNING, _WAITING):
        done = case.wait_until(case.attempts(group)[0].run_id, "SUCCESS")
        assert case.submitted()[f"{group}.a01"] == 1
        (said,) = [text for text in case.rig.ui.messages(done.run_id, "EngineEvent") if "Its backfill" in text]
        assert _CANCEL in said
    assert case.partitions().materialized >= {_RUNNING, _WAITING}


def test_a_person_terminates_attempts_of_a_failing_backfill(given_up: GivenUp) -> None:
    case = given_up.case
    case.wait_until_cancelled(case.attempts(_STOPPED)[0].tags["cm/wms_id"])
    assert not case.submitted()[f"{_FORCED}.a01"]


@pytest.mark.parametrize("which", ["begun", "waiting"])
def test_a_failing_backfill_ends_with_its_attempts_and_keeps_its_cause(given_up: GivenUp, which: str) -> None:
    case, ui = given_up.case, given_up.case.rig.ui
    backfill_id, deleted = (given_up.begun, _STOPPED) if which == "begun" else (given_up.waiting, _FORCED)
    wait_for(f"end of {which}", lambda: ui.backfill_status(backfill_id).status == "FAILED")
    backfill = case.rig.instance.get_backfill(backfill_id)
    assert backfill is not None
    assert backfill.error is not None
    assert f"removed: {{'{deleted}'}}" in backfill.error.message
    assert "The workflows of its attempts are not cancelled" in backfill.error.message


def test_a_workflow_may_take_longer_than_the_launch_allows(given_up: GivenUp) -> None:
    """Dagster's run monitoring looks every two seconds; the workflow took longer than a minute."""
    case = given_up.case
    case.wait_until(case.attempts(_LONG)[0].run_id, "SUCCESS")
