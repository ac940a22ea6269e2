"""Error rules at work: what is decided is done once, whatever dies in between, and is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml

from cm_dagster.control import judge
from cm_dagster.control.dispatch import wishes
from cm_dagster.control.rules import BadEnd, end_badly
from cm_dagster.control.steps import load_boards
from cm_dagster.crashpoints import set_crash_hook
from cm_dagster.ledger import attempts, campaigns, tags
from cm_dagster.ledger.attempts import index_of
from cm_dagster.ledger.claims import BusyError, Claims
from cm_dagster.ledger.decisions import decisions_on, read_taken
from cm_dagster.plan.names import group_folder
from cm_dagster.plan.recipe import Recipe
from cm_dagster.policy.judge import Outcome
from cm_dagster.policy.rules import Fault, Taken
from cm_dagster.policy.states import State
from cm_dagster.policy.verbs import Verb
from cm_dagster.services.quanta import QuantaSummary, TaskQuanta
from cm_dagster.services.wms import WmsState
from cm_dagster_tests.integration.ledger_rig import STEP1, Rig
from cm_dagster_tests.integration.stand_ins import Killed
from cm_dagster_tests.integration.verbs_rig import Registry, cut_campaign, decided, done, requested, resize, run_of

NO_STARS = Fault("isr", (1,), ("ValueError: no stars",))


def open_campaign(rig: Rig, *rules: dict[str, Any], **more: Any) -> Registry:
    """Make a campaign with error rules, whose first step has six groups."""
    cut_campaign(rig, defaults={"rules": list(rules), **more})
    return Registry.at(rig)


def fails(rig: Rig, group: str = "g0000", number: int = 1, fault: Fault = NO_STARS, how: str = "") -> Outcome:
    """Let an attempt's workflow end badly."""
    run_id = rig.queue(group, number, more={tags.HOW: how} if how else None)
    rig.carry_on(run_id, State.ENDED)
    return ends(rig, run_id, fault)


def ends(rig: Rig, run_id: str, fault: Fault = NO_STARS) -> Outcome:
    end = BadEnd("Workflow failed: no stars.", {"verdict": "bad"}, (fault,), done=0.5)
    return end_badly(rig.instance, rig.site, rig.attempt(run_id), end)


def run_id_of(rig: Rig, group: str = "g0000", number: int = 1) -> str:
    found = [each for each in index_of(rig.instance).all_of(STEP1, group) if each.id.number == number]
    return found[-1].run_id


# ---------------------------------------------------------------------------------------------------------- actions


def test_a_retry_follows_with_the_rule_in_all_places(rig: Rig) -> None:
    open_campaign(rig, {"name": "stars", "text": "no stars", "action": "retry"})
    assert fails(rig) is Outcome.FAIL
    run_id = run_id_of(rig)
    assert rig.state(run_id) is State.FAILED
    clause = "rule stars (isr: ValueError: no stars): retry the group, 1 of 2 for this group"
    assert rig.end_message(run_id) == f"Workflow failed: no stars. By {clause}."
    assert requested(rig) == {"g0000": {tags.BY: "dispatch", tags.WANT: "2"}}
    (decision,) = decisions_on(rig.instance, STEP1, "g0000")
    assert (decision.user, decision.action, decision.reason) == ("rule stars", "retry", clause)
    assert read_taken(rig.instance, STEP1) == [Taken("g0000", 1, 0, "stars", "retry")]


def test_a_budget_ends_the_retries(rig: Rig) -> None:
    open_campaign(rig, {"name": "stars", "text": "no stars", "action": "retry", "per_group": 2})
    for number in (1, 2, 3):
        fails(rig, number=number)
        assert ("g0000" in requested(rig)) is (number < 3)
    notes = rig.notes(run_id_of(rig, number=3))
    assert "rule stars can't retry the group: its budget for a group is used up (2)" in notes


