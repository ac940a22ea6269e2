"""The line of a step: what is due is right after each change, in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cm_dagster.policy.line import Latest, Line, next_number
from cm_dagster.policy.states import State

NAMES = [f"g{place:04d}" for place in range(8)]
LATEST = st.builds(Latest, number=st.integers(1, 4), state=st.sampled_from(State))
CHANGES = st.lists(st.tuples(st.sampled_from([*NAMES, "g9999"]), LATEST), max_size=30)


@given(changes=CHANGES, retries=st.integers(0, 3), but=st.sets(st.sampled_from(NAMES)), scouts=st.integers(0, 9))
def test_it_is_right_after_each_change(
    changes: list[tuple[str, Latest]], retries: int, but: set[str], scouts: int
) -> None:
    line, latest = Line(NAMES, retries), dict[str, Latest]()
    for name, attempt in changes:
        line.note(name, attempt)
        latest[name] = attempt
        wanted = [(name, number) for name in NAMES if (number := next_number(latest.get(name), retries))]
        assert list(line.due()) == wanted
        assert list(line.due(only=but)) == [pair for pair in wanted if pair[0] in but]
        assert list(line.due(but=but)) == [pair for pair in wanted if pair[0] not in but]
        assert [line.before(name) for name in NAMES] == [sum(other < name for other, _ in wanted) for name in NAMES]
        assert list(line.scouting(scouts)) == [
            name for name in NAMES[:scouts] if name not in latest or latest[name].state is not State.ACCEPTED
        ]


def test_what_changes_while_it_is_read_is_no_harm() -> None:
    line = Line(NAMES, 0)
    seen = []
    for name, _ in line.due():
        line.note(name, Latest(1, State.QUEUED))
        seen.append(name)
    assert seen == NAMES
    assert list(line.due()) == []


@given(bad=st.sets(st.sampled_from(NAMES)), room=st.integers(1, 5), retries=st.integers(0, 3), scouts=st.integers(0, 3))
def test_everything_is_tried_and_nothing_for_ever(bad: set[str], room: int, retries: int, scouts: int) -> None:
    """Play a step to its end: bad groups fail each time, others are accepted."""
    line, tries = Line(NAMES, retries), dict.fromkeys(NAMES, 0)

    def due() -> list[tuple[str, int]]:
        first = line.scouting(scouts)
        return list(line.due(only=first or None))

    while chosen := due()[:room]:
        for name, number in chosen:
            tries[name] += 1
            assert number == tries[name]
            line.note(name, Latest(number, State.FAILED if name in bad else State.ACCEPTED))
    reachable = NAMES[:scouts] if bad & set(NAMES[:scouts]) else NAMES
    for name in NAMES:
        assert tries[name] == (0 if name not in reachable else 1 + retries if name in bad else 1)


@given(first=st.integers(1, 5), retries=st.integers(0, 3))
def test_a_group_that_was_moved_goes_on_counting_and_is_tried_as_often_as_any(first: int, retries: int) -> None:
    line, numbers = Line(NAMES, retries, {NAMES[3]: first}), []
    while number := dict(line.due(only=[NAMES[3]])).get(NAMES[3]):
        numbers.append(number)
        line.note(NAMES[3], Latest(number, State.FAILED))
    assert numbers == list(range(first, first + 1 + retries))


@given(attempt=LATEST, retries=st.integers(0, 4))
def test_only_what_failed_is_tried_again_by_itself(attempt: Latest, retries: int) -> None:
    number = next_number(attempt, retries)
    assert (number is not None) == (attempt.state == "failed" and attempt.number < 1 + retries)
    assert number in (None, attempt.number + 1)
