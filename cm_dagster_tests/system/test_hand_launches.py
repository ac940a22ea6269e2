"""Every way in which a person asks for attempts gives the same kind of attempt, and never two open ones for a group."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from cm_dagster.testing.graphql import Backfill, Launched, Run
from cm_dagster_tests.system.rig import SITE, Case, Rig, wait_for

# Visit n is that of group g000(n - 1).
_CURABLE = {"task": "calibrateImage", "where": "visit=5", "action": "raise", "message": "no stars at all"}
_LASTING = {"task": "calibrateImage", "where": "visit=8", "action": "raise", "message": "no sky at all"}
_GROUPS = [f"g000{place}" for place in range(8)]
_WAYS = {"materialize": "g0000", "backfill": "g0001", "command line": "g0002", "job": "g0003"}
_CURED, _CLICKED, _GOOD, _FAILED = "g0004", "g0005", "g0006", "g0007"


@dataclass(frozen=True)
class Hands:
    """A campaign that was never started, so that nothing goes by itself, after all kinds of launches."""

    case: Case
    clicks: tuple[Launched, Launched]
    """Two launches of one group at the same moment."""
    backfills: Mapping[str, str]
    """Backfills by how they are to end."""
    queued: Mapping[str, Run]
    """The attempts while nothing took them out of the queue."""


@pytest.fixture(scope="module")
def hands(rig: Rig) -> Hands:
    case = rig.campaign("hand", visits=range(1, 9), faults=[_CURABLE, _LASTING])
    assert case.make_groups() == _GROUPS
    with rig.without_sensor("submit_local"):
        backfills = {
            "COMPLETED_SUCCESS": rig.ui.backfill([case.key()], [_WAYS["backfill"]]),
            "COMPLETED_FAILED": rig.ui.backfill([case.key()], [_GOOD, _FAILED]),
        }
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(case.launch, [_CLICKED] * 2)
        case.launch(_WAYS["materialize"])
        case.launch(_CURED)
        rig.ui.launch(job=case.step("step1").job, partition=_WAYS["job"])
        _job_backfill(case, _WAYS["command line"])
        wait_for("all attempts", lambda: all(case.attempts(group) for group in _GROUPS))
        queued = {group: case.attempts(group)[0] for group in _GROUPS}
        assert case.partitions().materializing == set(_GROUPS)
        assert not case.submitted()
    return Hands(case, (first, second), backfills, queued)


def _job_backfill(case: Case, group: str) -> None:
    where = ("-w", case.rig.deployment.workspace, "-l", SITE, "-r", "__repository__")
    what = ("-j", case.step("step1").job, "--partitions", group, "--noprompt")
    case.rig.program("dagster", "job", "backfill", *where, *what)


@pytest.mark.parametrize("way", list(_WAYS))
def test_every_launch_makes_the_same_attempt(hands: Hands, way: str) -> None:
    case, group = hands.case, _WAYS[way]
    first = case.attempts(group)[0]
    assert hands.queued[group].status == "QUEUED"
    assert hands.queued[group].run_id == first.run_id
    done = case.wait_until(first.run_id, "SUCCESS")
    assert done.tags["cm/attempt"] == "1"
    assert done.tags["cm/step"] == case.step("step1").tag
    assert group in case.partitions().materialized
    assert case.submitted()[f"{group}.a01"] == 1
    _check_metadata(case, group, done)


def _check_metadata(case: Case, group: str, run: Run) -> None:
    found = case.rig.ui.materialization(case.key(), group)
    assert found is not None
    assert found["workflow"] == run.tags["cm/wms_id"]
    assert found["run collection"] == f"u/test/{case.name}/step1/{group}/a01/run"
    assert list(Path(found["submit directory"]).glob("*.qg"))
    assert {row["task"]: row["succeeded"] for row in found["quanta"]} == {"isr": 1, "calibrateImage": 1}
    assert found["quanta registered"] == found["quanta expected"] == 2
    assert found["jobs"]["isr"] == {"succeeded": 1}
    assert f"{case.name}.step1.local.{group}.a01" in found["BPS configuration"]


def test_who_launched_is_kept(hands: Hands) -> None:
    assert hands.queued[_WAYS["materialize"]].tags["cm/user"] == "pilot"


def test_double_click_gives_one_workflow(hands: Hands) -> None:
    case = hands.case
    ids = [click.run_id for click in hands.clicks]
    ends = [case.wait_until(run_id, "SUCCESS", "CANCELED") for run_id in ids]
    assert sorted(run.status for run in ends) == ["CANCELED", "SUCCESS"]
    (refused,) = [run for run in ends if run.status == "CANCELED"]
    assert f"cm_dagster does not take this run: attempt 1 at {_CLICKED}" in case.end_message(refused)
    assert {name: n for name, n in case.submitted().items() if name.startswith(_CLICKED)} == {f"{_CLICKED}.a01": 1}
    assert _CLICKED in case.partitions().materialized


def test_failure_is_shown_with_its_cause_and_stays(hands: Hands) -> None:
    case = hands.case
    run = case.wait_until(case.attempts(_FAILED)[0].run_id, "FAILURE")
    assert "calibrateImage: 1 of 1 quanta failed (1 x ValueError): no sky at all" in case.end_message(run)
    assert _FAILED in case.partitions().failed


@pytest.mark.parametrize("end", ["COMPLETED_SUCCESS", "COMPLETED_FAILED"])
def test_backfill_ends_as_its_workflows_ended(hands: Hands, end: str) -> None:
    ui = hands.case.rig.ui

    def look() -> Backfill | None:
        seen = ui.backfill_status(hands.backfills[end])
        return None if seen.status == "REQUESTED" else seen

    done = wait_for(f"end of the backfill that is to be {end}", look)
    assert done.status == end
    assert (done.materialized, done.failed, done.in_progress) == (1, 1 if end == "COMPLETED_FAILED" else 0, 0)
    assert {ui.run(run_id).status for run_id in done.run_ids} == (
        {"SUCCESS", "FAILURE"} if end == "COMPLETED_FAILED" else {"SUCCESS"}
    )


def test_run_retries_leave_a_failed_attempt_alone(hands: Hands) -> None:
    """The instance retries runs; a backfill's end tells that Dagster has looked at those of its attempts."""
    case = hands.case
    ui = case.rig.ui
    wait_for("backfill", lambda: ui.backfill_status(hands.backfills["COMPLETED_FAILED"]).status == "COMPLETED_FAILED")
    (attempt,) = case.attempts(_FAILED)
    assert attempt.tags.get("dagster/will_retry") != "true"
    assert not any(run.parent == attempt.run_id for run in case.runs())