def test_where_no_rule_decides_the_file_says_how_often(rig: Rig) -> None:
    open_campaign(rig, retry={"max": 1})
    fails(rig)
    assert set(requested(rig)) == {"g0000"}
    fails(rig, number=2)
    assert requested(rig) == {}


def test_fail_keeps_the_file_from_trying_again(rig: Rig) -> None:
    open_campaign(rig, {"name": "stars", "text": "no stars", "action": "fail"}, retry={"max": 5})
    fails(rig)
    fails(rig, "g0001", fault=Fault("isr", (2,)))
    assert set(requested(rig)) == {"g0001"}


def test_a_hold_waits_for_a_person(rig: Rig) -> None:
    open_campaign(rig, {"name": "stars", "text": "no stars", "action": "hold"}, retry={"max": 5})
    fails(rig)
    assert decided(rig).holds["g0000"].user == "rule stars"
    assert requested(rig) == {}


def test_a_rescue_skips_what_exists_and_a_retry_keeps_its_memory(rig: Rig) -> None:
    registry = open_campaign(rig, {"name": "stars", "text": "no stars", "action": "rescue"})
    registry.runs[run_of("g0000")] = {"isr": 40}
    fails(rig)
    assert Recipe.load(requested(rig)["g0000"][tags.HOW], 2) == Recipe((1,), 40)


def test_a_rescue_of_nothing_is_left_to_the_next_rule(rig: Rig) -> None:
    open_campaign(
        rig,
        {"name": "stars", "text": "no stars", "action": "rescue"},
        {"name": "else", "action": "retry"},
    )
    fails(rig)
    assert requested(rig)["g0000"] == {tags.BY: "dispatch", tags.WANT: "2"}
    assert "rule stars can't rescue the group: no attempt at it has a RUN" in rig.notes(run_id_of(rig))


@pytest.mark.parametrize("left", [{}, {"isr": 40}], ids=["from scratch", "skipping what exists"])
def test_more_memory_is_asked_for_and_grows_each_time(rig: Rig, left: dict[str, int]) -> None:
    registry = open_campaign(rig)
    rescued = (1,) if left else ()
    registry.runs |= {run_of("g0000"): left} if left else {}
    killed = Fault("isr", (137,))
    write_config(rig, 1, {"requestMemory": 2048})
    fails(rig, fault=killed)
    how = requested(rig)["g0000"][tags.HOW]
    assert Recipe.load(how, 2) == Recipe(rescued, sum(left.values()), {"pipetask/isr": 4096})
    write_config(rig, 2, {"requestMemory": 2048, "pipetask": {"isr": {"requestMemory": 4096}}})
    fails(rig, number=2, fault=killed, how=how)
    assert Recipe.load(requested(rig)["g0000"][tags.HOW], 3).memory == {"pipetask/isr": 8192}


def write_config(rig: Rig, number: int, content: dict[str, Any]) -> None:
    """Leave a BPS configuration in the submit directory of an attempt, as BPS does."""
    folder = rig.site.area / f"camp/step1/g0000/a{number:02d}/submit-1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "w_config.yaml").write_text(yaml.safe_dump(content))


def test_a_split_puts_parts_in_the_place_of_the_group(rig: Rig) -> None:
    open_campaign(rig, {"name": "stars", "text": "no stars", "action": "split", "parts": 3})
    resize(rig, "g0000", 10)
    fails(rig)
    assert rig.state(run_id_of(rig)) is State.FAILED
    (board,) = load_boards(rig.instance, ["camp"])
    assert [group.name for group in board.plans["step1"].groups[:4]] == ["g0000a", "g0000b", "g0000c", "g0001"]
    assert requested(rig) == {}
    assert [wish.id.group for wish in wishes(rig.instance, rig.site)][:2] == ["g0000a", "g0000b"]


def test_a_split_that_is_not_possible_fails_with_the_reason(rig: Rig) -> None:
    registry = open_campaign(rig, {"name": "stars", "text": "no stars", "action": "split", "parts": 12})
    resize(rig, "g0000", 12)
    registry.visits = range(5)
    assert fails(rig) is Outcome.FAIL
    assert "which was not possible: g0000 holds 5 values of visit" in rig.end_message(run_id_of(rig))


