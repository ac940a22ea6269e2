"""Overruling an end: restart, accept, reject, split; what Dagster shows is what holds from then on."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from cm_dagster.control.advance import chains_due, moves
from cm_dagster.control.chain import chain
from cm_dagster.control.dispatch import wishes
from cm_dagster.control.steps import accepted, collected_key, load_boards
from cm_dagster.errors import LedgerError
from cm_dagster.ledger import campaigns, decisions, events, tags
from cm_dagster.ledger.attempts import index_of
from cm_dagster.ledger.claims import Claims
from cm_dagster.ledger.decisions import GroupHold
from cm_dagster.ledger.plans import Plan, load_plan, save_plan
from cm_dagster.plan.names import StepId, group_folder
from cm_dagster.policy.states import State
from cm_dagster.policy.verbs import Verb
from cm_dagster.services.wms import WmsState
from cm_dagster_tests.integration.ledger_rig import SITE, STEP1, Rig, make_spec
from cm_dagster_tests.integration.verbs_rig import (
    CUT,
    Registry,
    cut_campaign,
    decided,
    done,
    refused,
    requested,
    resize,
    run_of,
)


@pytest.fixture
def step(rig: Rig) -> Rig:
    return cut_campaign(rig)


@pytest.fixture
def registry(step: Rig) -> Registry:
    return Registry.at(step)


def shown(rig: Rig, group: str = "g0000", step: StepId = STEP1) -> str:
    """What Dagster shows of a group's partition."""
    partitions = dg.DynamicPartitionsDefinition(name=step.tag)
    found = rig.instance.get_status_by_partition(dg.AssetKey(step.asset), [group], partitions) or {}
    status = found.get(group)
    return status.value if status else "nothing"


def asked(rig: Rig) -> dict[str, int]:
    return {group: int(found[tags.WANT]) for group, found in requested(rig).items()}


# ---------------------------------------------------------------------------------------------------------- restart


def test_a_restart_goes_on_with_the_same_attempt(step: Rig) -> None:
    run_id = step.fail("g0000")
    step.wms.set("1", WmsState.FAILED)
    assert done(step, Verb.RESTART) == "failed -> workflow 1 was restarted"
    attempt = step.attempt(run_id)
    assert (attempt.state, attempt.restarts, attempt.id.number) == (State.SUBMITTED, 1, 1)
    assert shown(step) == "IN_PROGRESS"
    step.watch()
    assert step.state(run_id) is State.RUNNING
    assert step.wms.asked["restart"] == 1


def test_a_restart_that_gives_a_new_id_is_followed_by_it(step: Rig) -> None:
    run_id = step.fail("g0000")
    step.wms.set("1", WmsState.FAILED)
    step.wms.restarts_as_new = True
    assert done(step, Verb.RESTART) == "failed -> workflow 1 was restarted as 2"
    assert step.attempt(run_id).wms_id == "2"
    claims = Claims(group_folder(step.site.area, STEP1, "g0000"))
    recorded = claims.recorded(1)
    assert recorded is not None
    assert recorded["wms_id"] == "2"
    step.watch()
    assert step.state(run_id) is State.RUNNING


def test_a_workflow_that_runs_already_is_not_restarted_twice(step: Rig) -> None:
    run_id = step.fail("g0000")  # somebody has restarted it at the WMS
    assert done(step, Verb.RESTART) == "failed -> workflow 1 had been restarted"
    assert step.wms.asked["restart"] == 0
    step.watch()
    assert step.state(run_id) is State.RUNNING


def test_a_cancelled_attempt_can_be_restarted(step: Rig) -> None:
    run_id = step.begin("g0000")
    done(step, Verb.CANCEL)
    assert "being cancelled" in refused(step, Verb.RESTART)
    step.watch()
    step.watch()
    done(step, Verb.RESTART)
    assert not step.attempt(run_id).swept
    step.watch()
    assert step.state(run_id) is State.RUNNING
    assert step.wms.alive() == ["camp.step1.here.g0000.a01"]


