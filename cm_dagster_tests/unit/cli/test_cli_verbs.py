"""``cm group retry`` and the other verbs: which groups, what is said, exit codes."""

from __future__ import annotations

import pytest

from cm_dagster.ledger.decisions import decisions_on, read_decided
from cm_dagster.plan.names import StepId
from cm_dagster.policy.states import State
from cm_dagster.policy.verbs import Verb
from cm_dagster_tests.unit.cli.conftest import Cm, Rig

STEP = StepId("rc2", "step1", "local")
WHY = ("--reason", "the disk was full")


@pytest.fixture(autouse=True)
def filled(rig: Rig) -> Rig:
    """Two groups that failed, one that is accepted, one that runs, one that is planned."""
    rig.start()
    rig.plan("step1", 5)
    rig.attempt("step1", 0, State.FAILED, message="bad")
    rig.attempt("step1", 1, State.FAILED, message="bad")
    rig.attempt("step1", 2, State.ACCEPTED)
    rig.attempt("step1", 3, State.RUNNING)
    return rig


def answers(rig: Rig) -> set[str]:
    return set(read_decided(rig.instance, [STEP])[STEP.tag].answers)


@pytest.mark.parametrize("verb", Verb)
def test_each_verb_has_help_and_wants_a_reason(cm_run: Cm, verb: Verb) -> None:
    text = cm_run("group", verb, "--help").out
    assert "CAMPAIGN STEP [GROUP|PATTERN]..." in text
    ran = cm_run("group", verb, "rc2", "step1", "g0000")
    assert (ran.code, "Missing option '--reason'" in ran.err) == (2, True)
    assert cm_run("group", verb, "rc2", "step1", "g0000", "--reason", " ").code == 2
    assert cm_run("group", verb, "rc2", "step1", *WHY).code == 2


def test_groups_by_state(cm_run: Cm, filled: Rig) -> None:
    ran = cm_run("group", "retry", "rc2", "step1", "--state", "failed", *WHY)
    assert ran.code == 0
    assert "2 done, 0 refused" in ran.out
    assert "attempt 2, at the next tick of dispatch_local" in " ".join(ran.out.split())
    assert answers(filled) == {"g0000", "g0001"}
    (decision,) = decisions_on(filled.instance, STEP, "g0001")
    assert (decision.user, decision.action, decision.reason) == ("pilot", "retry", "the disk was full")


def test_a_refusal_is_told_with_its_reason_and_in_the_exit_code(cm_run: Cm, filled: Rig) -> None:
    ran = cm_run("group", "retry", "rc2", "step1", "g000[0-3]", "--user", "ann", "--json", *WHY)
    assert ran.code == 1
    assert [(each["group"], each["done"]) for each in ran.json["groups"]] == [
        ("g0000", True),
        ("g0001", True),
        ("g0002", False),
        ("g0003", False),
    ]
    assert ran.json["groups"][2]["said"] == "it is accepted: reject it first"
    assert decisions_on(filled.instance, STEP, "g0000")[0].user == "ann"


def test_a_dry_run_says_what_would_be_done(cm_run: Cm, filled: Rig) -> None:
    ran = cm_run("group", "hold", "rc2", "step1", "*", "--dry-run", *WHY)
    assert ran.code == 1
    assert "4 would be done, 1 would be refused" in ran.out
    assert read_decided(filled.instance, [STEP]) == {}


def test_a_name_that_is_not_there_stops_all(cm_run: Cm, filled: Rig) -> None:
    ran = cm_run("group", "hold", "rc2", "step1", "g0000", "g0007", *WHY)
    assert (ran.code, ran.out) == (1, "")
    assert "has no group 'g0007'" in ran.err
    assert "its last group is g0004" in ran.err
    assert read_decided(filled.instance, [STEP]) == {}


def test_no_group_in_a_state_is_said(cm_run: Cm) -> None:
    ran = cm_run("group", "retry", "rc2", "step1", "g0002", "--state", "failed", *WHY)
    assert ran.code == 1
    assert "no group of rc2/step1 that was named is failed" in ran.err


def test_parts_are_bounded(cm_run: Cm) -> None:
    assert cm_run("group", "split", "rc2", "step1", "g0000", "--parts", "27", *WHY).code == 2


def test_the_page_of_a_group_tells_what_was_decided(cm_run: Cm) -> None:
    cm_run("group", "retry", "rc2", "step1", "g0000", *WHY)
    cm_run("group", "hold", "rc2", "step1", "g0000", "--reason", "[wait] for ann")
    document = cm_run("group", "show", "rc2", "step1", "g0000", "--json").json
    assert document["follows"] == "a retry, by pilot"
    assert document["held"].startswith("by pilot since ")
    assert [each["action"] for each in document["decisions"]] == ["retry", "hold"]
    text = cm_run("group", "show", "rc2", "step1", "g0000").out
    assert "pilot: hold, failed, retry asked for -> held ([wait] for ann)" in " ".join(text.split())
    other = cm_run("group", "show", "rc2", "step1", "g0001", "--json").json
    assert (other["held"], other["follows"], other["decisions"]) == (None, None, [])
    assert "cm group rescue|restart|retry|accept rc2 step1 g0001" in other["next"]