@pytest.mark.parametrize(
    ("others", "partition", "tags", "reason"),
    [
        (["inputs"], _FAILED, {}, "2 assets are selected (hand/step1/inputs, hand/step1/local)"),
        (
            [],
            None,
            {"dagster/asset_partition_range_start": "g0004", "dagster/asset_partition_range_end": _FAILED},
            f"this one covers g0004 to {_FAILED}: launch a backfill",
        ),
        ([], None, {}, "no group (partition) is selected"),
        ([], _GOOD, {}, f"{_GOOD} is accepted; re-execute run"),
    ],
    ids=["mixed", "range", "no group", "accepted group"],
)
def test_runs_that_make_no_sense_change_nothing(
    hands: Hands, others: list[str], partition: str | None, tags: dict[str, str], reason: str
) -> None:
    case = hands.case
    for group in (_FAILED, _GOOD, _CURED):
        case.wait_until(case.attempts(group)[0].run_id, "SUCCESS", "FAILURE")
    before, submitted = case.partitions(), case.submitted()
    keys = [case.key(), *(case.key(stage=stage) for stage in others)]
    run = case.wait_until(case.rig.ui.launch(keys, partition, tags=tags).run_id, "CANCELED")
    assert reason in case.end_message(run)
    assert case.partitions() == before
    assert _FAILED in before.failed
    assert case.submitted() == submitted


@pytest.mark.parametrize(
    ("group", "strategy", "end"), [(_WAYS["materialize"], "ALL_STEPS", "SUCCESS"), (_CURED, "FROM_FAILURE", "FAILURE")]
)
def test_reexecution_is_the_next_attempt(hands: Hands, group: str, strategy: str, end: str) -> None:
    case = hands.case
    first = case.wait_until(case.attempts(group)[0].run_id, end)
    case.set_faults([_LASTING])
    again = case.rig.ui.reexecute(first.run_id, strategy)
    done = case.wait_until(again.run_id, "SUCCESS")
    assert done.parent == first.run_id
    assert done.tags["cm/attempt"] == "2"
    assert done.tags["cm/wms_id"] != first.tags["cm/wms_id"]
    assert [run.run_id for run in case.attempts(group)] == [first.run_id, again.run_id]
    assert case.submitted()[f"{group}.a02"] == 1
    assert group in case.partitions().materialized
