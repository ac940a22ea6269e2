"""Every launch, from wherever it comes, gives one attempt or is turned away with the reason."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.launcher.base import LaunchRunContext, WorkerStatus
from dagster._core.run_coordinator import SubmitRunContext

from cm_dagster.ledger import attempts, events, tags
from cm_dagster.ledger.attempts import index_at, index_of
from cm_dagster.ledger.coordinator import CampaignRunCoordinator
from cm_dagster.ledger.launcher import CampaignRunLauncher
from cm_dagster.plan.names import StepId
from cm_dagster.policy.states import State
from cm_dagster_tests.integration.ledger_rig import STEP1, Launcher, Rig, open_launcher

STEP2 = ("camp", "step2", "here")
DISPATCH = {tags.BY: "dispatch", tags.WANT: "1"}


@pytest.fixture
def ui(rig: Rig) -> Iterator[Launcher]:
    rig.create()
    rig.plan(4)
    with open_launcher(rig.instance) as launcher:
        yield launcher


def refused(rig: Rig, run: dg.DagsterRun) -> str:
    """Reason for which a run was turned away; nothing of it may be an attempt."""
    assert run.status is dg.DagsterRunStatus.CANCELED
    assert run.run_id not in {attempt.run_id for attempt in index_of(rig.instance).open_at("here")}
    reason = rig.end_message(run.run_id)
    assert reason.startswith("cm_dagster does not take this run: ")
    return reason


def end(rig: Rig, run: dg.DagsterRun, *, good: bool) -> None:
    attempt = rig.attempt(run.run_id)
    events.start(rig.instance, attempt)
    events.submitted(rig.instance, events.Sent(attempt, "7", "/s", "r"))
    if good:
        events.accept(rig.instance, events.Acceptance(attempt, "end", {}))
    else:
        events.fail(rig.instance, attempt, "end")


def status(rig: Rig, group: str) -> object:
    key = dg.AssetKey(STEP1.asset)
    partitions = dg.DynamicPartitionsDefinition(name=STEP1.tag)
    return (rig.instance.get_status_by_partition(key, [group], partitions) or {}).get(group)


@pytest.mark.parametrize(
    ("job", "selected"),
    [("__ASSET_JOB", True), (STEP1.job, True), (STEP1.job, False)],
    ids=["UI", "sensor", "backfill"],
)
def test_a_launch_makes_an_attempt(rig: Rig, ui: Launcher, job: str, selected: bool) -> None:
    run = ui.launch("g0001", job=job, selected=selected)
    assert run.status is dg.DagsterRunStatus.QUEUED
    wanted = {
        tags.KIND: "workflow",
        tags.STEP: "camp/step1/here",
        tags.GROUP: "camp/step1/here|g0001",
        tags.ATTEMPT: "1",
        tags.STATE: "queued",
        tags.OF: run.run_id,
        "dagster/max_retries": "0",
    }
    assert wanted.items() <= run.tags.items()
    (attempt,) = index_of(rig.instance).open_at("here")
    assert (attempt.run_id, attempt.state, attempt.by_person) == (run.run_id, State.QUEUED, True)


def test_a_process_without_an_index_reads_a_step_alone(rig: Rig, ui: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its attempts, also those that were launched by hand."""
    runs = [ui.launch("g0000", job=STEP1.job), ui.launch("g0001"), ui.launch("g0002", more=DISPATCH)]
    other = StepId("camp", "step2", STEP1.site)
    rig.queue("g0000", step=other)
    for run in runs:
        rig.carry_on(run.run_id, State.RUNNING)
        events.accept(rig.instance, events.Acceptance(rig.attempt(run.run_id), "good", {}))
    monkeypatch.setattr(attempts, "_INDEXES", {})
    index = index_at(rig.instance, STEP1)
    assert index.accepted(STEP1) == {"g0000": 1, "g0001": 1, "g0002": 1}
    assert {name: each.run_id for name, each in index.of_step(STEP1).items()} == dict(
        zip(("g0000", "g0001", "g0002"), (run.run_id for run in runs), strict=True)
    )
    assert index.of_step(other) == {}
    index_of(rig.instance)
    assert index_at(rig.instance, STEP1) is index_of(rig.instance)


