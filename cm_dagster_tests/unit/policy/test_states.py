"""The table of states is closed, and says of each state what everything else relies on."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import pytest
from dagster import DagsterRunStatus
from hypothesis import given

from cm_dagster.policy.states import (
    HUMAN,
    OPEN,
    SHOWN_AS,
    TRANSITIONS,
    GroupState,
    RunStatus,
    State,
    group_state,
    is_allowed,
)

ENDS = {State.ACCEPTED, State.FAILED, State.CANCELLED}


def test_every_state_is_in_every_table() -> None:
    assert set(SHOWN_AS) == set(TRANSITIONS) == set(State)
    assert all(following <= set(State) for following in TRANSITIONS.values())
    assert {group_state(state) for state in (None, *State)} == set(GroupState)


def test_statuses_are_dagsters_own() -> None:
    assert {status.value for status in RunStatus} <= {status.value for status in DagsterRunStatus}


def test_only_the_ends_have_no_successor() -> None:
    assert {state for state, following in TRANSITIONS.items() if not following} == ENDS
    assert set(State) - OPEN == ENDS


@pytest.mark.parametrize("state", State)
def test_every_state_is_reached_and_leads_to_every_end(state: State) -> None:
    reached = {State.QUEUED}
    for _ in State:
        reached |= {after for before in reached for after in TRANSITIONS[before]}
    assert reached == set(State)
    ahead = {state}
    for _ in State:
        ahead |= {after for before in ahead for after in TRANSITIONS[before]}
    # A person can stop an attempt at any time, and what is being cancelled ends as nothing else.
    wanted = {state} if state in ENDS else {State.CANCELLED} if state is State.CANCELLING else ENDS
    assert ahead & ENDS == wanted


def test_open_attempts_can_be_cancelled_and_nothing_follows_but_cancelled() -> None:
    for state in OPEN - {State.CANCELLING}:
        assert {State.CANCELLING, State.CANCELLED} <= TRANSITIONS[state]
    assert TRANSITIONS[State.CANCELLING] == {State.CANCELLED}


def test_unknown_is_neither_failed_nor_accepted() -> None:
    assert not TRANSITIONS[State.UNKNOWN] & {State.FAILED, State.ACCEPTED, State.FINALIZING}
    assert group_state(State.UNKNOWN) is GroupState.UNKNOWN
    assert SHOWN_AS[State.UNKNOWN] is RunStatus.STARTED


def test_verdicts_follow_only_the_end_of_a_workflow_or_its_submission() -> None:
    before = {state for state, following in TRANSITIONS.items() if State.ACCEPTED in following}
    assert before <= {State.CLAIMED, State.ENDED, State.FINALIZING}
    assert {state for state, following in TRANSITIONS.items() if State.FINALIZING in following} == {State.ENDED}


def test_the_queue_is_left_by_a_claim_or_a_cancellation_alone() -> None:
    assert TRANSITIONS[State.QUEUED] == {State.CLAIMED, State.CANCELLING, State.CANCELLED}
    assert not any(State.QUEUED in following for following in TRANSITIONS.values())


@pytest.mark.parametrize("said", [State.SUBMITTED, State.RUNNING, State.UNKNOWN, State.ENDED])
@pytest.mark.parametrize("known", [state for state, shown in SHOWN_AS.items() if shown is RunStatus.STARTED])
def test_whatever_the_wms_says_next_may_follow(known: State, said: State) -> None:
    if known is State.CLAIMED and said is State.ENDED:
        return  # an attempt has its workflow's id only once it is submitted
    assert is_allowed(known, said)


# ----------------------------------------------------------------------------------------------- who does what


def ahead(state: State, *, people: bool) -> set[State]:
    """All states that may come after a state."""
    found: set[State] = set()
    new = {state}
    while new:
        steps = {(before, after) for before in new for after in TRANSITIONS[before]}
        new = {after for _, after in (steps if people else steps - HUMAN)} - found
        found |= new
    return found


def test_a_persons_transitions_are_transitions_to_a_cancellation() -> None:
    assert all(after in TRANSITIONS[before] for before, after in HUMAN)
    assert {after for _, after in HUMAN} == {State.CANCELLING, State.CANCELLED}


def test_only_a_person_leads_into_a_cancellation() -> None:
    into = {(before, after) for before in State for after in TRANSITIONS[before] if after is State.CANCELLING}
    assert into <= HUMAN
    # Terminate by force: CANCELED at once. What waits may be turned away by itself, too.
    done = {(before, State.CANCELLED) for before in State if State.CANCELLED in TRANSITIONS[before]}
    assert done - HUMAN == {(State.QUEUED, State.CANCELLED), (State.CANCELLING, State.CANCELLED)}


@pytest.mark.parametrize("state", sorted(OPEN))
def test_every_open_state_comes_to_an_end_without_a_person(state: State) -> None:
    wanted = {State.CANCELLED} if state is State.CANCELLING else {State.ACCEPTED, State.FAILED}
    assert wanted <= ahead(state, people=False)


@pytest.mark.parametrize("state", sorted(OPEN - {State.CANCELLING, State.QUEUED}))
def test_without_a_person_nothing_that_has_begun_is_cancelled(state: State) -> None:
    assert not {State.CANCELLING, State.CANCELLED} & ahead(state, people=False)


@given(st.lists(st.sampled_from(State), max_size=30))
def test_any_walk_along_the_table_keeps_its_promises(wishes: list[State]) -> None:
    """Whatever is tried next, in any order: only what the table allows is done."""
    walk = [State.QUEUED]
    for wish in wishes:
        if is_allowed(walk[-1], wish):
            walk.append(wish)
    for before, after in itertools.pairwise(walk):
        assert before == after or after in TRANSITIONS[before]
        assert before not in ENDS or after is before
        assert before is not State.UNKNOWN or after not in {State.ACCEPTED, State.FAILED, State.FINALIZING}
        assert before is not State.CANCELLING or after in {State.CANCELLING, State.CANCELLED}
    assert ENDS.isdisjoint(walk) or walk[-1] in ENDS


def test_allowed_is_what_the_table_says() -> None:
    for before, after in itertools.product(State, State):
        assert is_allowed(before, after) is (before is after or after in TRANSITIONS[before])


def test_a_state_may_be_written_again() -> None:
    assert all(is_allowed(state, state) for state in State)
    assert not is_allowed(State.ACCEPTED, State.RUNNING)


def test_a_group_is_what_its_latest_attempt_is() -> None:
    assert group_state(None) is GroupState.PLANNED
    assert group_state(State.CANCELLED) is GroupState.HELD
    assert group_state(State.CANCELLING) is GroupState.RUNNING
    for state in OPEN:
        assert group_state(state) not in {GroupState.PLANNED, GroupState.ACCEPTED, GroupState.FAILED, GroupState.HELD}
