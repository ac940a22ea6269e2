"""Launches that were left behind come into the queue by themselves, by the same rules; only what is queued is taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent
from dagster._core.run_coordinator import SubmitRunContext

from cm_dagster import crashpoints
from cm_dagster.control.queue import batches
from cm_dagster.errors import LedgerError
from cm_dagster.ledger import admission, stuck, tags
from cm_dagster.ledger.admission import find_steps
from cm_dagster.ledger.attempts import index_of
from cm_dagster.ledger.instance import CampaignInstance
from cm_dagster.ledger.stuck import queue_stuck
from cm_dagster.policy.states import State
from cm_dagster_tests.integration.ledger_rig import STEP1, SUBMIT, Launcher, Rig, open_launcher


class Died(Exception):  # noqa: N818  (no error: the end of a process)
    """The launching process."""


@pytest.fixture
def ui(rig: Rig) -> Iterator[Launcher]:
    rig.create()
    rig.plan(3)
    with open_launcher(rig.instance) as launcher:
        yield launcher


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any launch that is not through by now was left behind."""
    monkeypatch.setattr(stuck, "_AGE", timedelta(0))


def leave(rig: Rig, ui: Launcher, group: str | None, *, point: str = "", **launch: object) -> dg.DagsterRun:
    """Launch a run by a process that dies: at a crash point of the coordinator, or before it is asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CampaignInstance, "submit_run", lambda self, run_id, _: self.get_run_by_id(run_id))
        run = ui.launch(group, **launch)  # type: ignore[arg-type]
    if point:

        def die(name: str) -> None:
            if name == point:
                raise Died

        crashpoints.set_crash_hook(die)
        with suppress(Died):
            rig.instance.run_coordinator.submit_run(SubmitRunContext(run, ui.workspace))
        crashpoints.set_crash_hook(None)
    assert now(rig, run).status is dg.DagsterRunStatus.NOT_STARTED
    return run


def now(rig: Rig, run: dg.DagsterRun) -> dg.DagsterRun:
    found = rig.instance.get_run_by_id(run.run_id)
    assert found is not None
    return found


def due(rig: Rig) -> list[str]:
    """What a tick of the submit sensor hands out."""
    return [run_id for batch in batches(rig.instance, rig.site, SUBMIT) for run_id in batch.run_ids]


@pytest.mark.parametrize(
    ("point", "job", "selected"),
    [("", "__ASSET_JOB", True), ("", STEP1.job, False), ("coordinator.tagged", "__ASSET_JOB", True)],
    ids=["UI, no tags", "job backfill, no tags", "UI, with tags"],
)
@pytest.mark.usefixtures("later")
def test_a_launch_that_was_left_behind_is_an_attempt_like_any_other(
    rig: Rig, ui: Launcher, point: str, job: str, *, selected: bool
) -> None:
    run = leave(rig, ui, "g0001", point=point, job=job, selected=selected)
    assert due(rig) == [run.run_id]
    queued = now(rig, run)
    assert queued.status is dg.DagsterRunStatus.QUEUED
    attempt = rig.attempt(run.run_id)
    assert (attempt.id.step, attempt.id.group, attempt.id.number) == (STEP1, "g0001", 1)
    assert {tags.OF: run.run_id, "dagster/max_retries": "0"}.items() <= queued.tags.items()
    assert "died before it was queued" in rig.notes(run.run_id)
    queue_stuck(rig.instance, "here")
    assert rig.notes(run.run_id).count("died before it was queued") == 1
    assert rig.submit(run.run_id).submitted == 1


def test_a_launch_under_way_is_left_to_its_launcher(rig: Rig, ui: Launcher) -> None:
    run = leave(rig, ui, "g0001", point="coordinator.tagged")
    assert due(rig) == []
    assert rig.submit(run.run_id).submitted == 0
    assert now(rig, run).status is dg.DagsterRunStatus.NOT_STARTED
    # It was slow, not dead.
    rig.instance.run_coordinator.submit_run(SubmitRunContext(now(rig, run), ui.workspace))
    assert due(rig) == [run.run_id]


@pytest.mark.usefixtures("later")
def test_the_rules_are_the_coordinators(rig: Rig, ui: Launcher) -> None:
    first = leave(rig, ui, "g0001")
    inputs = ("camp", "step1", "inputs")
    ordinary = leave(rig, ui, None, assets=[inputs])
    mixed = leave(rig, ui, "g0002", assets=[STEP1.asset, inputs])
    number_two = leave(rig, ui, "g0000", more={tags.BY: "dispatch", tags.WANT: "2"})
    other = ui.launch("g0001")  # it finds no attempt at its group, and so becomes the first
    queue_stuck(rig.instance, "here")
    assert f"attempt 1 at g0001 is QUEUED (run {other.run_id})" in rig.end_message(first.run_id)
    assert "2 assets are selected" in rig.end_message(mixed.run_id)
    assert "it was meant as attempt 2" in rig.end_message(number_two.run_id)
    assert now(rig, ordinary).status is dg.DagsterRunStatus.NOT_STARTED
    assert [attempt.run_id for attempt in index_of(rig.instance).open_at("here")] == [other.run_id]


@pytest.mark.usefixtures("later")
def test_other_sites_and_unknown_assets_are_left_alone(rig: Rig, ui: Launcher) -> None:
    run = leave(rig, ui, "g0001")
    foreign = rig.instance.add_run(
        dg.DagsterRun("job", run_id="foreign", asset_selection=frozenset({dg.AssetKey(["a", "b", "here"])}))
    )
    queue_stuck(rig.instance, "there")
    assert now(rig, run).status is dg.DagsterRunStatus.NOT_STARTED
    queue_stuck(rig.instance, "here")
    assert now(rig, run).status is dg.DagsterRunStatus.QUEUED
    assert now(rig, foreign) == foreign


@pytest.mark.usefixtures("later")
def test_a_run_that_cannot_be_queued_stops_no_other(
    rig: Rig, ui: Launcher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = leave(rig, ui, "g0001"), leave(rig, ui, "g0002")

    def fail(instance: dg.DagsterInstance, run: dg.DagsterRun) -> object:
        if run.run_id == bad.run_id:
            raise LedgerError("its plan can't be read")
        return find_steps(instance, run)

    monkeypatch.setattr(stuck, "find_steps", fail)
    assert due(rig) == [good.run_id]
    assert f"run {bad.run_id} can't be queued" in caplog.text


def test_one_that_is_said_to_wait_though_its_workflow_runs_is_put_right(rig: Rig) -> None:
    """A launcher that was held up says "queued" when somebody else has queued the run and the site has taken it."""
    run_id = rig.begin("g0000", state=State.RUNNING)
    rig.instance.report_dagster_event(DagsterEvent.job_enqueue(rig.attempt(run_id).run), run_id=run_id)
    assert rig.state(run_id) is State.QUEUED
    assert due(rig) == []
    assert rig.state(run_id) is State.RUNNING
    rig.watch()
    assert rig.state(run_id) is State.RUNNING


@pytest.mark.parametrize("by", ["queue", "claim"])
def test_two_coordinators_at_one_moment_give_one_workflow(rig: Rig, ui: Launcher, by: str) -> None:
    """Both find no attempt; the claim decides, and the loser says who won and hides nothing."""
    launched: list[str] = []

    def launch_another(name: str) -> None:
        if name == "coordinator.tagged" and not launched:
            launched.append(first.run_id)
            with pytest.MonkeyPatch.context() as patch:
                # The other coordinator has read the attempts before this one wrote its tags.
                patch.setattr(admission, "attempts_at", lambda *_, **__: [])
                launched.append(ui.launch("g0000").run_id)

    first = leave(rig, ui, "g0000")
    crashpoints.set_crash_hook(launch_another)
    rig.instance.run_coordinator.submit_run(SubmitRunContext(first, ui.workspace))
    crashpoints.set_crash_hook(None)
    assert [rig.attempt(run_id).id.number for run_id in launched] == [1, 1]
    (winner,) = due(rig)
    (loser,) = set(launched) - {winner}
    assert rig.submit(winner).submitted == 1
    if by == "queue":
        assert due(rig) == []
    else:
        assert rig.submit(loser).submitted == 0
    assert rig.state(loser) is State.CANCELLED
    how = f"(run {winner}) was launched at the same time" if by == "queue" else f"belongs to run {winner}"
    assert rig.end_message(loser) == f"cm_dagster does not take this run: attempt 1 at g0000 {how}"
    key, partitions = dg.AssetKey(STEP1.asset), dg.DynamicPartitionsDefinition(name=STEP1.tag)
    shown = rig.instance.get_status_by_partition(key, ["g0000"], partitions) or {}
    assert str(shown["g0000"]) == "AssetPartitionStatus.IN_PROGRESS"
    assert rig.state(winner) is State.SUBMITTED
