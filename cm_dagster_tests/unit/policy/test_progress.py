"""A step is done only when all of it is; it is blocked only when nothing of it moves by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm_dagster.policy.progress import CampaignState, StepFacts, StepState, campaign_state, step_state
from cm_dagster.policy.states import GroupState

MOVING = {GroupState.QUEUED, GroupState.SUBMITTED, GroupState.RUNNING, GroupState.UNKNOWN}
COUNTS = st.dictionaries(st.sampled_from(GroupState), st.integers(0, 5))
READY = StepFacts(needs_collected=True, signed_off=True, planned=True, collected=False, action_failed=False, groups={})


def ready(*, retriable: int = 0, held_back: bool = False, **groups: int) -> StepState:
    counts = {GroupState(name): count for name, count in groups.items()}
    return step_state(replace(READY, groups=counts, retriable=retriable, held_back=held_back))


@given(counts=COUNTS, retriable=st.integers(0, 2), held_back=st.booleans(), failed=st.booleans(), paused=st.booleans())
def test_only_a_step_whose_groups_are_all_accepted_is_finishing(
    counts: dict[GroupState, int], retriable: int, held_back: bool, failed: bool, paused: bool
) -> None:
    facts = replace(READY, groups=counts, retriable=retriable, held_back=held_back, action_failed=failed, paused=paused)
    state = step_state(facts)
    rest = sum(count for group, count in counts.items() if group is not GroupState.ACCEPTED)
    assert state is not StepState.DONE
    assert (state is StepState.FINISHING) == (rest == 0 and not failed)
    if rest:
        moving = any(counts.get(group) for group in MOVING) or retriable
        moving = moving or (counts.get(GroupState.PLANNED, 0) and not held_back)
        # A pause is neither a success nor a failure.
        assert state is (StepState.PAUSED if paused else StepState.RUNNING if moving else StepState.BLOCKED)


def test_groups_that_end_unequally_keep_a_step_from_its_end() -> None:
    assert ready(accepted=1, running=1, failed=1) is StepState.RUNNING
    assert ready(accepted=98, failed=1) is StepState.BLOCKED
    assert ready(accepted=98, held=1) is StepState.BLOCKED
    assert ready(accepted=98, unknown=1) is StepState.RUNNING
    assert ready(accepted=98, planned=1) is StepState.RUNNING


def test_failed_groups_that_are_tried_again_do_not_block() -> None:
    assert ready(accepted=1, failed=1, retriable=1) is StepState.RUNNING


def test_planned_groups_that_are_held_back_do_not_move() -> None:
    assert ready(failed=1, planned=9, held_back=True) is StepState.BLOCKED
    assert ready(failed=1, planned=9, held_back=True, retriable=1) is StepState.RUNNING
    assert ready(running=1, planned=9, held_back=True) is StepState.RUNNING
    queued = {GroupState.QUEUED: 2, GroupState.PLANNED: 9}
    assert step_state(replace(READY, groups=queued, held_back=True, held_queued=2)) is StepState.BLOCKED
    assert step_state(replace(READY, groups=queued, held_back=True, held_queued=1)) is StepState.RUNNING


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"collected": True, "needs_collected": False}, StepState.DONE),
        ({"planned": False, "needs_collected": False}, StepState.WAITING),
        ({"planned": False, "needs_collected": False, "signed_off": False}, StepState.WAITING),
        ({"planned": False, "signed_off": False}, StepState.GATED),
        ({"planned": False}, StepState.PLANNING),
        ({"planned": False, "action_failed": True}, StepState.BLOCKED),
    ],
)
def test_before_and_after_the_groups(changes: dict[str, bool], state: StepState) -> None:
    assert step_state(replace(READY, **changes)) is state  # type: ignore[arg-type]


@given(steps=st.lists(st.sampled_from(StepState), min_size=1), started=st.booleans())
def test_campaign(steps: list[StepState], started: bool) -> None:
    state = campaign_state(started, steps)
    moving = {StepState.PLANNING, StepState.RUNNING, StepState.FINISHING}
    if all(step is StepState.DONE for step in steps):
        assert state is CampaignState.DONE
    elif not started:
        assert state is CampaignState.CREATED
    elif moving & set(steps):
        assert state is CampaignState.RUNNING
    elif StepState.PAUSED in steps:
        assert state is CampaignState.PAUSED
    else:
        assert state is CampaignState.BLOCKED


def test_a_paused_campaign_is_paused_unless_it_is_done_or_not_started() -> None:
    assert campaign_state(True, [StepState.RUNNING], paused=True) is CampaignState.PAUSED
    assert campaign_state(False, [StepState.WAITING], paused=True) is CampaignState.CREATED
    assert campaign_state(True, [StepState.DONE], paused=True) is CampaignState.DONE


def test_a_campaign_that_waits_for_a_person_alone_is_blocked() -> None:
    assert campaign_state(True, [StepState.DONE, StepState.GATED, StepState.WAITING]) is CampaignState.BLOCKED
