"""Deaths at the points that a campaign does not pass by itself: in what people decide, and in what happens rarely.

Whoever did it does it again, or a later turn of a sensor does; then all is as if nobody had died.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster_shared.error import SerializableErrorInfo

from cm_dagster.control import lifeline
from cm_dagster.control.advance import moves
from cm_dagster.control.audit import audit
from cm_dagster.control.dispatch import look
from cm_dagster.control.lifeline import tidy
from cm_dagster.control.steps import collected_key, load_boards
from cm_dagster.control.telling import tell
from cm_dagster.crashpoints import set_crash_hook
from cm_dagster.ledger import sites, stuck
from cm_dagster.ledger.decisions import decisions_on
from cm_dagster.ledger.instance import CampaignInstance
from cm_dagster.ledger.stuck import queue_stuck
from cm_dagster.plan.names import AttemptId
from cm_dagster.policy.states import State
from cm_dagster.policy.verbs import Verb
from cm_dagster.services.wms import WmsState
from cm_dagster_tests.integration.ledger_rig import LOG, SITE, STEP1, Rig, make_spec, open_launcher
from cm_dagster_tests.integration.stand_ins import Killed
from cm_dagster_tests.integration.verbs_rig import Registry, cut_campaign, decided, do, done, requested, run_of


@pytest.fixture
def step(rig: Rig) -> Rig:
    return cut_campaign(rig)


@pytest.fixture
def registry(step: Rig) -> Registry:
    found = Registry.at(step)
    found.runs[run_of("g0000")] = {"isr": 90}
    return found


@contextmanager
def death_at(point: str) -> Iterator[None]:
    """Have the process that does something die when it passes a point."""

    def kill(name: str) -> None:
        if name == point:
            raise Killed

    set_crash_hook(kill)
    try:
        with pytest.raises(Killed):
            yield
    finally:
        set_crash_hook(None)


def shown(rig: Rig, group: str = "g0000") -> str:
    """What Dagster shows of a group's partition."""
    partitions = dg.DynamicPartitionsDefinition(name=STEP1.tag)
    found = rig.instance.get_status_by_partition(dg.AssetKey(STEP1.asset), [group], partitions) or {}
    status = found.get(group)
    return status.value if status else "nothing"


def again(rig: Rig, verb: Verb, run_id: str, after: State) -> None:
    """Use a verb once more, as a person does whose command was killed; it may be done already."""
    before = rig.attempt(run_id).state
    (result,) = do(rig, verb, "g0000")
    assert result.done or before is after, result


# ------------------------------------------------------------------------------------------------- people's decisions


@pytest.mark.parametrize("point", ["decision.recorded", "overrule.materialized", "overrule.accepted"])
@pytest.mark.usefixtures("registry")
def test_an_acceptance_by_hand(step: Rig, point: str) -> None:
    run_id = step.fail("g0000")
    with death_at(point):
        do(step, Verb.ACCEPT, "g0000")
    again(step, Verb.ACCEPT, run_id, State.ACCEPTED)
    assert step.state(run_id) is State.ACCEPTED
    assert shown(step) == "MATERIALIZED"
    assert decisions_on(step.instance, STEP1, "g0000")[0].user == "ann"
    assert requested(step) == {}


@pytest.mark.parametrize("point", ["decision.recorded", "decision.answered", "overrule.planned", "overrule.rejected"])
@pytest.mark.usefixtures("registry")
def test_a_rejection_by_hand(step: Rig, point: str) -> None:
    run_id, *_ = [step.accept(f"g000{place}") for place in range(6)]
    step.materialize(collected_key("camp", "step1"))
    with death_at(point):
        do(step, Verb.REJECT, "g0000")
    # Whatever was done of it: the next step does not begin with what is rejected.
    collected = "step1" in load_boards(step.instance, ["camp"])[0].collected
    assert not collected or step.state(run_id) is State.ACCEPTED
    again(step, Verb.REJECT, run_id, State.FAILED)
    assert step.state(run_id) is State.FAILED
    assert shown(step) == "FAILED"
    assert load_boards(step.instance, ["camp"])[0].collected == set()
    assert moves(step.instance, step.site) == []
    assert requested(step) == {}
    done(step, Verb.ACCEPT)
    assert len(moves(step.instance, step.site)) == 1


@pytest.mark.parametrize("begun", [State.FAILED, State.CANCELLED])
@pytest.mark.parametrize(
    "point", ["decision.recorded", "overrule.reopening", "overrule.reopened", "restart.asked", "restart.recorded"]
)
def test_a_restart_by_hand(step: Rig, point: str, begun: State) -> None:
    if begun is State.FAILED:
        run_id = step.fail("g0000")
    else:
        run_id = step.begin("g0000")
        done(step, Verb.CANCEL)
        step.watch()
        step.watch()
    step.wms.set("1", WmsState.FAILED)
    with death_at(point):
        do(step, Verb.RESTART, "g0000")
    step.watch()
    if not step.attempt(run_id).is_open:
        done(step, Verb.RESTART)
        step.watch()
    assert step.state(run_id) is State.RUNNING
    assert step.wms.asked["restart"] == 1
    assert step.wms.alive() == [AttemptId(STEP1, "g0000", 1).workflow]
    assert shown(step) == "IN_PROGRESS"


