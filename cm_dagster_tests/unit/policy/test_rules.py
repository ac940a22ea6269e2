"""Error rules: the first that holds and may act decides, the same each time, and never more often than its budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm_dagster.policy.rules import SHIPPED, Decision, Failure, Fault, Requested, Taken, decide, in_force
from cm_dagster.services.causes import setup_cause, submit_cause
from cm_dagster.spec.rules import ACTIONS, AGAIN, Rule, Rules

LOGS = Path(__file__).parents[1] / "services/logs"
OOM = Failure(
    "g0001",
    1,
    faults=(Fault("isr", (137,)), Fault("calibrate", (), ("MemoryError",))),
    requested={"isr": Requested("pipetask/isr", 2048), "calibrate": Requested("cluster/visit", 8192)},
)


def rule(**fields: Any) -> Rule:
    return Rule.model_validate({"name": "r", "action": "retry", **fields})


def taken(*, group: str = "g0001", attempt: int = 1, name: str = "r", action: Any = "retry") -> Taken:
    return Taken(group, attempt, 0, name, action)


@pytest.mark.parametrize(
    ("fields", "holds"),
    [
        ({}, True),
        ({"task": "isr"}, True),
        ({"task": ["x", "i*"]}, True),
        ({"task": "ISR"}, False),
        ({"exit": 1}, True),
        ({"exit": [2, 3]}, False),
        ({"text": "no stars"}, True),
        ({"text": "^ValueError: .*stars$"}, True),
        ({"text": "No Stars"}, False),
        ({"task": "isr", "exit": 1, "text": "stars"}, True),
        ({"task": "calibrate", "text": "stars"}, False),
        ({"max_tries": 2}, True),
        ({"max_tries": 1}, False),
        ({"min_tries": 3}, False),
        ({"min_done": 0.9}, True),
        ({"min_done": 0.91}, False),
    ],
)
def test_all_conditions_must_hold_on_one_fault(fields: dict[str, Any], holds: bool) -> None:
    faults = (Fault("isr", (1,), ("ValueError: no stars",)), Fault("calibrate", (139,)))
    failure = Failure("g0001", 2, faults=faults, done=0.9)
    assert (decide(failure, [rule(**fields)], []).action == "retry") is holds


def test_a_rule_without_conditions_holds_where_nothing_is_known() -> None:
    assert decide(Failure("g0001", 1), [rule()], []).action == "retry"
    assert decide(Failure("g0001", 1), [rule(text="x")], []).action is None


def test_the_reason_says_which_rule_on_what_and_how_often() -> None:
    failure = Failure("g0001", 2, faults=(Fault("isr", (1, 4), ("ValueError: no stars",)),))
    chosen = rule(name="stars", exit=[4, 5], text="stars", per_group=3)
    decision = decide(failure, [chosen], [taken(name="stars")])
    assert (
        decision.reason == "rule stars (isr: exit code 4: ValueError: no stars): retry the group, 2 of 3 for this group"
    )


def test_a_passive_rule_says_what_it_would_do_and_lets_the_next_decide() -> None:
    failure = Failure("g0001", 1, faults=(Fault("isr"),))
    decision = decide(failure, [rule(name="p", action="accept", passive=True), rule(name="q", action="hold")], [])
    assert (decision.rule, decision.action) == ("q", "hold")
    assert decision.notes == ("passive rule p would accept the group (isr)",)


def test_a_rule_that_can_not_act_says_why_and_lets_the_next_decide() -> None:
    failure = Failure("g0001", 1, impossible={"rescue": "there is no RUN collection"})
    decision = decide(failure, [rule(name="a", action="rescue"), rule(name="b")], [])
    assert decision.rule == "b"
    assert decision.notes == ("rule a can't rescue the group: there is no RUN collection (any failure)",)


def test_a_budget_that_is_used_up_lets_the_next_rule_decide() -> None:
    rules = [rule(per_group=1, per_step=3), rule(name="later", action="hold")]
    second = Failure("g0001", 2)
    assert decide(second, rules, [taken()]).rule == "later"
    assert decide(second, rules, [taken(group=f"g{n:04d}") for n in (5, 6)]).rule == "r"
    decision = decide(second, rules, [taken(group=f"g{n:04d}") for n in (5, 6, 7)])
    assert decision.rule == "later"
    assert "budget for the step is used up (3)" in decision.notes[0]


def test_budgets_are_kept_where_something_is_processed_again() -> None:
    for action in ACTIONS:
        group, step = rule(action=action).budgets
        assert (group is not None and step is not None) == (action in AGAIN)


def test_restarts_count_as_tries() -> None:
    history = [Taken("g0001", 1, 0, "again", "restart"), Taken("g0002", 1, 0, "again", "restart")]
    failure = Failure("g0001", 1, restarts=1)
    assert decide(failure, [rule(min_tries=2)], history).action == "retry"
    assert decide(failure, [rule(min_tries=3)], history).action is None


def test_memory_grows_for_the_tasks_that_lacked_it_up_to_the_ceiling() -> None:
    decision = decide(OOM, [rule(action="more-memory", exit=137, factor=1.5)], [])
    assert decision.memory == {"pipetask/isr": 3072}
    decision = decide(OOM, [rule(action="more-memory", ceiling=10_000)], [])
    assert decision.memory == {"pipetask/isr": 4096, "cluster/visit": 10_000}
    assert decision.reason.startswith("rule r (isr): ask for more memory, pipetask/isr 4096 MB, cluster/visit 10000 MB")


@pytest.mark.parametrize("fields", [{"ceiling": 2048, "exit": 137}, {"task": "other"}])
def test_memory_does_not_grow_beyond_the_ceiling_or_by_guess(fields: dict[str, Any]) -> None:
    failure = replace(OOM, faults=(*OOM.faults, Fault("other")))
    decision = decide(failure, [rule(action="more-memory", **fields)], [])
    assert decision.action is None
    assert "it is the ceiling" in decision.notes[0]


@pytest.mark.parametrize("parts", [None, 5])
def test_a_split_says_in_how_many_parts(parts: int | None) -> None:
    assert decide(Failure("g0001", 1), [rule(action="split", parts=parts)], []).parts == (parts or 2)


# ---------------------------------------------------------------------------------------------------- shipped rules


@pytest.mark.parametrize(
    ("case", "name", "action"),
    [
        ("nothing_to_do", "nothing-to-do", "accept"),
        ("empty_query", "empty-graph", "hold"),
        ("run_exists", "run-exists", "retry"),
        ("submit_dir_exists", "submit-directory-exists", "retry"),
        ("chain_not_contiguous", "other-inputs", "retry"),
        ("missing_pipeline", "pipeline-missing", "stop-step"),
        ("unknown_subset", "pipeline-missing", "stop-step"),
        ("missing_task", "pipeline-missing", "stop-step"),
        ("database_down", "database-lost", "rescue"),
        ("predicate_syntax", "", None),
    ],
)
def test_shipped_rules_know_failed_submissions(case: str, name: str, action: str | None) -> None:
    error = submit_cause(LOGS / case / "submit.log", LOGS / case / "submit")
    decision = decide(Failure("g0001", 1, faults=(Fault(texts=(error.cause,)),)), SHIPPED, [])
    assert (decision.rule, decision.action) == (name, action)


@pytest.mark.parametrize(
    "output", ["/x/loadLSST.bash: No such file or directory", "setup: No such tag w_2099_01", "bps: command not found"]
)
def test_shipped_rules_know_a_stack_that_is_not_there(output: str) -> None:
    fault = Fault(texts=(setup_cause(output).cause,))
    assert decide(Failure("g0001", 1, faults=(fault,)), SHIPPED, []).rule == "stack-missing"


@pytest.mark.parametrize(
    ("fault", "rules"),
    [
        (Fault("isr", (137,)), ["memory-exit"]),
        (Fault("isr", (-9,)), ["memory-exit"]),
        (Fault("isr", (1,), ("MemoryError: Unable to allocate 3 GiB",)), ["memory-error"]),
        (Fault("isr", (1,), ("Job has gone over memory limit of 2048 megabytes",)), ["memory-error"]),
        (Fault("isr", (1,), ("OperationalError: server closed the connection",)), ["database-lost"]),
        (Fault("isr", (1,), ("ValueError: no stars",)), []),
    ],
)
def test_shipped_rules_know_failed_quanta(fault: Fault, rules: list[str]) -> None:
    failure = Failure("g0001", 1, faults=(fault,), requested={"isr": Requested("pipetask/isr", 2048)})
    decision = decide(failure, SHIPPED, [])
    assert [decision.rule] == (rules or [""])


def test_a_lost_database_is_a_retry_where_there_is_nothing_to_rescue() -> None:
    fault = Fault(texts=("OperationalError: x",))
    failure = Failure("g0001", 1, faults=(fault,), impossible={"rescue": "nothing is there"})
    assert decide(failure, SHIPPED, []).action == "retry"


def test_a_rule_of_the_same_name_takes_the_place_of_a_shipped_one() -> None:
    mine = rule(name="memory-exit", exit=[137], action="hold")
    rules = in_force([mine])
    assert [each.name for each in rules].count("memory-exit") == 1
    assert decide(OOM, rules, []).action == "hold"
    assert len(rules) == len(SHIPPED)


# ------------------------------------------------------------------------------------------------------- properties

NAMES = st.sampled_from(["a", "b", "c", "d"])
RULES: st.SearchStrategy[list[Rule]] = st.lists(
    st.builds(
        Rule,
        name=NAMES,
        action=st.sampled_from(ACTIONS),
        task=st.sampled_from([[], ["isr"], ["cal*"]]),
        exit=st.sampled_from([[], [1], [137]]),
        text=st.sampled_from(["", "stars", "^$"]),
        max_tries=st.none() | st.integers(1, 5),
        min_done=st.sampled_from([0.0, 0.5]),
        per_group=st.none() | st.integers(1, 3),
        per_step=st.none() | st.integers(1, 6),
        passive=st.booleans(),
    ),
    max_size=5,
    unique_by=lambda each: each.name,
)
FAULTS = st.builds(
    Fault, st.sampled_from(["", "isr", "calibrate"]), st.sampled_from([(), (1,), (137, 1)]), st.just(("no stars",))
)
FAILURES = st.builds(
    Failure,
    st.sampled_from(["g0001", "g0002"]),
    st.integers(1, 5),
    st.integers(0, 2),
    st.lists(FAULTS, max_size=3).map(tuple),
    st.sampled_from([0.0, 0.6, 1.0]),
    st.just({"isr": Requested("pipetask/isr", 2048)}),
    st.dictionaries(st.sampled_from(ACTIONS), st.just("not possible"), max_size=3),
)
HISTORIES = st.lists(
    st.builds(
        Taken,
        st.sampled_from(["g0001", "g0002"]),
        st.integers(1, 5),
        st.integers(0, 2),
        NAMES,
        st.sampled_from(ACTIONS),
    ),
    max_size=8,
)


@given(failure=FAILURES, rules=RULES, history=HISTORIES)
def test_the_first_rule_that_may_act_decides_the_same_each_time(
    failure: Failure, rules: list[Rule], history: list[Taken]
) -> None:
    decision = decide(failure, rules, history)
    assert decide(failure, rules, history) == decision
    alone = [decide(failure, [each], history) for each in rules]
    first = next((one for one in alone if one.action), Decision())
    assert (decision.rule, decision.action, decision.reason) == (first.rule, first.action, first.reason)


@given(failure=FAILURES, rules=RULES, history=HISTORIES)
def test_a_passive_rule_never_acts_and_never_matters(failure: Failure, rules: list[Rule], history: list[Taken]) -> None:
    decision = decide(failure, rules, history)
    assert not any(each.passive for each in rules if each.name == decision.rule)
    without = decide(failure, [each for each in rules if not each.passive], history)
    assert replace(without, notes=()) == replace(decision, notes=())
    assert sum(said.startswith("passive rule") for said in decision.notes) <= sum(each.passive for each in rules)


@given(failure=FAILURES, rules=RULES, history=HISTORIES)
def test_what_is_not_possible_is_not_decided(failure: Failure, rules: list[Rule], history: list[Taken]) -> None:
    assert decide(failure, rules, history).action not in failure.impossible


@given(rules=RULES, failures=st.lists(FAILURES, max_size=40))
def test_no_rule_acts_more_often_than_its_budgets(rules: list[Rule], failures: list[Failure]) -> None:
    history: list[Taken] = []
    for place, failure in enumerate(failures):
        this = replace(failure, attempt=place + 1)
        decision = decide(this, rules, history)
        if decision.action:
            history.append(Taken(this.group, this.attempt, this.restarts, decision.rule, decision.action))
    for each in rules:
        group, step = each.budgets
        done = [entry.group for entry in history if entry.rule == each.name]
        assert step is None or len(done) <= step
        assert group is None or all(done.count(name) <= group for name in done)


@given(failure=FAILURES, rules=RULES, history=HISTORIES)
def test_a_decision_that_was_not_carried_out_is_made_again(
    failure: Failure, rules: list[Rule], history: list[Taken]
) -> None:
    decision = decide(failure, rules, history)
    if decision.action:
        mine = Taken(failure.group, failure.attempt, failure.restarts, decision.rule, decision.action)
        others = [t for t in history if (t.group, t.attempt, t.restarts) != (mine.group, mine.attempt, mine.restarts)]
        assert decide(failure, rules, [*others, mine]) == decision


# ------------------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"factor": 2.0}, "has `factor`, which `action: retry` does not use"),
        ({"parts": 3}, "has `parts`"),
        ({"action": "split", "ceiling": 3}, "has `ceiling`"),
        ({"text": "("}, "is not a regular expression"),
        ({"min_tries": 3, "max_tries": 2}, "below min_tries"),
        ({"name": "Bad Name"}, "cannot be the name of a rule"),
        ({"action": "resubmit"}, "Input should be"),
        ({"exit": True}, "valid list"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        rule(**fields)


def test_two_rules_of_one_name_are_refused() -> None:
    from pydantic import TypeAdapter

    with pytest.raises(ValueError, match="two rules of the name r"):
        TypeAdapter(Rules).validate_python([rule(), rule(action="hold")])


def test_a_rule_survives_storage() -> None:
    each = rule(action="more-memory", task="isr", exit=137, factor=3.0)
    assert Rule.model_validate(each.model_dump(mode="json")) == each
