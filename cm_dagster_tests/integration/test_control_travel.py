"""What travels between sites: in batches, from one site at a time, again after what passes, and nothing goes before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from cm_dagster.control import again, history
from cm_dagster.control import site as sites
from cm_dagster.control.advance import chains_due
from cm_dagster.control.astray import note_astray, read_astray
from cm_dagster.control.collect import missing_groups
from cm_dagster.control.deliver import deliver
from cm_dagster.control.dispatch import why_group_waits, wishes
from cm_dagster.control.floor import Floor
from cm_dagster.control.history import Cause
from cm_dagster.control.overview import overview
from cm_dagster.control.site import Site
from cm_dagster.control.stage import remember
from cm_dagster.control.steps import Document, collected_key, inputs_key, load_boards
from cm_dagster.control.travel import DELIVER, DOCUMENTS, STAGE, deliveries_due, stages_due
from cm_dagster.errors import ButlerError, TransferError
from cm_dagster.ledger import campaigns, tags
from cm_dagster.ledger.plans import Plan, save_plan
from cm_dagster.plan.groups import Group
from cm_dagster.plan.names import StepId
from cm_dagster.services.mover import Moved, Parcel
from cm_dagster.spec.sites import TransferSpec
from cm_dagster_tests.integration.ledger_rig import SITE, Rig, make_spec

THERE = StepId("camp", "step1", "there")
FAR = StepId("camp", "step1", "far")


@pytest.fixture
def three(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A home site and two others with a Butler of their own; two groups at each."""
    own = yaml.safe_load(rig.site.spec.model_dump_json())
    others = {name: {**own, "home": False, "butler": f"/repo/{name}"} for name in ("there", "far")}
    file = tmp_path / "sites.yaml"
    file.write_text(yaml.safe_dump({"sites": {SITE: own, **others}}))
    monkeypatch.setenv("CM_SITES", str(file))
    sites.known_sites.cache_clear()
    rig.restrict(transfer=TransferSpec(batch=1))
    rig.create(make_spec(sites=[SITE, "there", "far"]))
    names = [SITE, "there", "far"] * 2
    groups = tuple(Group(f"g{n:04d}", f"visit = {n}", 1, None, "", name) for n, name in enumerate(names))
    save_plan(rig.instance, Plan("camp", "step1", groups, remote=("there", "far")), begun=False)
    rig.materialize(inputs_key("camp", "step1"))
    return rig


def other(rig: Rig, name: str) -> Site:
    return Site(name, rig.site.spec.model_copy(update={"home": False}))


def stages(rig: Rig, name: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(trip.step.site, trip.groups) for trip in stages_due(rig.instance, other(rig, name))]


def deliveries(rig: Rig) -> list[tuple[str, tuple[str, ...]]]:
    return [(trip.step.site, trip.groups) for trip in deliveries_due(rig.instance, rig.site)]


def wanted(rig: Rig, name: str) -> list[str]:
    return [wish.id.group for wish in wishes(rig.instance, other(rig, name))]


def run_of(rig: Rig, kind: str, site: str, step: StepId, status: dg.DagsterRunStatus) -> dg.DagsterRun:
    """Make a run of a journey that is in a state."""
    from dagster._core.test_utils import create_run_for_test

    own = {tags.KIND: kind, tags.STEP: step.tag, tags.TRIP: f"{kind} {step.tag}"}
    run: dg.DagsterRun = create_run_for_test(rig.instance, job_name=f"{kind}_{site}", tags=own, status=status)
    return run


# ----------------------------------------------------------------------------------------------------------- inputs


def test_nothing_goes_before_its_inputs_are_at_its_site(three: Rig) -> None:
    assert wanted(three, SITE) == ["g0000", "g0003"]
    assert wanted(three, "there") == []
    remember(three.instance, Document.STAGED, THERE, {"g0004": 1})
    assert wanted(three, "there") == ["g0004"]


def test_a_group_says_that_its_inputs_are_on_their_way(three: Rig) -> None:
    floor = Floor(three.instance, "there", three.site.spec)
    said = why_group_waits(floor, floor.boards["camp"], "step1", "g0001")
    assert said == "its inputs are not at there yet: they are brought there by stage_there, in order of groups"