@pytest.mark.parametrize("point", ["decision.recorded", "decision.held"])
def test_a_hold_and_a_release_by_hand(step: Rig, point: str) -> None:
    for verb, held in ((Verb.HOLD, {"g0000"}), (Verb.RELEASE, set())):
        with death_at(point):
            do(step, verb, "g0000")
        do(step, verb, "g0000")  # refused where it is done
        assert set(decided(step).holds) == held


def test_a_retry_by_hand(step: Rig) -> None:
    step.fail("g0000")
    with death_at("decision.answered"):
        do(step, Verb.RETRY, "g0000")
    do(step, Verb.RETRY, "g0000")
    assert set(requested(step)) == {"g0000"}


def test_limits_of_a_site(rig: Rig) -> None:
    def set_() -> None:
        values = {"limits.in_flight": 3}
        sites.override(rig.instance, SITE, values, user="ann", reason="the disk is slow")

    with death_at("limits.written"):
        set_()
    assert sites.read_overrides(rig.instance, SITE)["limits.in_flight"].value == 3
    set_()
    assert rig.instance.has_dynamic_partition("sites", SITE)


# ------------------------------------------------------------------------------------------------------ what is rare


def test_what_holds_a_step_is_said_once_more_at_most(rig: Rig) -> None:
    rig.create(make_spec(steps={"step1": {"pipeline": "#step1", "scouts": 1}}))
    rig.plan(2)
    rig.fail("g0000")
    with death_at("holds.told"):
        tell(rig.instance, look(rig.instance, rig.site))
    for _ in range(3):
        tell(rig.instance, look(rig.instance, rig.site))
    found = rig.instance.fetch_observations(dg.AssetKey(STEP1.asset), limit=20).records
    said = [one for each in found if (one := each.event_log_entry.asset_observation) and not one.partition]
    assert len(said) == 2


def test_the_submit_area_is_cleared_later(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.create()
    folder = rig.site.area / "_runs"
    folder.mkdir(parents=True)
    for name in ("one", "two"):
        (folder / name).touch()
    monkeypatch.setattr(lifeline, "_tidied", {})
    with death_at("tidy.removed"):
        tidy(rig.instance, rig.site)
    assert len(list(folder.iterdir())) == 1
    monkeypatch.setattr(lifeline, "_tidied", {})  # as in a new process
    tidy(rig.instance, rig.site)
    assert list(folder.iterdir()) == []


def test_a_launch_that_was_left_behind(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.create()
    rig.plan(1)
    with monkeypatch.context() as patch, open_launcher(rig.instance) as ui:
        patch.setattr(CampaignInstance, "submit_run", lambda self, run_id, _: self.get_run_by_id(run_id))
        run = ui.launch("g0000")
    monkeypatch.setattr(stuck, "_AGE", timedelta(0))
    with death_at("stuck.queued"):
        queue_stuck(rig.instance, SITE)
    queue_stuck(rig.instance, SITE)
    assert rig.state(run.run_id) is State.QUEUED
    assert rig.submit(run.run_id).submitted == 1


def test_a_backfill_that_fails(rig: Rig) -> None:
    made = PartitionBackfill(
        "abcdefgh", BulkActionStatus.REQUESTED, from_failure=False, tags={}, backfill_timestamp=1.0
    )
    rig.instance.add_backfill(made)
    run_id = rig.begin("g0000")
    rig.instance.add_run_tags(run_id, {"dagster/backfill": "abcdefgh"})
    error = SerializableErrorInfo("Partition g0002 was deleted", [], None)

    def fails() -> None:
        rig.instance.update_backfill(made._replace(status=BulkActionStatus.FAILING, error=error))

    with death_at("backfill.noted"):
        fails()
    fails()
    found = rig.instance.get_backfill("abcdefgh")
    assert found is not None
    assert found.status is BulkActionStatus.FAILING
    assert rig.state(run_id) is State.RUNNING
    assert "has failed: Partition g0002 was deleted" in rig.notes(run_id)


def test_a_twin_that_the_audit_was_about_to_cancel(rig: Rig) -> None:
    rig.create()
    rig.plan(1)
    run_id = rig.queue("g0000")
    assert rig.submit(run_id).submitted == 1
    twin = rig.wms.add(AttemptId(STEP1, "g0000", 1).workflow)

    def night() -> None:
        audit(rig.instance, rig.site, LOG, fix_by="the nightly audit")

    with death_at("audit.noted"):
        night()
    assert rig.wms.workflows[twin].state is WmsState.RUNNING
    night()
    assert rig.wms.workflows[twin].state is WmsState.CANCELLED
    assert rig.wms.workflows[rig.attempt(run_id).wms_id].state is WmsState.RUNNING
    assert "ALARM" in rig.notes(run_id)
