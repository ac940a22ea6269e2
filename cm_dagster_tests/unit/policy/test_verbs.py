"""The table of verbs is total: each verb is allowed in a state or refused with the reason."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm_dagster.policy.states import OPEN, OVERRULED, State
from cm_dagster.policy.verbs import ALLOWED, GroupFacts, Verb, refusal

PLAIN: dict[str, Any] = {"size": 5, "swept": True, "submitted": True}
BADLY = [State.FAILED, State.CANCELLED]
AGAIN = [Verb.RETRY, Verb.RESTART, Verb.RESCUE]


@pytest.mark.parametrize("verb", Verb)
@pytest.mark.parametrize("state", [None, *State])
def test_each_verb_is_allowed_or_refused_with_a_reason(verb: Verb, state: State | None) -> None:
    reason = refusal(verb, GroupFacts(state, **PLAIN))
    assert bool(reason) == (state not in ALLOWED[verb])
    assert not reason or len(reason) > 10


def test_nothing_is_done_twice_at_once() -> None:
    for verb in (*AGAIN, Verb.ACCEPT, Verb.SPLIT):
        assert not ALLOWED[verb] & OPEN
    assert not any(State.ACCEPTED in ALLOWED[verb] for verb in Verb if verb is not Verb.REJECT)


def test_unknown_is_neither_accepted_nor_tried_again() -> None:
    allowed = {verb for verb in Verb if not refusal(verb, GroupFacts(State.UNKNOWN, **PLAIN))}
    assert allowed == {Verb.CANCEL, Verb.HOLD}


def test_ends_that_are_overruled_are_those_of_the_verbs() -> None:
    verbs = {State.ACCEPTED: Verb.ACCEPT, State.UNKNOWN: Verb.RESTART, State.FAILED: Verb.REJECT}
    assert {(before, after) for after, verb in verbs.items() for before in ALLOWED[verb]} == OVERRULED


@pytest.mark.parametrize("verb", AGAIN)
@pytest.mark.parametrize("state", BADLY)
def test_a_held_group_is_released_first(verb: Verb, state: State) -> None:
    facts = GroupFacts(state, held="by ann since today: bad seeing", **PLAIN)
    assert refusal(verb, facts) == "it is held: by ann since today: bad seeing; release it first"
    assert refusal(Verb.RELEASE, facts) == ""
    assert "held already" in refusal(Verb.HOLD, facts)


@pytest.mark.parametrize("verb", [*AGAIN, Verb.SPLIT])
def test_what_is_asked_for_is_withdrawn_first(verb: Verb) -> None:
    facts = GroupFacts(State.FAILED, asked="a retry, by ann", **PLAIN)
    assert "a retry, by ann, is asked for already" in refusal(verb, facts)
    assert refusal(Verb.CANCEL, facts) == ""


@pytest.mark.parametrize("verb", [*AGAIN, Verb.ACCEPT, Verb.SPLIT, Verb.RELEASE])
def test_a_workflow_that_may_still_run_is_waited_for(verb: Verb) -> None:
    facts = GroupFacts(State.CANCELLED, size=5, swept=False)
    assert "may still run" in refusal(verb, facts)


def test_only_what_was_submitted_is_restarted() -> None:
    assert "nothing to restart" in refusal(Verb.RESTART, GroupFacts(State.FAILED, submitted=False))
    assert refusal(Verb.RETRY, GroupFacts(State.FAILED, submitted=False)) == ""


@pytest.mark.parametrize(("size", "why"), [(0, "not cut into groups"), (1, "a single value")])
def test_only_what_has_parts_is_split(size: int, why: str) -> None:
    assert why in refusal(Verb.SPLIT, GroupFacts(None, size=size))
    assert refusal(Verb.SPLIT, GroupFacts(None, size=2)) == ""


def test_what_later_steps_were_made_of_is_not_rejected() -> None:
    assert "step2, step3 began with the output" in refusal(
        Verb.REJECT, GroupFacts(State.ACCEPTED, later=("step2", "step3"))
    )
    assert "being collected" in refusal(Verb.REJECT, GroupFacts(State.ACCEPTED, collecting=True))


FACTS = st.builds(
    GroupFacts,
    st.sampled_from([None, *State]),
    st.integers(0, 3),
    held=st.sampled_from(["", "by ann"]),
    asked=st.sampled_from(["", "a retry, by ann"]),
    submitted=st.booleans(),
    swept=st.booleans(),
    collecting=st.booleans(),
    later=st.sampled_from([(), ("step2",)]),
)


@given(verb=st.sampled_from(Verb), facts=FACTS)
def test_circumstances_never_allow_what_the_state_forbids(verb: Verb, facts: GroupFacts) -> None:
    ends_hold = verb is Verb.RELEASE and facts.held
    withdraws = verb is Verb.CANCEL and facts.asked
    if not refusal(verb, facts):
        assert facts.state in ALLOWED[verb] or ends_hold or withdraws
