"""What pilots do about groups: done as a whole or refused with the reason, recorded, and shown by Dagster as it is."""

from __future__ import annotations

import pytest

from cm_dagster.control.chain import chain
from cm_dagster.control.collect import collect
from cm_dagster.control.dispatch import wishes
from cm_dagster.control.health import Silence, SiteHealth
from cm_dagster.control.overview import overview
from cm_dagster.control.steps import load_boards
from cm_dagster.control.verbs import choose
from cm_dagster.errors import LedgerError
from cm_dagster.ledger import campaigns, decisions, events, tags
from cm_dagster.ledger.claims import Claims
from cm_dagster.plan.names import group_folder
from cm_dagster.plan.recipe import Recipe
from cm_dagster.policy.states import GroupState, State
from cm_dagster.policy.verbs import Verb
from cm_dagster_tests.integration.ledger_rig import SITE, STEP1, Rig, open_launcher
from cm_dagster_tests.integration.verbs_rig import (
    Registry,
    cut_campaign,
    decided,
    do,
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


def asked(rig: Rig) -> dict[str, int]:
    return {group: int(found[tags.WANT]) for group, found in requested(rig).items()}


# ----------------------------------------------------------------------------------------------------------- choice


def test_groups_are_chosen_by_name_pattern_and_state(step: Rig) -> None:
    step.fail("g0001")
    step.fail("g0004")
    step.begin("g0002")
    chosen = choose(step.instance, "camp", "step1", ["g000[0-3]", "g0005"])
    assert chosen == ["g0000", "g0001", "g0002", "g0003", "g0005"]
    assert choose(step.instance, "camp", "step1", [], ["failed"]) == ["g0001", "g0004"]
    assert choose(step.instance, "camp", "step1", ["g000[0-3]"], ["failed", "running"]) == ["g0001", "g0002"]


def test_groups_of_a_site_that_is_away_are_chosen_by_what_is_shown_of_them(step: Rig) -> None:
    step.fail("g0001")
    step.begin("g0002")
    away = {SITE: SiteHealth(silence=Silence(1.0, "nothing is heard of it"))}
    assert choose(step.instance, "camp", "step1", [], ["unknown"], away) == ["g0002"]
    assert choose(step.instance, "camp", "step1", [], ["running"], away) == []


@pytest.mark.parametrize(
    ("step_name", "names", "why"),
    [
        ("step1", ["g0001", "g0009"], "has no group 'g0009'"),
        ("step1", ["x*"], "has no group 'x\\*'"),
        ("step9", [], "has no step 'step9'"),
        ("step2", ["g0000"], "has no group"),
    ],
)
def test_a_slip_in_a_name_stops_all(step: Rig, step_name: str, names: list[str], why: str) -> None:
    with pytest.raises(LedgerError, match=why):
        choose(step.instance, "camp", step_name, names)


# ------------------------------------------------------------------------------------------------------------ retry


def test_a_retry_is_requested_by_the_dispatcher_once_and_in_the_name_of_who_asked(step: Rig) -> None:
    failed = step.fail("g0001")
    assert asked(step) == {}
    assert done(step, Verb.RETRY, "g0001") == "failed -> attempt 2, at the next tick of dispatch_here"
    (wish,) = [wish for wish in wishes(step.instance, step.site) if wish.id.group == "g0001"]
    assert wish.tags == {tags.WANT: "2", tags.USER: "ann"}  # no cm/by: a person's attempts go first
    assert "a retry, by ann, is asked for already" in refused(step, Verb.RETRY, "g0001")
    again = step.queue("g0001", 2)
    assert asked(step) == {}
    assert "its attempt is queued" in refused(step, Verb.RETRY, "g0001")
    assert step.attempt(again).recipe == Recipe()
    assert step.state(failed) is State.FAILED


def test_an_answer_is_void_once_somebody_launched_the_group(step: Rig) -> None:
    step.fail("g0001")
    done(step, Verb.RETRY, "g0001")
    step.fail("g0001", 2)
    assert asked(step) == {}
    done(step, Verb.RETRY, "g0001")
    assert asked(step) == {"g0001": 3}


def test_what_was_asked_for_can_be_withdrawn(step: Rig) -> None:
    step.fail("g0001")
    done(step, Verb.RETRY, "g0001")
    assert done(step, Verb.CANCEL, "g0001") == "failed, retry asked for -> failed, nothing asked for"
    assert asked(step) == {}
    assert "nothing of it runs" in refused(step, Verb.CANCEL, "g0001")


def test_each_of_several_groups_is_done_or_refused_by_itself(step: Rig) -> None:
    step.fail("g0000")
    step.accept("g0001")
    step.begin("g0002")
    results = do(step, Verb.RETRY, "g0000", "g0001", "g0002", "g0003")
    assert [(result.group, result.done) for result in results] == [
        ("g0000", True),
        ("g0001", False),
        ("g0002", False),
        ("g0003", False),
    ]
    assert [result.said for result in results[1:]] == [
        "it is accepted: reject it first",
        "its attempt is running: cancel it first, or wait for its end",
        "it has no attempt yet: one is requested when it is its turn",
    ]
    assert asked(step) == {"g0000": 2}


def test_a_dry_run_says_the_same_and_does_nothing(step: Rig, registry: Registry) -> None:
    resize(step, "g0000", 10)
    run_id = step.fail("g0000")
    registry.runs[run_of("g0000")] = {"isr": 3}
    before = step.instance.get_run_record_by_id(run_id)
    for verb in (Verb.RETRY, Verb.RESCUE, Verb.RESTART, Verb.ACCEPT, Verb.HOLD, Verb.SPLIT):
        assert done(step, verb, dry=True).startswith("failed -> ")
    assert "only what is accepted" in refused(step, Verb.REJECT, dry=True)
    assert step.instance.get_run_record_by_id(run_id) == before
    assert decisions.decisions_on(step.instance, STEP1, "g0000") == []
    assert (decided(step).holds, decided(step).answers) == ({}, {})
    assert len(load_boards(step.instance, ["camp"])[0].plans["step1"].groups) == 6


def test_a_group_that_is_worked_on_is_left_alone(step: Rig) -> None:
    step.fail("g0000")
    claims = Claims(group_folder(step.site.area, STEP1, "g0000"))
    with claims.locked():
        assert "another process works on" in refused(step, Verb.RETRY)
    done(step, Verb.RETRY)


def test_a_group_of_another_site_is_left_alone(step: Rig) -> None:
    step.fail("g0000")
    step.site.name = "there"
    assert refused(step, Verb.RETRY) == "it belongs to site here, this is there"


def test_a_submit_area_that_can_not_be_used_is_said(step: Rig) -> None:
    step.fail("g0000")
    step.restrict(submit_area=step.folder / "deployment/submit/here/camp")
    (step.folder / "deployment/submit/here/camp").unlink(missing_ok=True)
    (step.site.area.parent).mkdir(exist_ok=True)
    step.site.area.write_text("a file in its place")
    assert "the submit area can't be used" in refused(step, Verb.RETRY)
    assert asked(step) == {}


def test_decisions_are_on_the_page_of_the_group(step: Rig) -> None:
    step.fail("g0000")
    done(step, Verb.RETRY)
    done(step, Verb.CANCEL)
    done(step, Verb.HOLD)
    found = decisions.decisions_on(step.instance, STEP1, "g0000")
    assert [(each.user, each.action, each.reason, each.before) for each in found] == [
        ("ann", "retry", "since I say so", "failed"),
        ("ann", "cancel", "since I say so", "failed, retry asked for"),
        ("ann", "hold", "since I say so", "failed"),
    ]
    assert [each.after for each in found][1:] == ["failed, nothing asked for", "held"]
    assert found[0].time <= found[1].time <= found[2].time
    assert decisions.decisions_on(step.instance, STEP1, "g0001") == []


# --------------------------------------------------------------------------------------------------- hold, release


def test_a_held_group_gets_nothing_by_itself_until_it_is_released(step: Rig) -> None:
    step.fail("g0000")
    done(step, Verb.HOLD)
    done(step, Verb.HOLD, "g0001")
    hold = decided(step).holds["g0001"]
    assert (hold.user, hold.reason) == ("ann", "since I say so")
    requested = {wish.id.group for wish in wishes(step.instance, step.site)}
    assert requested == {"g0002", "g0003", "g0004", "g0005"}
    assert "by ann since" in refused(step, Verb.RETRY)
    assert done(step, Verb.RELEASE) == "failed, held -> released"
    assert done(step, Verb.RELEASE, "g0001") == "planned, held -> released"
    assert {wish.id.group for wish in wishes(step.instance, step.site)} == requested | {"g0001"}
    done(step, Verb.RETRY)
    assert asked(step) == {"g0000": 2}


def test_what_is_held_is_shown_as_held_with_who_and_why(step: Rig) -> None:
    step.fail("g0000")
    done(step, Verb.HOLD)
    done(step, Verb.HOLD, "g0001")
    (view,) = overview(step.instance, ["camp"])
    first = view.steps[0]
    assert (first.groups[GroupState.HELD], first.groups[GroupState.FAILED], first.groups[GroupState.PLANNED]) == (
        2,
        0,
        4,
    )
    (failure,) = first.failures
    assert failure.cause.startswith("Held by ann since ")
    assert failure.cause.endswith("since I say so. bad")
    assert choose(step.instance, "camp", "step1", [], ["held"]) == ["g0000", "g0001"]
    done(step, Verb.RELEASE)
    (view,) = overview(step.instance, ["camp"])
    assert view.steps[0].groups[GroupState.FAILED] == 1


def test_what_is_asked_for_is_counted_as_tried_again(step: Rig) -> None:
    step.fail("g0000")
    step.fail("g0001")
    done(step, Verb.RETRY)
    (view,) = overview(step.instance, ["camp"])
    assert "1 group failed, 1 failed group will be tried again" in view.steps[0].reason


def test_release_tries_again_what_was_cancelled(step: Rig) -> None:
    run_id = step.begin("g0000")
    done(step, Verb.CANCEL)
    assert "being cancelled" in refused(step, Verb.RELEASE) or "not held" in refused(step, Verb.RELEASE)
    step.watch()
    step.watch()
    assert step.state(run_id) is State.CANCELLED
    assert done(step, Verb.RELEASE).startswith("cancelled -> attempt 2")
    (view,) = overview(step.instance, ["camp"])
    assert "failed" not in view.steps[0].reason
    assert asked(step) == {"g0000": 2}


# ----------------------------------------------------------------------------------------------------------- cancel


@pytest.mark.parametrize("state", [State.SUBMITTED, State.RUNNING, State.UNKNOWN, State.ENDED])
def test_cancel_ends_the_workflow(step: Rig, state: State) -> None:
    run_id = step.begin("g0000", state=state)
    assert done(step, Verb.CANCEL) == f"{state} -> cancelling"
    assert "being cancelled already" in refused(step, Verb.CANCEL)
    step.watch()
    assert step.wms.alive() == []
    step.watch()
    assert step.state(run_id) is State.CANCELLED


def test_cancel_ends_what_waits_at_once(step: Rig) -> None:
    run_id = step.queue("g0000")
    assert done(step, Verb.CANCEL) == "queued -> cancelled"
    assert step.state(run_id) is State.CANCELLED
    assert step.end_message(run_id) == "Cancelled by ann: since I say so."
    assert step.submit(run_id).submitted == 0
    assert step.wms.workflows == {}


# ----------------------------------------------------------------------------------------------------------- rescue


def test_a_rescue_skips_what_the_registry_has(step: Rig, registry: Registry) -> None:
    step.fail("g0000")
    registry.runs[run_of("g0000")] = {"isr": 47, "calibrate": 41}
    assert done(step, Verb.RESCUE) == (
        "failed -> attempt 2, which skips 88 quanta of attempt 1, at the next tick of dispatch_here"
    )
    (wish,) = [wish for wish in wishes(step.instance, step.site) if wish.id.group == "g0000"]
    assert Recipe.load(wish.tags[tags.HOW], 2) == Recipe((1,), 88)
    run_id = step.queue("g0000", 2, more=wish.tags)
    assert step.attempt(run_id).recipe.rescued == (1,)


@pytest.mark.parametrize("left", [None, {}], ids=["no RUN", "empty RUN"])
def test_a_rescue_of_nothing_would_do_everything_again(
    step: Rig, registry: Registry, left: dict[str, int] | None
) -> None:
    step.fail("g0000")
    if left is not None:
        registry.runs[run_of("g0000")] = left
    assert "everything would be done again" in refused(step, Verb.RESCUE)
    assert asked(step) == {}


def test_a_registry_that_is_away_has_not_lost_anything(step: Rig, registry: Registry) -> None:
    step.fail("g0000")
    registry.down = True
    assert refused(step, Verb.RESCUE) == "the Butler does not answer"
    assert refused(step, Verb.ACCEPT) == "the Butler does not answer"


def test_a_rescue_of_a_rescue_skips_what_both_have(step: Rig, registry: Registry) -> None:
    step.fail("g0000")
    how = Recipe((1,), 88, {"pipetask/isr": 4096}).dump(2)
    second = step.queue("g0000", 2, more={tags.HOW: how})
    step.carry_on(second, State.RUNNING)
    events.fail(step.instance, step.attempt(second), "bad")
    registry.runs |= {run_of("g0000"): {"isr": 88}, run_of("g0000", 2): {"isr": 5}}
    done(step, Verb.RESCUE)
    answer = decided(step).answers["g0000"]
    assert Recipe.load(answer.recipe, 3) == Recipe((2, 1), 93, {"pipetask/isr": 4096})


def test_a_rescue_reaches_behind_an_attempt_that_left_nothing(step: Rig, registry: Registry) -> None:
    step.fail("g0000")
    step.fail("g0000", 2)
    registry.runs[run_of("g0000")] = {"isr": 7}
    done(step, Verb.RESCUE)
    assert Recipe.load(decided(step).answers["g0000"].recipe, 3).rescued == (1,)


def test_the_chains_hold_each_accepted_run_followed_by_those_that_it_rescued(step: Rig, registry: Registry) -> None:
    step.fail("g0000")
    second = step.queue("g0000", 2, more={tags.HOW: Recipe((1,), 88).dump(2)})
    step.carry_on(second, State.ENDED)
    events.accept(step.instance, events.Acceptance(step.attempt(second), "good", {}))
    for group in ("g0001", "g0002", "g0003", "g0004", "g0005"):
        step.accept(group)
    wanted = [run_of("g0000", 2), *(run_of(f"g000{place}") for place in range(6))]
    made = chain(step.instance, step.site, STEP1)
    assert registry.chains["u/camp/step1/at/here"] == wanted
    made.remember(step.instance)
    collect(step.instance, step.site, campaigns.find(step.instance, "camp").spec, "step1")
    assert registry.chains["u/camp/step1"] == wanted


# ----------------------------------------------------------------------------------------------------------- launch


def test_what_was_asked_for_becomes_an_attempt_by_the_way_of_all_others(step: Rig, registry: Registry) -> None:
    step.fail("g0000")
    registry.runs[run_of("g0000")] = {"isr": 88}
    done(step, Verb.RESCUE)
    (wish,) = [wish for wish in wishes(step.instance, step.site) if wish.id.group == "g0000"]
    with open_launcher(step.instance) as launcher:
        run = launcher.launch("g0000", job=STEP1.job, more=wish.tags)
        late = launcher.launch("g0000", job=STEP1.job, more=wish.tags)
    attempt = step.attempt(run.run_id)
    assert (attempt.id.number, attempt.by_person, attempt.recipe.rescued) == (2, True, (1,))
    assert run.tags[tags.USER] == "ann"
    assert late.status.value == "CANCELED"
    assert asked(step) == {}
    step.submit(run.run_id)
    assert step.submitter.submissions == {"camp.step1.here.g0000.a02": 1}