def test_what_a_person_launches_waits_for_its_inputs_too(three: Rig) -> None:
    from cm_dagster.control.dispatch import take_queued

    run_id = three.queue("g0001", step=THERE)
    floor = Floor(three.instance, "there", three.site.spec, busy=())
    assert take_queued(floor, [three.attempt(run_id)]) == []
    remember(three.instance, Document.STAGED, THERE, {"g0001": 1})
    floor = Floor(three.instance, "there", three.site.spec, busy=())
    assert take_queued(floor, [three.attempt(run_id)]) == [run_id]


def test_inputs_are_brought_in_the_order_of_submission_a_batch_at_a_time(three: Rig) -> None:
    assert stages(three, "there") == [("there", ("g0001",))]
    remember(three.instance, Document.STAGED, THERE, {"g0001": 1})
    assert stages(three, "there") == [("there", ("g0004",))]
    remember(three.instance, Document.STAGED, THERE, {"g0004": 1})
    assert stages(three, "there") == []
    assert stages(three, SITE) == []


def test_one_journey_to_a_site_at_a_time(three: Rig) -> None:
    run_of(three, STAGE, "there", THERE, dg.DagsterRunStatus.STARTED)
    assert stages(three, "there") == []
    assert stages(three, "far") == [("far", ("g0002",))]


def test_after_a_failure_that_may_pass_it_waits_and_says_so(three: Rig) -> None:
    run = run_of(three, STAGE, "there", THERE, dg.DagsterRunStatus.STARTED)
    three.instance.report_run_failed(run, "the database is away")
    assert stages(three, "there") == []
    (view,) = overview(three.instance, ["camp"])
    reason = view.steps[0].reason
    assert "waits: bringing inputs to there failed: the database is away" in reason
    assert str(view.steps[0].state) == "running"


# ---------------------------------------------------------------------------------------------------------- outputs


def test_outputs_are_fetched_of_each_site_apart(three: Rig) -> None:
    for group, step in (("g0001", THERE), ("g0004", THERE), ("g0002", FAR)):
        three.accept(group, step=step)
    assert deliveries(three) == [("there", ("g0001",)), ("far", ("g0002",))]
    run_of(three, DELIVER, SITE, THERE, dg.DagsterRunStatus.STARTED)
    assert deliveries(three) == [("far", ("g0002",))]


def test_a_step_is_complete_when_the_outputs_of_all_sites_are_home(three: Rig) -> None:
    plan = load_boards(three.instance, ["camp"])[0].plans["step1"]
    for group in plan.groups:
        three.accept(group.name, step=StepId("camp", "step1", group.site))
    assert missing_groups(three.instance, plan, except_chains_of=SITE) == ["g0001", "g0002", "g0004", "g0005"]
    remember(three.instance, Document.CHAINED, THERE, {"g0001": 1, "g0004": 1})  # chained there is not at home
    remember(three.instance, Document.DELIVERED, FAR, {"g0002": 1, "g0005": 1})
    assert missing_groups(three.instance, plan, except_chains_of=SITE) == ["g0001", "g0004"]
    remember(three.instance, Document.DELIVERED, THERE, {"g0001": 1, "g0004": 1})
    assert missing_groups(three.instance, plan, except_chains_of=SITE) == []


def test_what_is_accepted_anew_is_fetched_anew(three: Rig) -> None:
    three.accept("g0001", 2, step=THERE)
    remember(three.instance, Document.DELIVERED, THERE, {"g0001": 1})
    assert deliveries(three) == [("there", ("g0001",))]


def test_the_chain_at_a_site_follows_also_when_the_step_is_collected(three: Rig) -> None:
    three.accept("g0001", step=THERE)
    three.materialize(collected_key("camp", "step1"))  # what was delivered is complete, whatever is chained elsewhere
    assert [due.step for due in chains_due(three.instance, other(three, "there"))] == [THERE]
    remember(three.instance, Document.CHAINED, THERE, {"g0001": 1})
    assert chains_due(three.instance, other(three, "there")) == []


