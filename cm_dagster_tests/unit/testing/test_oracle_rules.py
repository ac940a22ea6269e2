"""The oracle's rules: campaigns made right have no finding, and each way of being wrong is found as what it is."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm_dagster.testing import oracle
from cm_dagster.testing.oracle.facts import Attempt, AtWms, GroupKey
from cm_dagster_tests.unit.testing.oracle_world import BLAMELESS, G1, G2, LAST, World, accepted, complete, workflow

ENDS = st.lists(st.sampled_from(BLAMELESS), max_size=4)


@given(st.fixed_dictionaries(dict.fromkeys((G1, G2, LAST), ENDS)), st.lists(st.integers(0, 20)), st.booleans())
def test_campaigns_made_right_have_no_finding(
    former: dict[GroupKey, list[str]], twins: list[int], running: bool
) -> None:
    world = complete(former)
    with_workflow = [each for each in world.attempts if each.wms_id]
    for place in twins:
        world.twin(with_workflow[place % len(with_workflow)], "DELETED")
    findings = world.judge(running=running)
    assert findings.lines == ()
    assert findings.clean
    assert findings.cancelled_twins == len(twins)


@given(st.fixed_dictionaries(dict.fromkeys((G1, G2, LAST), ENDS)), st.data())
def test_a_campaign_under_way_has_no_finding_at_any_moment(
    former: dict[GroupKey, list[str]], data: st.DataObject
) -> None:
    world = complete(former)
    moment = data.draw(st.floats(0.0, world.time))
    assert world.at(moment).judge(running=True).lines == ()


# ------------------------------------------------------------------------------------------------------ each wrong way

type Spoil = Callable[[World], object]


def end_of(world: World, key: GroupKey) -> float:
    return accepted(world, key).ended or 0.0


def again(world: World, status: str, state: str, **more: object) -> None:
    """Make a second attempt at a group that is accepted."""
    world.end(world.begin(G1, 2, state, **more), status, materialized=status == "SUCCESS")


def beside_an_open_one(world: World) -> None:
    world.chains = None
    first = accepted(world, LAST)
    late = world.begin(LAST, 2, "SUCCEEDED")
    world.change(first, status="FAILURE", ended=world.now(), materialized=False)
    world.change_workflow(first.wms_id, state="FAILED")
    world.end(late, "SUCCESS", materialized=True)


def retried(how: str, **more: object) -> Spoil:
    """Have the first attempt at the last group end otherwise than before a good retry."""

    def spoil(world: World) -> None:
        world.chains = None
        first = accepted(world, LAST)
        world.change(first, materialized=False, **{"status": "FAILURE", **more})
        world.change_workflow(first.wms_id, state=how, ended_itself=how == "SUCCEEDED")
        world.accept(LAST, 2)

    return spoil


def stale(world: World) -> None:
    """Have the workflow of a first attempt, which failed without one, come after the second was accepted."""
    world.chains = None
    world.blameless(LAST, 1, "never submitted")
    second = replace(accepted(world, LAST), number=2)
    world.change(accepted(world, LAST), number=2).change_workflow(second.wms_id, name=second.name)
    world.workflows.append(AtWms("99", replace(second, number=1).name, "DELETED", world.now(), ended_itself=False))


def goes_on(world: World) -> None:
    """Have the workflow of a failed attempt run."""
    key = G1._replace(step="step3")
    failed = world.plan("step3", key).blameless(key, 1, "failed")
    world.change_workflow(failed.wms_id, state="RUNNING", ended_itself=False)


def own(**more: object) -> Spoil:
    """Have the WMS say something else of an accepted workflow."""
    return lambda w: w.change_workflow(accepted(w, G2).wms_id, **more)


WRONG: dict[str, tuple[Spoil, dict[str, int]]] = {
    "two workflows of one name run": (lambda w: w.twin(accepted(w, G1), "RUNNING"), {"twins": 1}),
    "two workflows of one name succeeded": (lambda w: w.twin(accepted(w, G1), "SUCCEEDED"), {"twins": 1}),
    "a twin was cancelled when it had ended": (
        lambda w: w.twin(accepted(w, G1), "DELETED").change_workflow(w.workflows[-1].wms_id, ended_itself=True),
        {"twins": 1},
    ),
    "two attempts record one workflow": (
        lambda w: w.attempts.append(replace(accepted(w, G1), run_id="other", started=0.0, ended=0.5)),
        {"twins": 1},
    ),
    "an accepted group is processed again": (lambda w: again(w, "FAILURE", "FAILED"), {"redone": 1}),
    "an accepted group is accepted again": (
        lambda w: again(w, "SUCCESS", "SUCCEEDED"),
        {"redone": 1, "lost": 2},  # both chains have the first
    ),
    "a re-execution that no person asked for": (
        lambda w: again(w, "FAILURE", "FAILED", parent=accepted(w, G1).run_id),
        {"redone": 1},
    ),
    "a person launches an accepted group, and does not re-execute it": (
        lambda w: again(w, "FAILURE", "FAILED", by_person=True),
        {"redone": 1},
    ),
    "a second attempt beside an open one": (beside_an_open_one, {"twins": 1, "redone": 1}),
    "a retry of what had succeeded at the WMS": (retried("SUCCEEDED"), {"redone": 1}),
    "a retry of what still runs at the WMS": (retried("RUNNING"), {"redone": 1, "lost": 1}),
    "a retry of what nobody cancelled": (retried("DELETED", status="CANCELED", swept=True), {"redone": 1}),
    "the workflow of an old attempt comes when another is accepted": (stale, {"redone": 1}),
    "submitted before the groups it needs were accepted": (
        lambda w: w.change_workflow(accepted(w, LAST).wms_id, submitted=end_of(w, G2) - 0.5),
        {"early": 1},
    ),
    "submitted before the step it needs was collected": (
        lambda w: w.change_workflow(accepted(w, LAST).wms_id, submitted=end_of(w, G2) + 0.5),
        {"early": 1},
    ),
    "submitted though the step it needs was never planned": (
        lambda w: w.change_step("step1", groups=None),
        {"early": 1, "lost": 1},
    ),
    "a group has no accepted attempt": (
        lambda w: w.change_step("step2", groups=(LAST, LAST._replace(group="g0001"))),
        {"lost": 1},
    ),
    "a step was not collected": (lambda w: w.change_step("step2", collected=None), {"lost": 1}),
    "an accepted workflow is unknown to the WMS": (
        lambda w: w.workflows.remove(workflow(w, accepted(w, LAST))),
        {"lost": 1},
    ),
    "an accepted attempt records the workflow of another": (
        lambda w: w.change(accepted(w, LAST), wms_id="1"),
        {"lost": 2},  # and nobody records its own
    ),
    "an accepted workflow failed": (own(state="FAILED"), {"lost": 1}),
    "an accepted workflow still runs": (own(state="RUNNING", ended_itself=False), {"lost": 1}),
    "an accepted workflow was cancelled": (own(state="DELETED", ended_itself=False), {"lost": 1}),
    "an accepted group is not materialized": (lambda w: w.change(accepted(w, G1), materialized=False), {"lost": 1}),
    "a failed attempt shows as materialized": (
        lambda w: w.change(next(a for a in w.attempts if a.status == "FAILURE"), materialized=True),
        {"lost": 1},
    ),
    "a failed attempt's workflow goes on": (goes_on, {"lost": 3}),  # nor is it accepted, nor its step collected
    "a workflow that no attempt records": (
        lambda w: w.workflows.append(AtWms("99", "camp.step1.here.g0009.a01", "FAILED", 1.5, ended_itself=True)),
        {"lost": 1},
    ),
    "an accepted output is in no chain of the step": (lambda w: w.chain("u/camp/step1", []), {"lost": 2}),
    "an accepted output is not in the chain of its site": (lambda w: w.chain("u/camp/step2/at/here", []), {"lost": 1}),
    "an attempt is open for ever": (lambda w: w.attempts.append(Attempt("late", G1, 2, "QUEUED")), {"lost": 1}),
    "a run that never became an attempt": (lambda w: w.unmarked.append("stray"), {"lost": 1}),
}


@pytest.mark.parametrize("how", WRONG)
def test_each_wrong_is_found(how: str) -> None:
    world = complete({G2: ["failed"]})
    assert world.count() == {}
    spoil, expected = WRONG[how]
    spoil(world)
    assert world.count() == expected


UNDER_WAY = {
    "two workflows of one name run",  # one may be cancelled yet
    "a group has no accepted attempt",
    "a step was not collected",
    "an accepted output is in no chain of the step",
    "an accepted output is not in the chain of its site",
    "an attempt is open for ever",
    "a run that never became an attempt",
}
"""What may come right by itself."""


@pytest.mark.parametrize("how", WRONG)
def test_what_is_wrong_already_is_found_under_way(how: str) -> None:
    world = complete({G2: ["failed"]})
    WRONG[how][0](world)
    found = world.count(running=True)
    if how in UNDER_WAY:
        assert found.get("lost", 0) == found.get("twins", 0) == 0
    else:
        assert found.keys() <= WRONG[how][1].keys()
        assert found


# ---------------------------------------------------------------------------------------------------- good reasons


def test_a_person_may_have_an_accepted_group_done_again() -> None:
    world = complete()
    first = accepted(world, G1)
    again = world.accept(G1, 2, by_person=True, parent=first.run_id)
    assert world.judge().lines == ()
    # A retry of a re-execution that failed needs no person: the group was not accepted any more.
    world.change(again, status="FAILURE", materialized=False)
    world.change_workflow(again.wms_id, state="FAILED")
    world.accept(G1, 3)
    assert world.judge().lines == ()
    # But not before it had ended.
    world.change(first, ended=again.started)
    world.change_workflow(again.wms_id, submitted=(again.started or 0.0) - 0.5)
    assert world.judge(running=True).redone == 1


def test_a_group_may_be_rejected_and_done_again() -> None:
    world = complete()
    world.chains = None
    world.change(accepted(world, LAST), status="FAILURE", ended=world.now())
    (failed,) = [each for each in world.attempts if each.key == LAST]
    world.accept(LAST, 2)
    assert world.count() == {"redone": 1, "lost": 1}  # it shows as materialized
    world.change(failed, rejected=failed.ended)
    assert world.count() == {}


@pytest.mark.parametrize(("state", "lost"), [("FAILED", 0), ("DELETED", 0), ("RUNNING", 1)])
def test_a_workflow_that_stopped_may_be_accepted_by_hand(state: str, lost: int) -> None:
    world = complete()
    world.change_workflow(accepted(world, G1).wms_id, state=state, ended_itself=state == "FAILED")
    assert world.judge().lost == 1
    assert world.change(accepted(world, G1), by_hand=True).judge().lost == lost


def test_a_restart_may_make_a_new_workflow() -> None:
    world = complete()
    first = accepted(world, G1)
    world.twin(first, "SUCCEEDED").change_workflow(first.wms_id, state="FAILED")
    world.change(first, wms_id=world.workflows[-1].wms_id)
    assert world.count() == {"twins": 1}
    world.change(accepted(world, G1), restarts=1)
    assert world.count() == {}


def test_parts_of_a_group_that_was_split() -> None:
    world = complete()
    part = G1._replace(group="g0003a")
    world.chains = None
    world.change_step("step1", groups=(G1, G2, part))
    assert world.count() == {"lost": 1, "early": 1}
    world.accept(part)
    assert world.count() == {"early": 1}
    assert AtWms("1", f"{part}.a12", "RUNNING", 0.0, ended_itself=False).key == part


def test_a_failed_workflow_may_be_accepted_by_the_threshold() -> None:
    world = complete()
    world.change_workflow(accepted(world, G1).wms_id, state="FAILED")
    for registered, threshold, lost in ((96, 0.95, 0), (94, 0.95, 1), (0, 0.0, 1), (99, 1.0, 1), (100, 1.0, 0)):
        world.change(accepted(world, G1), expected=100, registered=registered)
        world.change_step("step1", threshold=threshold)
        assert world.judge().lost == lost


def test_under_way_what_is_being_submitted_or_cancelled_is_no_finding() -> None:
    world = complete()
    step3 = G1._replace(step="step3")
    world.plan("step3", step3)
    attempt = world.begin(step3, 1, "RUNNING")
    world.change(attempt, wms_id="")  # the process that knew its id is dead
    assert world.count(running=True) == {}
    assert world.count() == {"lost": 4}  # open, not recorded, not accepted, not collected
    (attempt,) = [each for each in world.attempts if each.key == step3]
    attempt = world.end(attempt, "CANCELED", cancel_asked=1.0)
    assert world.count(running=True) == {}
    world.change(attempt, swept=True)  # but it runs
    assert world.count(running=True)["lost"] > 0


def test_workflows_of_others_are_no_affair_of_ours() -> None:
    world = complete()
    world.workflows += [
        AtWms("98", "u_someone_w_2026_43", "RUNNING", 1.0, ended_itself=False),
        AtWms("99", "other.step1.here.g0001.a01", "RUNNING", 1.0, ended_itself=False),
    ]
    assert world.judge().clean


def test_what_is_printed() -> None:
    world = complete()
    assert str(world.judge()) == "lost 0 twins 0 redone 0 early 0"
    world.twin(accepted(world, G1), "DELETED")
    world.workflows.remove(workflow(world, accepted(world, G2)))
    lines = str(world.judge()).splitlines()
    assert lines[:2] == ["lost 1 twins 0 redone 0 early 0", "cancelled twins, by rule: 1, of which 1 were submitted"]
    assert lines[2].startswith("lost: camp.step1.here.g0002.a01: run run1 is accepted, but the WMS has no workflow")


def test_the_oracle_is_independent() -> None:
    folder = Path(oracle.__file__).parent
    for path in folder.glob("*.py"):
        tree = ast.parse(path.read_text())
        names = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert not [name for name in names if name.startswith(("cm_dagster.control", "cm_dagster.policy"))]
