"""How a group's quanta were judged is an asset check of its partition, whatever else happens to the group."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionResolvedStatus
from dagster._core.workspace.context import WorkspaceRequestContext
from dagster_graphql.test.utils import execute_dagster_graphql

from cm_dagster.control import judge
from cm_dagster.crashpoints import set_crash_hook
from cm_dagster.ledger import tags
from cm_dagster.plan.recipe import Recipe
from cm_dagster.policy.states import State
from cm_dagster.policy.verbs import Verb
from cm_dagster.services.quanta import QuantaSummary, TaskQuanta
from cm_dagster.services.wms import WmsState
from cm_dagster_tests.integration.ledger_rig import STEP1, Launcher, Rig, open_launcher
from cm_dagster_tests.integration.verbs_rig import Registry, cut_campaign, do, run_of

KEY = dg.AssetCheckKey(dg.AssetKey(STEP1.asset), "quanta")
_STATUSES = """
query($asset: AssetKeyInput!) {
  assetNodeOrError(assetKey: $asset) { ... on AssetNode { assetChecksOrError { ... on AssetChecks { checks {
    name
    partitionStatuses { ... on AssetCheckDefaultPartitionStatuses {
      succeededPartitions failedPartitions inProgressPartitions skippedPartitions executionFailedPartitions
    } }
  } } } } }
}
"""


class Crash(BaseException):
    """A process dies."""


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> dict[str, QuantaSummary]:
    """What workflows have left, by group and attempt."""
    found: dict[str, QuantaSummary] = {}

    def read(submit_dir: Path, butler: Any) -> QuantaSummary:
        return found[f"{submit_dir.parents[1].name}/{submit_dir.parent.name}"]

    monkeypatch.setitem(vars(judge), "read_quanta", read)
    return found


@pytest.fixture
def crash_at() -> Iterator[Callable[[str], None]]:
    """Have this process die when it first comes to a crash point."""

    def arm(point: str) -> None:
        def hook(name: str) -> None:
            if name == point:
                set_crash_hook(None)
                raise Crash

        set_crash_hook(hook)

    yield arm
    set_crash_hook(None)


def ends(rig: Rig, left: dict[str, QuantaSummary], run_id: str, done: int, **more: Any) -> None:
    """Let the workflow of an attempt end, with some of its ten quanta done."""
    attempt = rig.attempt(run_id)
    tasks = {"isr": TaskQuanta(10, done, failed=10 - done, **more)}
    run = run_of(attempt.id.group, attempt.id.number)
    left[f"{attempt.id.group}/a{attempt.id.number:02d}"] = QuantaSummary(
        run, tasks, provenance=True, registered={"isr": done}
    )
    Registry.at(rig).runs[run] = {"isr": done}
    rig.wms.set(attempt.wms_id, WmsState.SUCCEEDED if done == 10 else WmsState.FAILED)
    rig.watch()


def shown(launcher: Launcher) -> dict[str, list[str]]:
    """Give the partitions by what the UI shows of their check."""
    assert isinstance(launcher.workspace, WorkspaceRequestContext)
    asset = {"path": list(STEP1.asset)}
    answer = execute_dagster_graphql(launcher.workspace, _STATUSES, {"asset": asset})
    (check,) = answer.data["assetNodeOrError"]["assetChecksOrError"]["checks"]
    assert check["name"] == "quanta"
    return {key.removesuffix("Partitions"): found for key, found in check["partitionStatuses"].items() if found}


def evaluations(rig: Rig, run_id: str) -> list[dg.AssetCheckEvaluation]:
    """Give the evaluations of a run, the last one last."""
    kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    found = [
        record.event_log_entry.dagster_event
        for record in rig.instance.get_records_for_run(run_id, of_type=kind).records
    ]
    return [event.asset_check_evaluation_data for event in found if event]


@pytest.fixture
def ui(rig: Rig) -> Iterator[Launcher]:
    cut_campaign(rig, defaults={"accept": {"quanta": 0.9, "per_task": {"isr": 0.8, "cal*": 1.0, "nosuch": 1.0}}})
    with open_launcher(rig.instance) as launcher:
        yield launcher


def test_the_check_shows_the_verdict(rig: Rig, ui: Launcher, left: dict[str, QuantaSummary]) -> None:
    good, part, bad = (rig.begin(f"g000{number}") for number in range(3))
    ends(rig, left, good, 10)
    ends(rig, left, part, 9, caveats={"NO_WORK": 2})
    ends(rig, left, bad, 7)
    assert shown(ui) == {"succeeded": ["g0000", "g0001"], "failed": ["g0002"]}
    one, two, three = (evaluations(rig, run_id) for run_id in (good, part, bad))
    assert [len(each) for each in (one, two, three)] == [1, 1, 1]
    warn, error = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR
    assert [(each.passed, each.severity) for (each,) in (one, two, three)] == [
        (True, error),
        (True, warn),
        (False, error),
    ]
    assert two[0].metadata["caveats"].value == "2 x NO_WORK"
    assert (three[0].description or "").startswith("isr: 7 of 10 quanta succeeded, below its threshold of 80.0%")
    assert "no task is named nosuch" in (three[0].description or "")
    table = three[0].metadata["quanta"]
    assert isinstance(table, dg.TableMetadataValue)
    (row,) = table.records
    assert (row.data["threshold"], row.data["expected"], row.data["registered"]) == ("80.0%", 10, 7)


def test_a_launch_with_the_check_is_an_attempt_and_leaves_nothing_in_progress(
    rig: Rig, ui: Launcher, left: dict[str, QuantaSummary]
) -> None:
    run = ui.launch("g0000")
    assert run.execution_plan_snapshot_id is not None
    plan = rig.instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
    assert any(step.key.endswith("quanta") for step in plan.steps)
    attempt = rig.attempt(run.run_id)
    assert attempt.state is State.QUEUED
    assert shown(ui) == {}
    rig.carry_on(run.run_id, State.RUNNING)
    assert ui.launch("g0000").status is dg.DagsterRunStatus.CANCELED  # there is one already
    ends(rig, left, run.run_id, 10)
    assert shown(ui) == {"succeeded": ["g0000"]}
    assert ui.launch("g0000").status is dg.DagsterRunStatus.CANCELED  # it is accepted
    assert shown(ui) == {"succeeded": ["g0000"]}


def test_the_check_alone_is_refused(rig: Rig, ui: Launcher) -> None:
    run = ui.launch("g0000", assets=[], checks=[KEY])
    assert run.status is dg.DagsterRunStatus.CANCELED
    assert "the check 'quanta' is made when a workflow has ended" in rig.end_message(run.run_id)
    assert shown(ui) == {}
    ordinary = ui.launch(None, assets=[("camp", "step1", "inputs")])
    assert ordinary.status is dg.DagsterRunStatus.QUEUED


def test_a_second_attempt_counts_in_place_of_the_first(rig: Rig, ui: Launcher, left: dict[str, QuantaSummary]) -> None:
    first = rig.begin("g0000")
    ends(rig, left, first, 10)
    again = rig.begin("g0000", 2)
    assert shown(ui) == {"succeeded": ["g0000"]}
    ends(rig, left, again, 3)
    assert shown(ui) == {"failed": ["g0000"]}  # though the first one's materialization stays


def test_what_a_person_overrules_stays_as_it_was_judged(rig: Rig, ui: Launcher, left: dict[str, QuantaSummary]) -> None:
    run_id = rig.begin("g0000")
    ends(rig, left, run_id, 3)
    assert [each.done for each in do(rig, Verb.ACCEPT, "g0000")] == [True]
    assert rig.state(run_id) is State.ACCEPTED
    assert shown(ui) == {"failed": ["g0000"]}
    assert [each.done for each in do(rig, Verb.REJECT, "g0000")] == [True]
    assert shown(ui) == {"failed": ["g0000"]}


def test_what_a_rule_accepts_stays_as_it_was_judged(rig: Rig, left: dict[str, QuantaSummary]) -> None:
    rule = {"name": "enough", "action": "accept", "min_done": 0.2}
    cut_campaign(rig, defaults={"accept": {"quanta": 0.9}, "rules": [rule]})
    run_id = rig.begin("g0000")
    ends(rig, left, run_id, 3)
    assert rig.state(run_id) is State.ACCEPTED
    with open_launcher(rig.instance) as launcher:
        assert shown(launcher) == {"failed": ["g0000"]}


def test_a_workflow_that_is_to_be_finalized_is_not_judged_yet(
    rig: Rig, ui: Launcher, left: dict[str, QuantaSummary]
) -> None:
    run_id = rig.begin("g0000")
    tasks = {"isr": TaskQuanta(10, 10)}
    left["g0000/a01"] = QuantaSummary(run_of("g0000"), tasks, provenance=True, registered=None)
    rig.wms.set(rig.attempt(run_id).wms_id, WmsState.SUCCEEDED)
    rig.watch()
    assert rig.state(run_id) is State.FINALIZING
    assert evaluations(rig, run_id) == []
    assert shown(ui) == {}


@pytest.mark.parametrize("point", ["judge.checked", "accept.materialized"])
def test_judged_again_after_a_crash(
    rig: Rig,
    storage: dict[str, Any] | None,
    ui: Launcher,
    left: dict[str, QuantaSummary],
    crash_at: Callable[[str], None],
    point: str,
) -> None:
    run_id = rig.begin("g0000")
    crash_at(point)
    with pytest.raises(Crash):
        ends(rig, left, run_id, 10)
    assert rig.attempt(run_id).is_open
    rig.watch()
    assert rig.state(run_id) is State.ACCEPTED
    # On PostgreSQL all of it is one transaction.
    assert len(evaluations(rig, run_id)) == (2 if point == "judge.checked" and storage is None else 1)
    assert shown(ui) == {"succeeded": ["g0000"]}


def test_a_rescued_group_is_judged_as_a_whole_task_by_task(
    rig: Rig, ui: Launcher, left: dict[str, QuantaSummary]
) -> None:
    registry = Registry.at(rig)
    registry.runs[run_of("g0000")] = {"isr": 90, "calibrate": 10}
    run_id = rig.carry_on(rig.queue("g0000", 2, more={tags.HOW: Recipe((1,), 100).dump(2)}), State.RUNNING)
    tasks = {"isr": TaskQuanta(10, 10), "calibrate": TaskQuanta(2, 1, failed=1)}
    left["g0000/a02"] = QuantaSummary(
        run_of("g0000", 2), tasks, provenance=True, registered={"isr": 10, "calibrate": 1}
    )
    rig.wms.set(rig.attempt(run_id).wms_id, WmsState.FAILED)
    rig.watch()
    assert rig.state(run_id) is State.FAILED
    assert "calibrate: 11 of 12 quanta succeeded, below its threshold of 100.0%; 111 of 112" in rig.end_message(run_id)
    assert shown(ui) == {"failed": ["g0000"]}


def test_checks_of_others_are_told_as_before(rig: Rig) -> None:
    """A check of an asset that is no step's, whatever its name."""
    check = dg.AssetCheckKey(dg.AssetKey(["mine"]), "quanta")
    rig.instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(asset_key=check.asset_key, check_name=check.name, passed=True)
    )
    state = rig.instance.event_log_storage.get_asset_check_state([(check, None)])[check]
    assert state.subsets[AssetCheckExecutionResolvedStatus.SUCCEEDED].bool_value