def test_a_step_is_stopped(rig: Rig) -> None:
    open_campaign(rig, {"name": "stars", "text": "no stars", "action": "stop-step"})
    fails(rig)
    pause = campaigns.find(rig.instance, "camp").pause("step1")
    assert pause is not None
    assert (pause[0], pause[1].user) == ("step1", "rule stars")
    assert "g0000: Workflow failed: no stars." in pause[1].reason
    assert wishes(rig.instance, rig.site) == []


def test_what_exists_is_accepted_by_rule(rig: Rig) -> None:
    registry = open_campaign(rig, {"name": "most", "min_tries": 2, "min_done": 0.5, "action": "accept"})
    registry.runs |= {run_of("g0000"): {"isr": 90}, run_of("g0000", 2): {"isr": 92}}
    fails(rig)
    assert rig.state(run_id_of(rig)) is State.FAILED
    assert fails(rig, number=2) is Outcome.ACCEPT
    assert rig.state(run_id_of(rig, number=2)) is State.ACCEPTED
    assert rig.end_message(run_id_of(rig, number=2)).startswith("Accepted by rule most")


def test_nothing_is_not_accepted_by_rule(rig: Rig) -> None:
    registry = open_campaign(rig, {"name": "all", "action": "accept"})
    registry.runs[run_of("g0000")] = {}
    assert fails(rig) is Outcome.FAIL
    assert "can't accept the group: the registry has no finished quanta" in rig.notes(run_id_of(rig))


def test_a_passive_rule_is_only_noted(rig: Rig) -> None:
    open_campaign(rig, {"name": "stars", "text": "no stars", "action": "retry", "passive": True})
    fails(rig)
    assert requested(rig) == {}
    assert read_taken(rig.instance, STEP1) == []
    assert "passive rule stars would retry the group (isr: ValueError: no stars)." in rig.notes(run_id_of(rig))


def test_a_person_decides_over_a_rule(rig: Rig) -> None:
    open_campaign(rig, {"name": "stars", "text": "no stars", "action": "retry"})
    run_id = rig.begin("g0000", state=State.ENDED)
    done(rig, Verb.HOLD)
    ends(rig, run_id)
    assert requested(rig) == {}
    done(rig, Verb.RELEASE)
    assert set(requested(rig)) == {"g0000"}
    done(rig, Verb.CANCEL)
    assert requested(rig) == {}


# ---------------------------------------------------------------------------------------------------------- restart


def test_a_restart_leaves_the_attempt_open(rig: Rig) -> None:
    open_campaign(rig, {"name": "stars", "text": "no stars", "action": "restart", "per_group": 1})
    run_id = rig.begin("g0000", state=State.ENDED)
    rig.wms.set("1", WmsState.FAILED)
    assert ends(rig, run_id) is Outcome.RESTART
    assert (rig.state(run_id), rig.attempt(run_id).restarts) == (State.SUBMITTED, 1)
    rig.watch()
    assert rig.state(run_id) is State.RUNNING
    rig.wms.set("1", WmsState.FAILED)
    assert ends(rig, run_id) is Outcome.FAIL
    assert read_taken(rig.instance, STEP1) == [Taken("g0000", 1, 0, "stars", "restart")]
    assert rig.wms.asked["restart"] == 1


def test_a_rule_waits_for_a_group_that_somebody_else_works_on(rig: Rig) -> None:
    open_campaign(rig, {"name": "stars", "text": "no stars", "action": "restart", "per_group": 1})
    run_id = rig.begin("g0000", state=State.ENDED)
    rig.wms.set("1", WmsState.FAILED)
    with Claims(group_folder(rig.site.area, STEP1, "g0000")).locked(), pytest.raises(BusyError):
        ends(rig, run_id)
    assert rig.state(run_id) is State.ENDED
    assert ends(rig, run_id) is Outcome.RESTART


