"""Groups go to another site: nothing is lost, nothing is done at both, and numbers of attempts go on."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from cm_dagster.control.dispatch import wishes
from cm_dagster.control.move import MoveOrder, MoveResult, move, propose
from cm_dagster.control.site import Site
from cm_dagster.control.steps import load_boards
from cm_dagster.control.submit import submit
from cm_dagster.crashpoints import set_crash_hook
from cm_dagster.errors import LedgerError
from cm_dagster.ledger import decisions, events
from cm_dagster.ledger.plans import Plan, load_plan, save_plan
from cm_dagster.plan.groups import Group
from cm_dagster.plan.names import StepId
from cm_dagster_tests.integration.ledger_rig import LOG, SITE, STEP1, Rig, make_spec

THERE = StepId("camp", "step1", "there")
ORDER = MoveOrder("anna", "here is down")


@pytest.fixture
def two(rig: Rig) -> Rig:
    """A step of four groups, in turn at two sites that share a Butler."""
    rig.create(make_spec(sites={SITE: 1.0, "there": 1.0}))
    groups = [Group(f"g{n:04d}", f"visit = {n}", 1, None, "", SITE if n % 2 == 0 else "there") for n in range(4)]
    save_plan(rig.instance, Plan("camp", "step1", tuple(groups)), begun=False)
    rig.materialize(dg.AssetKey(["camp", "step1", "inputs"]))
    return rig


def go(rig: Rig, *names: str, to: str = "there", order: MoveOrder = ORDER) -> list[MoveResult]:
    return move(rig.instance, "camp", "step1", dict.fromkeys(names, to), order)


def wanted(rig: Rig, site: str) -> list[tuple[str, int]]:
    return [(wish.id.group, wish.id.number) for wish in wishes(rig.instance, Site(site, rig.site.spec))]


def sites(rig: Rig) -> dict[str, str]:
    plan = load_plan(rig.instance, "camp", "step1")
    assert plan is not None
    return {group.name: group.site for group in plan.groups}


def test_a_group_that_is_not_begun_goes_at_the_next_tick_of_its_new_site(two: Rig) -> None:
    assert [(each.done, each.before, each.after) for each in go(two, "g0000")] == [(True, SITE, "there")]
    assert wanted(two, SITE) == [("g0002", 1)]
    assert wanted(two, "there") == [("g0000", 1), ("g0001", 1), ("g0003", 1)]
    assert sorted(two.instance.get_dynamic_partitions(THERE.tag)) == ["g0000", "g0001", "g0003"]
    assert two.instance.get_dynamic_partitions(STEP1.tag) == ["g0002"]
    (decision,) = decisions.decisions_on(two.instance, THERE, "g0000")
    assert (decision.user, decision.action, decision.before, decision.after) == ("anna", "move", "at here", "at there")


def test_numbers_of_attempts_go_on_and_retries_begin_anew(two: Rig) -> None:
    two.fail("g0000")
    (result,) = go(two, "g0000")
    assert (result.done, result.said) == (True, "attempt 2 is its next")
    assert ("g0000", 2) in wanted(two, "there")


def test_moved_back_it_goes_on_with_the_next_number(two: Rig) -> None:
    two.fail("g0000")
    go(two, "g0000")
    go(two, "g0000", to=SITE)
    assert sites(two)["g0000"] == SITE
    assert ("g0000", 2) not in wanted(two, "there")
    plan = load_plan(two.instance, "camp", "step1")
    assert plan is not None
    assert plan.group("g0000").first == 2


def test_what_runs_is_not_moved(two: Rig) -> None:
    two.begin("g0000")
    (result,) = go(two, "g0000")
    assert (result.done, result.said) == (False, "its attempt 1 is running at here")
    assert result.advice == "cancel it first (cm group cancel), or wait for its end"
    assert sites(two)["g0000"] == SITE


def test_what_is_accepted_or_there_already_is_not_moved(two: Rig) -> None:
    two.accept("g0000")
    accepted, there = go(two, "g0000", "g0001")
    assert accepted.said == "it is accepted, so there is nothing left to move"
    assert there.said == "it is at there already"


def test_what_was_cancelled_must_be_known_to_be_over_unless_it_is_abandoned(two: Rig) -> None:
    run_id = two.begin("g0000")
    two.terminate(run_id, force=True)
    (result,) = go(two, "g0000")
    assert "has not confirmed" in result.said
    assert "--abandon" in result.advice
    (result,) = go(two, "g0000", order=MoveOrder("anna", "it burns", abandon=True))
    assert result.done
    assert ("g0000", 2) in wanted(two, "there")


def test_what_waits_in_the_queue_is_withdrawn(two: Rig) -> None:
    run_id = two.queue("g0000")
    (result,) = go(two, "g0000")
    assert result.done
    assert two.end_message(run_id) == "Its group is moved by anna: here is down"
    assert ("g0000", 2) in wanted(two, "there")


def test_an_attempt_that_the_old_site_still_has_at_hand_is_turned_away(two: Rig) -> None:
    go(two, "g0000")
    run_id = two.queue("g0000")  # its coordinator was too early to see the move
    submit(two.instance, two.site, [run_id], "submit-run", LOG)
    assert two.end_message(run_id) == "cm_dagster does not take this run: g0000 was moved to there"
    assert two.wms.alive() == []


@pytest.fixture
def hook() -> Iterator[None]:
    yield
    set_crash_hook(None)


@pytest.mark.usefixtures("hook")
def test_a_group_that_is_begun_meanwhile_stays(two: Rig) -> None:
    run_id = two.queue("g0000")

    def begin(point: str) -> None:
        if point == "move.noted":
            events.start(two.instance, two.attempt(run_id))

    set_crash_hook(begin)
    first, second = go(two, "g0000", "g0002")
    assert (first.done, second.done) == (False, True)
    assert sites(two) == {"g0000": SITE, "g0001": "there", "g0002": "there", "g0003": "there"}
    set_crash_hook(None)
    two.instance.report_run_canceled(two.attempt(run_id).run)
    assert go(two, "g0000", order=MoveOrder("anna", "now", abandon=True))[0].done


@pytest.mark.usefixtures("hook")
def test_a_move_that_died_half_way_is_done_by_the_next_one(two: Rig) -> None:
    def die(point: str) -> None:
        if point == "move.noted":
            raise KeyboardInterrupt

    set_crash_hook(die)
    with pytest.raises(KeyboardInterrupt):
        go(two, "g0000")
    set_crash_hook(None)
    assert sites(two)["g0000"] == SITE
    assert go(two, "g0000")[0].done
    assert ("g0000", 1) in wanted(two, "there")


def test_a_dry_run_says_it_and_does_nothing(two: Rig) -> None:
    assert go(two, "g0000", order=MoveOrder("anna", "why", dry=True))[0].done
    assert sites(two)["g0000"] == SITE


def test_a_plan_that_is_made_anew_leaves_moved_groups_where_they_are(two: Rig) -> None:
    before = load_plan(two.instance, "camp", "step1")
    assert before is not None
    go(two, "g0000")
    assert not save_plan(two.instance, before, begun=False)
    assert sites(two)["g0000"] == "there"


def test_an_unknown_site_or_step_is_refused(two: Rig) -> None:
    with pytest.raises(LedgerError, match="campaign camp has no site 'nowhere'"):
        go(two, "g0000", to="nowhere")
    with pytest.raises(LedgerError, match="camp/step2 has no groups yet"):
        move(two.instance, "camp", "step2", {"g0000": "there"}, ORDER)


def test_rebalancing_moves_only_what_is_free_and_empties_a_site_without_a_share(two: Rig) -> None:
    two.accept("g0000")
    assert propose(two.instance, "camp", "step1", {"there": 1.0}) == {"g0002": "there"}
    assert propose(two.instance, "camp", "step1", {SITE: 1.0, "there": 1.0}) == {}
    move(two.instance, "camp", "step1", {"g0002": "there"}, ORDER)
    assert load_boards(two.instance, ["camp"])[0].plans["step1"].at(SITE)[0].name == "g0000"
