"""Which groups are requested and which attempts are sent: by rule, whatever the state of a step."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from cm_dagster.policy.dispatch import Latest, Waiting, choose_groups, order_waiting
from cm_dagster.policy.states import OPEN, State

GROUPS = [f"g{place:04d}" for place in range(12)]
LATEST = st.dictionaries(
    st.sampled_from(GROUPS), st.builds(Latest, number=st.integers(1, 4), state=st.sampled_from(State)), max_size=12
)
SIZES = st.integers(0, 14)
STEPS = ("c/s1/x", "c/s2/x")


def due(name: str, latest: Mapping[str, Latest], retries: int) -> int | None:
    """Number of the attempt that a group should get by itself, said in another way than in the code."""
    if name not in latest:
        return 1
    number = latest[name].number
    return number + 1 if latest[name].state == "failed" and number < 1 + retries else None


@given(latest=LATEST, room=st.integers(-1, 14), scouts=SIZES, retries=st.integers(0, 4), count=SIZES)
def test_choice(latest: dict[str, Latest], room: int, scouts: int, retries: int, count: int) -> None:
    groups = GROUPS[:count]
    chosen = choose_groups(groups, latest, room=room, scouts=scouts, retries=retries)
    names = [name for name, _ in chosen]
    held_back = scouts > 0 and any(
        name not in latest or latest[name].state is not State.ACCEPTED for name in groups[:scouts]
    )
    eligible = [name for name in (groups[:scouts] if held_back else groups) if due(name, latest, retries)]
    # Never more than room, never a group twice, in order; and if there is room and work, the work is chosen.
    assert names == eligible[: max(room, 0)]
    assert len(set(names)) == len(names)
    for name, number in chosen:
        assert number == due(name, latest, retries)
        assert number <= 1 + retries
        assert name not in latest or latest[name].state not in OPEN | {State.ACCEPTED, State.CANCELLED}


@given(
    bad=st.sets(st.sampled_from(GROUPS)), room=st.integers(1, 5), retries=st.integers(0, 3), scouts=st.integers(0, 3)
)
def test_everything_is_tried_and_nothing_for_ever(bad: set[str], room: int, retries: int, scouts: int) -> None:
    """Play a step to its end: bad groups fail each time, others are accepted."""
    latest: dict[str, Latest] = {}
    tries = dict.fromkeys(GROUPS, 0)
    for _ in range(len(GROUPS) * (retries + 1) + 1):
        chosen = choose_groups(GROUPS, latest, room=room, scouts=scouts, retries=retries)
        for name, number in chosen:
            tries[name] += 1
            latest[name] = Latest(number, State.FAILED if name in bad else State.ACCEPTED)
    assert not choose_groups(GROUPS, latest, room=room, scouts=scouts, retries=retries)
    reachable = GROUPS[:scouts] if bad & set(GROUPS[:scouts]) else GROUPS
    for name in GROUPS:
        wanted = 0 if name not in reachable else 1 + retries if name in bad else 1
        assert tries[name] == wanted


WAITING = st.lists(
    st.builds(
        Waiting,
        run_id=st.uuids().map(str),
        step=st.sampled_from(STEPS),
        group=st.sampled_from(GROUPS[:4]),
        by_person=st.booleans(),
        priority=st.integers(-2, 2),
        since=st.integers(0, 5).map(float),
    ),
    max_size=20,
    unique_by=lambda attempt: attempt.run_id,
)
BUSY = st.sets(st.tuples(st.sampled_from(STEPS), st.sampled_from(GROUPS[:4])))


@given(waiting=WAITING, busy=BUSY, room=st.integers(-2, 20))
def test_order(waiting: list[Waiting], busy: set[tuple[str, str]], room: int) -> None:
    chosen = order_waiting(waiting, busy=busy, room=room)
    places = [(attempt.step, attempt.group) for attempt in chosen]
    free = {(attempt.step, attempt.group) for attempt in waiting} - busy
    assert len(places) == len(set(places)) == min(max(room, 0), len(free))
    assert not set(places) & busy
    # A person's request goes first, then the higher priority, then the older one.
    urgency = [(not attempt.by_person, -attempt.priority, attempt.since) for attempt in chosen]
    assert urgency == sorted(urgency)
    for other in waiting:
        if other in chosen or (other.step, other.group) in busy or room <= 0:
            continue
        rank = (not other.by_person, -other.priority, other.since)
        rival = [a for a in chosen if (a.step, a.group) == (other.step, other.group)] or chosen[-1:]
        assert all((not a.by_person, -a.priority, a.since) <= rank for a in rival)


@given(waiting=WAITING, room=st.integers(1, 3))
def test_nobody_waits_for_ever(waiting: list[Waiting], room: int) -> None:
    left = list(waiting)
    for _ in waiting:
        sent = order_waiting(left, busy=(), room=room)
        left = [attempt for attempt in left if attempt not in sent]
    assert left == []


def test_the_order_does_not_depend_on_that_of_the_input() -> None:
    attempts = [Waiting(str(n), STEPS[n % 2], GROUPS[n // 2], False, 0, 1.0) for n in range(8)]
    assert order_waiting(attempts, busy=(), room=8) == order_waiting(reversed(attempts), busy=(), room=8)