def test_the_former_end_of_a_restarted_workflow_is_not_judged(step: Rig) -> None:
    run_id = step.fail("g0000")
    step.wms.set("1", WmsState.FAILED)
    done(step, Verb.RESTART)
    step.wms.set("1", WmsState.FAILED)  # so it is still shown
    step.restrict(wms=step.site.spec.wms.model_copy(update={"settle": 60.0}))
    assert step.watch().summary == "1 restarted a moment ago"
    assert step.state(run_id) is State.SUBMITTED
    step.restrict(wms=step.site.spec.wms.model_copy(update={"settle": 0.0}))
    step.watch()
    assert step.state(run_id) is State.FAILED


def test_a_refused_restart_leaves_the_attempt_as_it_was(step: Rig) -> None:
    run_id = step.fail("g0000")
    step.wms.set("1", WmsState.SUCCEEDED)
    assert "nothing to restart" in refused(step, Verb.RESTART)
    assert step.state(run_id) is State.FAILED
    assert step.end_message(run_id).startswith("bad (A restart was refused:")
    assert shown(step) == "FAILED"
    intended, said = decisions.decisions_on(step.instance, STEP1, "g0000")
    assert (intended.user, intended.action) == (said.user, said.action) == ("ann", "restart")
    assert said.after.startswith("not done: ")


def test_what_the_wms_does_not_know_is_not_restarted(step: Rig) -> None:
    run_id = step.fail("g0000")
    step.wms.hidden = {"1"}
    before = step.instance.get_run_record_by_id(run_id)
    assert "does not know its workflow 1 any more" in refused(step, Verb.RESTART)
    step.wms.down = True
    assert "connection refused" in refused(step, Verb.RESTART)
    assert step.instance.get_run_record_by_id(run_id) == before


def test_an_attempt_is_unknown_where_nobody_can_tell_whether_it_was_restarted(step: Rig) -> None:
    run_id = step.fail("g0000")
    step.wms.set("1", WmsState.FAILED)
    step.wms.restart_breaks = True
    assert "it is not known whether the WMS has restarted workflow 1" in done(step, Verb.RESTART)
    assert step.state(run_id) is State.UNKNOWN
    step.watch()
    assert step.state(run_id) is State.RUNNING


def test_what_tells_of_the_former_end_is_set_aside(step: Rig) -> None:
    run_id = step.fail("g0000")
    step.wms.set("1", WmsState.FAILED)
    folder = Path(step.attempt(run_id).submit_dir)
    folder.mkdir(parents=True)
    for name in ("provenance.qg", "quanta-report.json"):
        (folder / name).write_text("old")
    done(step, Verb.RESTART)
    assert sorted(path.name for path in folder.iterdir()) == ["provenance.qg.1", "quanta-report.json.1"]


# --------------------------------------------------------------------------------------------------- accept, reject


def test_a_failed_group_is_accepted_by_hand(step: Rig, registry: Registry) -> None:
    run_id = step.fail("g0000")
    registry.runs[run_of("g0000")] = {"isr": 90}
    assert done(step, Verb.ACCEPT) == "failed -> accepted, with 90 quanta"
    assert step.state(run_id) is State.ACCEPTED
    assert shown(step) == "MATERIALIZED"
    assert step.end_message(run_id) == "Accepted by ann: since I say so. The registry has 90 quanta of it."
    assert accepted(index_of(step.instance), STEP1) == {"g0000": 1}
    assert "accepted already" in refused(step, Verb.ACCEPT)


@pytest.mark.parametrize(("left", "why"), [(None, "does not have u/camp"), ({}, "no finished quanta")])
def test_nothing_is_not_accepted(step: Rig, registry: Registry, left: dict[str, int] | None, why: str) -> None:
    run_id = step.fail("g0000")
    if left is not None:
        registry.runs[run_of("g0000")] = left
    assert why in refused(step, Verb.ACCEPT)
    assert step.state(run_id) is State.FAILED


