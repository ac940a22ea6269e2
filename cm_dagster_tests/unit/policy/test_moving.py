"""Which groups may be moved: none that is done or runs, whatever else is said of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm_dagster.policy.moving import MoveFacts, move_refusal
from cm_dagster.policy.states import OPEN, State

FACTS = st.builds(
    MoveFacts, site=st.just("here"), state=st.none() | st.sampled_from(State), number=st.just(2), swept=st.booleans()
)


@given(facts=FACTS, abandon=st.booleans())
def test_what_is_done_or_may_run_is_never_moved(facts: MoveFacts, abandon: bool) -> None:
    may = not move_refusal(facts, "there", abandon=abandon)[0]
    free = facts.state in (None, State.QUEUED, State.FAILED) or (
        facts.state is State.CANCELLED and (facts.swept or abandon)
    )
    assert may == free
    assert not (may and facts.state in OPEN and facts.state is not State.QUEUED)


@given(facts=FACTS)
def test_nothing_is_moved_to_where_it_is(facts: MoveFacts) -> None:
    assert move_refusal(facts, "here", abandon=True) == ("it is at here already", "")


@pytest.mark.parametrize(
    ("state", "swept", "advice"),
    [(State.RUNNING, True, "cancel it first"), (State.CANCELLED, False, "--abandon"), (State.ACCEPTED, True, "")],
)
def test_it_is_said_what_can_be_done(state: State, swept: bool, advice: str) -> None:
    reason, said = move_refusal(MoveFacts("here", state, 2, swept), "there")
    assert reason
    assert advice in said