def test_a_restart_that_the_wms_refuses_fails_with_the_reason(rig: Rig) -> None:
    open_campaign(rig, {"name": "stars", "text": "no stars", "action": "restart"})
    run_id = rig.begin("g0000", state=State.ENDED)
    rig.wms.set("1", WmsState.SUCCEEDED)
    assert ends(rig, run_id) is Outcome.FAIL
    assert "which was not possible: the WMS did not restart workflow 1" in rig.end_message(run_id)


# --------------------------------------------------------------------------------------------------- from the cause


def test_a_submission_that_finds_nothing_to_do_is_accepted_with_what_was_rescued(rig: Rig) -> None:
    registry = open_campaign(rig)
    registry.runs[run_of("g0000")] = {"isr": 96}
    rig.fail("g0000")
    run_id = rig.queue("g0000", 2, more={tags.HOW: Recipe((1,), 96).dump(2)})
    rig.submitter.turns = [rig.submitter.idle]
    rig.submit(run_id)
    attempt = rig.attempt(run_id)
    assert attempt.state is State.ACCEPTED
    assert attempt.outputs("u/camp") == [run_of("g0000")]
    assert "Accepted by rule nothing-to-do" in rig.end_message(run_id)


def test_a_pipeline_that_is_not_there_stops_the_step(rig: Rig) -> None:
    open_campaign(rig, retry={"max": 3})
    run_id = rig.queue("g0000")
    rig.submitter.turns = [rig.submitter.without_pipeline]
    rig.submit(run_id)
    assert rig.state(run_id) is State.FAILED
    assert "the pipeline file /nope/DRP.yaml does not exist" in rig.end_message(run_id)
    assert campaigns.find(rig.instance, "camp").pause("step1") is not None