def test_acceptance_ends_a_hold_and_what_was_asked_for(step: Rig, registry: Registry) -> None:
    step.fail("g0000")
    registry.runs[run_of("g0000")] = {"isr": 90}
    done(step, Verb.RETRY)
    done(step, Verb.HOLD)
    done(step, Verb.ACCEPT)
    assert decided(step).holds == {}
    assert asked(step) == {}


def test_a_rejected_group_is_red_and_not_in_the_output_and_not_tried_by_itself(step: Rig) -> None:
    run_id = step.accept("g0000")
    assert shown(step) == "MATERIALIZED"
    assert done(step, Verb.REJECT) == "accepted -> failed"
    assert step.state(run_id) is State.FAILED
    assert shown(step) == "FAILED"
    assert step.end_message(run_id) == "Rejected by ann: since I say so."
    assert accepted(index_of(step.instance), STEP1) == {}
    done(step, Verb.RETRY)
    assert asked(step) == {"g0000": 2}


def test_a_rejection_overrides_the_retries_of_the_file(rig: Rig) -> None:
    rig.create(make_spec(steps=CUT, defaults={"retry": {"max": 3}}))
    rig.plan(2)
    rig.fail("g0001")
    rig.accept("g0000")
    done(rig, Verb.REJECT)
    assert asked(rig) == {"g0001": 2}


def test_a_rejected_group_may_be_accepted_again(step: Rig, registry: Registry) -> None:
    run_id = step.accept("g0000")
    registry.runs[run_of("g0000")] = {"isr": 90}
    done(step, Verb.REJECT)
    done(step, Verb.ACCEPT)
    assert step.state(run_id) is State.ACCEPTED
    assert shown(step) == "MATERIALIZED"
    done(step, Verb.REJECT)
    assert shown(step) == "FAILED"


def test_what_is_accepted_after_a_rejection_and_a_restart_is_materialized_again_once(step: Rig) -> None:
    run_id = step.accept("g0000")
    done(step, Verb.REJECT)
    step.wms.set("1", WmsState.FAILED)
    done(step, Verb.RESTART)
    for _ in range(2):
        events.accept(step.instance, events.Acceptance(step.attempt(run_id), "better", {}))
    made = step.instance.fetch_materializations(dg.AssetKey(STEP1.asset), limit=10).records
    assert [str(each.asset_materialization.description) for each in made if each.asset_materialization] == [
        "better",
        "good",
    ]
    assert shown(step) == "MATERIALIZED"


def test_a_step_is_collected_anew_after_a_rejection(step: Rig, registry: Registry) -> None:
    for place in range(6):
        step.accept(f"g000{place}")
    (before,) = moves(step.instance, step.site)
    step.materialize(collected_key("camp", "step1"))
    assert load_boards(step.instance, ["camp"])[0].collected == {"step1"}
    assert done(step, Verb.REJECT) == "accepted -> failed, its step not collected any more"
    assert load_boards(step.instance, ["camp"])[0].collected == set()
    assert moves(step.instance, step.site) == []
    registry.runs[run_of("g0000")] = {"isr": 90}
    done(step, Verb.ACCEPT)
    (after,) = moves(step.instance, step.site)
    assert after.assets == before.assets
    assert after.run_key != before.run_key  # or Dagster would take it for done
    assert campaigns.find(step.instance, "camp").action == "reject step1 g0000"


def test_a_rejected_group_leaves_the_chain_each_time(step: Rig, registry: Registry) -> None:
    step.accept("g0000")
    registry.runs[run_of("g0000")] = {"isr": 90}
    keys = []
    for verb, children in ((None, [run_of("g0000")]), (Verb.REJECT, []), (Verb.ACCEPT, [run_of("g0000")])) * 2:
        if verb:
            done(step, verb)
        for due in chains_due(step.instance, step.site):
            keys.append(due.run_key)
            chain(step.instance, step.site, STEP1).remember(step.instance)
            chain_run(step)
        assert registry.chains["u/camp/step1/at/here"] == children
        assert chains_due(step.instance, step.site) == []
    assert len(keys) == len(set(keys)) == 5