class _Stumbling:
    """A mover that breaks after the first parcel."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Parcel]] = []

    def deliver(self, source: str, target: str, parcels: Sequence[Parcel], deadline: float) -> Iterator[Moved]:
        self.asked += [(source, target, parcel) for parcel in parcels]
        yield Moved(parcels[0].name, 3, 3, parcels[0].runs)
        raise ButlerError("the database is away", transient=True)

    def stage(self, *_: object) -> Iterator[Moved]:
        raise NotImplementedError


def test_what_has_arrived_is_remembered_though_the_journey_breaks_off(three: Rig) -> None:
    three.accept("g0001", step=THERE)
    three.accept("g0004", step=THERE)
    told: list[str] = []
    mover = _Stumbling()
    with pytest.raises(ButlerError):
        deliver(three.instance, three.site, mover, THERE, ["g0001", "g0004"], lambda group, _: told.append(group))
    assert told == ["g0001"]
    assert Document.DELIVERED.read(three.instance, [THERE]) == {THERE.tag: {"g0001": 1}}
    run = "u/camp/step1/g0001/a01/run"
    assert mover.asked[0] == ("/repo/there", three.site.spec.butler, Parcel("g0001", (run,)))


def _leave_behind(rig: Rig, kind: str, group: str, step: StepId) -> dg.DagsterRun:
    """Have a journey fail since one group can't be brought, for good."""
    run = run_of(rig, kind, SITE if kind == DELIVER else step.site, step, dg.DagsterRunStatus.STARTED)
    fault = TransferError("a file is lost", advice="look for it")
    revision = campaigns.find(rig.instance, "camp").revision
    note_astray(rig.instance, DOCUMENTS[kind], step, {group: fault}, revision=revision, run_id=run.run_id)
    rig.instance.report_run_failed(run, "a file is lost")
    return run


@pytest.fixture
def final(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have runs fail for good, as they do by a `dagster.Failure`, which no run of these tests can raise."""
    found = history.run_cause

    def cause(*args: Any) -> Cause:
        return replace(found(*args), final=True, advice="look for it")

    monkeypatch.setattr(again, "run_cause", cause)


@pytest.mark.usefixtures("final")
def test_a_group_that_cannot_be_brought_does_not_keep_the_others(three: Rig) -> None:
    three.accept("g0001", step=THERE)
    assert deliveries(three) == [("there", ("g0001",))]
    run = _leave_behind(three, DELIVER, "g0001", THERE)
    assert deliveries(three) == []
    three.accept("g0004", step=THERE)
    assert deliveries(three) == [("there", ("g0004",))]
    other_run = run_of(three, DELIVER, SITE, THERE, dg.DagsterRunStatus.SUCCESS)
    remember(three.instance, Document.DELIVERED, THERE, {"g0004": 1})
    assert deliveries(three) == []
    assert other_run.run_id != run.run_id
    (view,) = overview(three.instance, ["camp"])
    said = f"bringing step1 from there failed: a file is lost. What to do: look for it; re-execute run {run.run_id}"
    assert said in view.steps[0].reason


@pytest.mark.usefixtures("final")
def test_what_was_left_behind_is_tried_again_after_a_decision_or_as_another_attempt(three: Rig) -> None:
    run = _leave_behind(three, STAGE, "g0001", THERE)
    assert stages(three, "there") == [("there", ("g0004",))]
    campaigns.pause(three.instance, "camp", user="pilot", reason="to look for it")
    assert stages(three, "there") == [("there", ("g0001",))]
    assert run.run_id

    three.accept("g0001", step=THERE)
    _leave_behind(three, DELIVER, "g0001", THERE)
    assert deliveries(three) == []
    three.accept("g0001", 2, step=THERE)
    assert deliveries(three) == [("there", ("g0001",))]


@pytest.mark.usefixtures("final")
def test_what_arrives_after_all_is_left_behind_no_longer(three: Rig) -> None:
    _leave_behind(three, STAGE, "g0001", THERE)
    remember(three.instance, Document.STAGED, THERE, {"g0001": 1})
    assert read_astray(three.instance, Document.STAGED, [THERE]) == {THERE.tag: {}}


def test_the_overview_says_what_is_left_where(three: Rig) -> None:
    three.accept("g0001", step=THERE)
    (view,) = overview(three.instance, ["camp"])
    places = {place.site: (place.left, place.unstaged, place.undelivered) for place in view.steps[0].sites}
    assert places == {SITE: (2, 0, 0), "there": (1, 2, 1), "far": (2, 2, 0)}
    assert "left: 2 of 2 at far, 2 of 2 at here, 1 of 2 at there" in view.steps[0].reason
    assert "outputs of 1 group are being brought home from there" in view.steps[0].reason