def test_other_runs_are_ordinary(rig: Rig, ui: Launcher) -> None:
    run = ui.launch(None, assets=[("camp", "step1", "inputs")])
    assert run.status is dg.DagsterRunStatus.QUEUED
    assert tags.OF not in run.tags
    assert "dagster/max_retries" not in run.tags


@pytest.mark.parametrize(
    ("group", "assets", "more", "reason"),
    [
        ("g0000", [STEP1.asset, ("camp", "step1", "inputs")], {}, "2 assets are selected"),
        ("g0000", [STEP1.asset, STEP2], {}, "2 assets are selected"),
        (
            None,
            [STEP1.asset],
            {"dagster/asset_partition_range_start": "g0000", "dagster/asset_partition_range_end": "g0002"},
            "g0000 to g0002: launch a backfill",
        ),
        (None, [STEP1.asset], {}, "no group (partition) is selected"),
        ("unplanned", [STEP1.asset], {}, "'unplanned' is no group"),
        ("my-group", [STEP1.asset], {}, "'my-group' is no group"),
        ("g0000", [STEP1.asset], {tags.BY: "dispatch", tags.WANT: "2"}, "meant as attempt 2 at g0000"),
        ("g0000", [STEP1.asset], {tags.BY: "dispatch"}, "meant as attempt None at g0000"),
        ("g0000", [STEP1.asset], {tags.WANT: "2", tags.USER: "ann"}, "meant as attempt 2 at g0000"),
    ],
)
def test_what_makes_no_sense_is_turned_away(
    rig: Rig, ui: Launcher, group: str | None, assets: list[tuple[str, ...]], more: dict[str, str], reason: str
) -> None:
    assert reason in refused(rig, ui.launch(group, assets=assets, more=more))
    assert index_of(rig.instance).open_at("here") == []
    assert status(rig, "g0000") is None


def test_a_group_with_an_open_attempt_takes_no_other(rig: Rig, ui: Launcher) -> None:
    first = ui.launch("g0000")
    assert f"attempt 1 at g0000 is QUEUED (run {first.run_id})" in refused(rig, ui.launch("g0000"))
    events.start(rig.instance, rig.attempt(first.run_id))
    assert "is STARTED" in refused(rig, ui.launch("g0000", more=DISPATCH))
    assert ui.launch("g0001").status is dg.DagsterRunStatus.QUEUED


def test_an_accepted_group_takes_none_but_a_re_execution(rig: Rig, ui: Launcher) -> None:
    first = ui.launch("g0000")
    end(rig, first, good=True)
    assert str(status(rig, "g0000")) == "AssetPartitionStatus.MATERIALIZED"
    assert "g0000 is accepted" in refused(rig, ui.launch("g0000"))
    again = ui.launch("g0000", parent=first)
    assert rig.attempt(again.run_id).id.number == 2
    end(rig, again, good=True)
    # Two re-executions of one run: the second comes late, and what it re-executes is not the latest any more.
    assert "g0000 is accepted" in refused(rig, ui.launch("g0000", parent=first))


def test_a_failed_group_takes_the_next(rig: Rig, ui: Launcher) -> None:
    end(rig, ui.launch("g0000"), good=False)
    assert str(status(rig, "g0000")) == "AssetPartitionStatus.FAILED"
    assert rig.attempt(ui.launch("g0000").run_id).id.number == 2


def test_a_stale_wish_gives_no_unasked_attempt(rig: Rig, ui: Launcher) -> None:
    """Two daemons request attempt 1; one of them comes when it has failed already."""
    end(rig, ui.launch("g0000", more=DISPATCH), good=False)
    assert "meant as attempt 1 at g0000, which is at attempt 2" in refused(rig, ui.launch("g0000", more=DISPATCH))