def chain_run(rig: Rig) -> None:
    """Make a run of the job that chains a step, which ended well."""
    more = {tags.STEP: STEP1.tag}
    create_run_for_test(rig.instance, job_name=f"chain_{SITE}", status=dg.DagsterRunStatus.SUCCESS, tags=more)


def test_what_later_steps_began_with_is_not_rejected(step: Rig) -> None:
    run_id = step.accept("g0000")
    step.materialize(collected_key("camp", "step1"))
    step.plan(1, "step2")
    assert "step2 began with the output of its step" in refused(step, Verb.REJECT)
    assert step.state(run_id) is State.ACCEPTED


# ------------------------------------------------------------------------------------------------------------ split


def test_a_group_is_replaced_by_its_parts(step: Rig, registry: Registry) -> None:
    resize(step, "g0001", 10)
    step.fail("g0001")
    assert done(step, Verb.SPLIT, "g0001", parts=3) == "failed -> replaced by g0001a, g0001b, g0001c"
    (board,) = load_boards(step.instance, ["camp"])
    names = [group.name for group in board.plans["step1"].groups]
    assert names == ["g0000", "g0001a", "g0001b", "g0001c", "g0002", "g0003", "g0004", "g0005"]
    where = {group.name: group.where for group in board.plans["step1"].groups}
    assert where["g0001a"].startswith("(visit = 1) AND (instrument = 'HSC' AND visit IN (0..2))")
    partitions = set(step.instance.get_dynamic_partitions(STEP1.tag))
    assert {"g0001a", "g0001b", "g0001c"} < partitions
    assert "g0001" not in partitions
    assert [wish.id.group for wish in wishes(step.instance, step.site)] == names
    for group in ("g0001", "g0001b"):
        assert [each.action for each in decisions.decisions_on(step.instance, STEP1, group)] == ["split"]


def test_a_split_survives_the_inputs_of_the_step_being_made_again(step: Rig, registry: Registry) -> None:
    before = load_plan(step.instance, "camp", "step1")
    assert before is not None
    resize(step, "g0001", 10)
    done(step, Verb.SPLIT, "g0001")
    after = load_plan(step.instance, "camp", "step1")
    assert not save_plan(step.instance, before, begun=False)
    assert load_plan(step.instance, "camp", "step1") == after
    other = Plan("camp", "step1", before.groups[:-1])
    with pytest.raises(LedgerError, match="cut into other groups"):
        save_plan(step.instance, other, begun=False)


@pytest.mark.parametrize("state", [State.RUNNING, State.ACCEPTED])
def test_what_runs_or_is_accepted_is_not_split(step: Rig, registry: Registry, state: State) -> None:
    resize(step, "g0001", 10)
    if state is State.RUNNING:
        step.begin("g0001")
    else:
        step.accept("g0001")
    assert str(state) in refused(step, Verb.SPLIT, "g0001")


def test_a_group_with_too_few_values_is_not_split(step: Rig, registry: Registry) -> None:
    registry.visits = range(2)
    resize(step, "g0001", 2)
    assert "can't make 3 parts" in refused(step, Verb.SPLIT, "g0001", parts=3)
    assert "single value" in refused(step, Verb.SPLIT, "g0002")
    assert len(load_boards(step.instance, ["camp"])[0].plans["step1"].groups) == 6


def test_parts_whose_collections_would_have_too_long_names_are_not_made(rig: Rig) -> None:
    output = "u/" + "x" * 42
    rig.create(make_spec(steps=CUT, butler={"input": ["HSC/defaults"], "output": output}))
    rig.plan(2)
    Registry.at(rig)
    resize(rig, "g0001", 10)
    assert "more than 64 characters" in refused(rig, Verb.SPLIT, "g0001")


def test_a_hold_says_who_and_why() -> None:
    assert str(GroupHold("ann", "bad seeing", 0.0)) == "by ann since 1970-01-01 00:00 UTC: bad seeing"