def test_a_submission_that_fails_reads_no_other_groups(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of a run has no index, and does not live long enough to read tens of thousands of attempts."""
    open_campaign(rig, {"name": "again", "text": "pipeline", "action": "retry"})
    for group in ("g0001", "g0002"):
        fails(rig, group)
    run_id = rig.queue("g0000")
    monkeypatch.setattr(attempts, "_INDEXES", {})
    monkeypatch.setattr(attempts, "all_runs", Mock(side_effect=AssertionError))
    rig.submitter.turns = [rig.submitter.shaky, rig.submitter.bad]
    rig.submit(run_id)
    rig.submit(run_id)
    assert rig.state(run_id) is State.FAILED
    assert decided(rig).answers["g0000"].verb == "retry"


def test_what_did_not_pass_for_long_is_no_case_for_the_rules_on_what_passes(rig: Rig) -> None:
    open_campaign(rig, {"name": "long", "text": "^given up after 1 tries", "action": "hold"})
    run_id = rig.queue("g0000")
    rig.restrict(submit=rig.site.spec.submit.model_copy(update={"patience": 0.0}))
    rig.submitter.turns = [rig.submitter.shaky]
    rig.submit(run_id)
    assert rig.state(run_id) is State.FAILED
    assert "database is locked" in rig.end_message(run_id)
    assert set(decided(rig).holds) == {"g0000"}
    assert requested(rig) == {}


def test_a_rescue_is_submitted_with_what_it_skips_and_the_memory_it_needs(rig: Rig) -> None:
    registry = open_campaign(rig)
    registry.runs[run_of("g0000")] = {"isr": 90}
    rig.fail("g0000")
    how = Recipe((1,), 90, {"pipetask/isr": 4096}).dump(2)
    run_id = rig.queue("g0000", 2, more={tags.HOW: how})
    rig.submit(run_id)
    config = yaml.safe_load((rig.site.area / "camp/step1/g0000/a02/bps.yaml").read_text())
    assert config["extraQgraphOptions"] == f"--skip-existing-in {run_of('g0000')}"
    assert config["payload"]["inCollection"].startswith(f"{run_of('g0000')},")
    assert config["pipetask"] == {"isr": {"requestMemory": 4096}}
    assert rig.attempt(run_id).outputs("u/camp") == [run_of("g0000", 2), run_of("g0000")]


@pytest.mark.parametrize("left", [None, {}], ids=["gone", "emptied"])
def test_a_rescue_whose_former_run_is_gone_is_not_submitted(rig: Rig, left: dict[str, int] | None) -> None:
    registry = open_campaign(rig)
    registry.runs |= {} if left is None else {run_of("g0000"): left}
    rig.fail("g0000")
    run_id = rig.queue("g0000", 2, more={tags.HOW: Recipe((1,), 90).dump(2)})
    rig.submit(run_id)
    assert rig.submitter.submissions == {}
    assert rig.state(run_id) is State.FAILED
    assert "which it was to rescue" in rig.end_message(run_id)


def test_a_re_execution_in_the_ui_starts_from_scratch(rig: Rig) -> None:
    registry = open_campaign(rig)
    registry.runs[run_of("g0000")] = {"isr": 90}
    how = Recipe((1,), 90, {"pipetask/isr": 4096}).dump(2)
    run_id = rig.queue("g0000", 3, more={tags.HOW: how})  # the tags are copied
    rig.submit(run_id)
    config = yaml.safe_load((rig.site.area / "camp/step1/g0000/a03/bps.yaml").read_text())
    assert "extraQgraphOptions" not in config
    assert "pipetask" not in config


# ------------------------------------------------------------------------------------------- the way from the watch


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What workflows have left, in place of quantum graphs that none of them has: by name of the attempt's folder."""
    found: dict[str, Any] = {}

    def read(submit_dir: Path, butler: Any) -> QuantaSummary:
        return found[f"{submit_dir.parents[1].name}/{submit_dir.parent.name}"]  # type: ignore[no-any-return]

    monkeypatch.setitem(vars(judge), "read_quanta", read)
    return found


def summary(group: str, number: int, expected: int, succeeded: int, *errors: str) -> QuantaSummary:
    tasks = {"isr": TaskQuanta(expected, succeeded, failed=expected - succeeded, errors=errors)}
    return QuantaSummary(run_of(group, number), tasks, provenance=True, registered={"isr": succeeded})


def test_exceptions_and_exit_codes_reach_the_rules(rig: Rig, left: dict[str, Any]) -> None:
    open_campaign(
        rig,
        {"name": "stars", "task": "isr", "text": "^ValueError: no stars", "exit": 1, "action": "retry"},
        {"name": "init", "task": "pipetaskInit", "exit": 3, "action": "hold"},
    )
    first, second = rig.begin("g0000"), rig.begin("g0001")
    left["g0000/a01"] = summary("g0000", 1, 10, 4, "KeyError: x", "ValueError: no stars in v 1")
    left["g0001/a01"] = summary("g0001", 1, 10, 4)
    rig.wms.ends("1", WmsState.FAILED, {"isr": (1,)})
    rig.wms.ends("2", WmsState.FAILED, {"pipetaskInit": (3,)})
    rig.watch()
    assert (rig.state(first), rig.state(second)) == (State.FAILED, State.FAILED)
    assert set(requested(rig)) == {"g0000"}
    assert set(decided(rig).holds) == {"g0001"}


def test_what_failed_quanta_have_logged_reaches_the_rules(rig: Rig, left: dict[str, Any]) -> None:
    open_campaign(rig, {"name": "dead-amp", "task": "isr", "text": "^amp [0-9]+ is dead", "action": "hold"})
    run_id = rig.begin("g0000")
    task = TaskQuanta(10, 4, failed=6, errors=("ValueError: no",), log=("Low signal.", "amp 3 is dead"))
    left["g0000/a01"] = QuantaSummary(run_of("g0000", 1), {"isr": task}, provenance=True, registered={"isr": 4})
    rig.wms.ends("1", WmsState.FAILED, {})
    rig.watch()
    assert "By rule dead-amp (isr: amp 3 is dead): hold the group." in rig.end_message(run_id)
    assert set(decided(rig).holds) == {"g0000"}


def test_a_rescue_is_judged_by_the_whole_group(rig: Rig, left: dict[str, Any]) -> None:
    registry = open_campaign(rig, accept={"quanta": 0.95, "per_task": {"isr": 0.95}})
    rig.fail("g0000")
    registry.runs[run_of("g0000")] = {"isr": 88}
    run_id = rig.queue("g0000", 2, more={tags.HOW: Recipe((1,), 88).dump(2)})
    rig.carry_on(run_id, State.RUNNING)
    left["g0000/a02"] = summary("g0000", 2, 8, 4)  # half of what was left to do, but 92 of 96
    rig.wms.set("2", WmsState.FAILED)
    rig.watch()
    assert rig.state(run_id) is State.ACCEPTED
    assert "92 of 96 quanta succeeded" in rig.end_message(run_id)


def test_an_attempt_waits_where_the_rules_can_not_be_asked(rig: Rig, left: dict[str, Any]) -> None:
    registry = open_campaign(rig, {"name": "all", "action": "rescue"})
    registry.runs[run_of("g0000")] = {"isr": 4}
    run_id = rig.begin("g0000")
    left["g0000/a01"] = summary("g0000", 1, 10, 4)
    rig.wms.set("1", WmsState.FAILED)
    registry.down = True
    rig.watch()
    assert rig.state(run_id) is State.ENDED
    assert decisions_on(rig.instance, STEP1, "g0000") == []
    registry.down = False
    ends(rig, run_id)
    assert set(requested(rig)) == {"g0000"}


# ---------------------------------------------------------------------------------------------------------- crashes

POINTS = {
    "retry": [
        "decision.taken",
        "decision.recorded",
        "decision.answered",
        "rules.done",
        "fail.observed",
        "fail.failed",
    ],
    "rescue": ["decision.answered"],
    "restart": ["decision.recorded", "restart.asked", "restart.recorded"],
    "split": ["plan.written", "plan.partitions", "divide.replaced", "rules.done"],
    "accept": ["decision.recorded", "accept.materialized", "accept.succeeded"],
    "hold": ["decision.held"],
    "stop-step": ["rules.done"],
    "fail": ["decision.answered"],
}


@pytest.mark.parametrize(
    ("action", "point"), [(action, point) for action, points in POINTS.items() for point in points]
)
def test_a_rule_acts_once_whatever_dies(rig: Rig, action: str, point: str) -> None:
    registry = open_campaign(rig, {"name": "all", "action": action, "per_group": 1})
    registry.runs[run_of("g0000")] = {"isr": 40}
    resize(rig, "g0000", 10)
    run_id = rig.begin("g0000", state=State.ENDED)
    rig.wms.set("1", WmsState.FAILED)
    dies_at(rig, run_id, point)
    if rig.attempt(run_id).is_open:
        ends(rig, run_id)
    after = {"restart": State.SUBMITTED, "accept": State.ACCEPTED}.get(action, State.FAILED)
    assert rig.state(run_id) is after
    assert [each.action for each in read_taken(rig.instance, STEP1)] == [action]
    assert set(requested(rig)) == ({"g0000"} if action in ("retry", "rescue") else set())
    assert set(decided(rig).holds) == ({"g0000"} if action == "hold" else set())
    assert rig.wms.asked["restart"] == (1 if action == "restart" else 0)
    plan = load_boards(rig.instance, ["camp"])[0].plans["step1"]
    assert ("g0000a" in {group.name for group in plan.groups}) is (action == "split")
    assert plan.split == (("g0000",) if action == "split" else ())
    assert (campaigns.find(rig.instance, "camp").pause("step1") is not None) is (action == "stop-step")


def dies_at(rig: Rig, run_id: str, point: str) -> None:
    """End an attempt badly in a process that dies when it passes a point."""

    def kill(name: str) -> None:
        if name == point:
            raise Killed

    set_crash_hook(kill)
    try:
        with pytest.raises(Killed):
            ends(rig, run_id)
    finally:
        set_crash_hook(None)