def test_a_re_execution_resets_what_it_has_copied(rig: Rig, ui: Launcher) -> None:
    first = ui.launch("g0000", more=DISPATCH)
    assert not rig.attempt(first.run_id).by_person
    end(rig, first, good=False)
    former = rig.instance.get_run_by_id(first.run_id)
    assert former is not None
    assert former.tags[tags.WMS_ID] == "7"
    again = ui.launch("g0000", parent=former)
    assert again.status is dg.DagsterRunStatus.QUEUED, rig.end_message(again.run_id)
    attempt = rig.attempt(again.run_id)
    assert (attempt.id.number, attempt.state, attempt.wms_id, attempt.submit_dir) == (2, State.QUEUED, "", "")
    assert attempt.by_person
    assert attempt.parent == first.run_id
    assert again.tags["dagster/max_retries"] == "0"


def test_one_that_was_turned_away_leaves_no_number(rig: Rig, ui: Launcher) -> None:
    first = ui.launch("g0000")
    refused(rig, ui.launch("g0000"))
    end(rig, first, good=False)
    assert rig.attempt(ui.launch("g0000").run_id).id.number == 2


def test_one_that_was_turned_away_does_not_hide_the_other(rig: Rig, ui: Launcher) -> None:
    first = ui.launch("g0000")
    refused(rig, ui.launch("g0000"))
    assert str(status(rig, "g0000")) == "AssetPartitionStatus.IN_PROGRESS"
    end(rig, first, good=False)
    refused(rig, ui.launch("g0000", more=DISPATCH))
    assert str(status(rig, "g0000")) == "AssetPartitionStatus.FAILED"


def test_submitting_a_queued_run_again_changes_nothing(rig: Rig, ui: Launcher) -> None:
    """A daemon that died after the coordinator had queued the run does that."""
    run = ui.launch("g0000")
    rig.instance.run_coordinator.submit_run(SubmitRunContext(run, ui.workspace))
    assert rig.instance.get_run_by_id(run.run_id) == run


# -------------------------------------------------------------------------------------------------------- launcher


def test_the_instance_uses_our_coordinator_and_launcher(rig: Rig) -> None:
    assert isinstance(rig.instance.run_coordinator, CampaignRunCoordinator)
    assert isinstance(rig.instance.run_launcher, CampaignRunLauncher)
    assert type(rig.instance.run_launcher.inner).__name__ == "DefaultRunLauncher"


def test_an_attempt_is_never_launched(rig: Rig, ui: Launcher) -> None:
    run = ui.launch("g0000")
    with pytest.raises(dg.DagsterInvariantViolationError, match="tag_concurrency_limits"):
        rig.instance.run_launcher.launch_run(LaunchRunContext(run, ui.workspace))
    assert rig.state(run.run_id) is State.QUEUED


def test_terminate_of_a_waiting_attempt(rig: Rig, ui: Launcher) -> None:
    run = ui.launch("g0000")
    assert rig.instance.run_coordinator.cancel_run(run.run_id)
    assert rig.state(run.run_id) is State.CANCELLED


def test_terminate_of_an_attempt_at_the_wms(rig: Rig) -> None:
    run_id = rig.begin("g0000")
    assert rig.instance.run_coordinator.cancel_run(run_id)
    assert rig.state(run_id) is State.CANCELLING
    events.cancelled(rig.instance, run_id, "done", swept=True)
    assert not rig.instance.run_launcher.terminate(run_id)
    assert rig.state(run_id) is State.CANCELLED


def test_an_attempt_is_well(rig: Rig) -> None:
    run = rig.instance.get_run_by_id(rig.begin("g0000"))
    assert run is not None
    assert rig.instance.run_launcher.supports_check_run_worker_health
    assert rig.instance.run_launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING


def test_other_runs_are_the_inner_launchers(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = rig.instance.run_launcher
    assert isinstance(launcher, CampaignRunLauncher)
    run = rig.instance.add_run(dg.DagsterRun("job", run_id="other", status=dg.DagsterRunStatus.STARTED))
    asked: list[str] = []
    inner = type(launcher.inner)
    monkeypatch.setattr(inner, "terminate", lambda _, run_id: run_id == "other")
    monkeypatch.setattr(inner, "launch_run", lambda _, context: asked.append(context.dagster_run.run_id))
    assert launcher.terminate("other")
    launcher.launch_run(LaunchRunContext(run, None))
    assert asked == ["other"]
    assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
