"""Delays between tries: longer each time, never too long, the same when computed again, and apart from each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cm_dagster.policy.backoff import JITTER, Wait, delay, wait_again

TIMES = st.floats(0, 4e9)
SECONDS = st.floats(0.1, 1e6)
CAUSES = st.text(max_size=2000)


@given(tries=st.integers(-1, 100_000), seed=st.text(), first=SECONDS, longest=SECONDS)
def test_a_delay_is_bounded_and_always_the_same(tries: int, seed: str, first: float, longest: float) -> None:
    seconds = delay(tries, seed, first=first, longest=longest)
    assert (1 - JITTER) * min(first, longest) <= seconds <= longest
    assert seconds == delay(tries, seed, first=first, longest=longest)


@given(tries=st.integers(1, 100), seed=st.text(), first=SECONDS, longest=SECONDS)
def test_delays_double_until_the_longest(tries: int, seed: str, first: float, longest: float) -> None:
    plain = min(first * 2.0 ** (tries - 1), longest)
    assert (1 - JITTER) * plain <= delay(tries, seed, first=first, longest=longest) <= plain


def test_what_failed_together_is_spread() -> None:
    delays = [delay(1, f"run {n}", first=60.0, longest=900.0) for n in range(1000)]
    assert len(set(delays)) == 1000
    shares = [sum(low <= seconds < low + 1.5 for seconds in delays) for low in (54.0, 55.5, 57.0, 58.5)]
    assert min(shares) > 200


@given(causes=st.lists(CAUSES, min_size=1), start=TIMES, gaps=st.lists(st.floats(-1e5, 1e5)), seconds=SECONDS)
def test_a_series_counts_and_remembers_when_it_began(
    causes: list[str], start: float, gaps: list[float], seconds: float
) -> None:
    wait: Wait | None = None
    now, times = start, []
    for place, cause in enumerate(causes):
        wait = wait_again(wait, cause, now, seconds)
        times.append(now)
        assert (wait.tries, wait.since, wait.last, wait.next) == (place + 1, min(times), now, now + seconds)
        assert wait.cause == cause or (len(wait.cause) == 300 and cause.startswith(wait.cause[:-3]))
        assert wait.is_due(now + seconds)
        now += gaps[place] if place < len(gaps) else 0.0


@given(last=TIMES, seconds=SECONDS, now=TIMES)
def test_it_is_due_at_its_time_and_where_the_clock_was_set_back(last: float, seconds: float, now: float) -> None:
    wait = wait_again(None, "away", last, seconds)
    assert wait.is_due(now) == (now < last or now >= last + seconds)
    assert wait.lasts(now) == max(0.0, now - last)


@given(cause=CAUSES, tries=st.integers(1, 1000), times=st.tuples(TIMES, TIMES, TIMES))
def test_it_survives_being_written_and_fits_into_an_index(
    cause: str, tries: int, times: tuple[float, float, float]
) -> None:
    wait = wait_again(Wait("", tries, *times), cause, times[0], 60.0)
    assert Wait.load(wait.dump()) == wait
    assert len(wait.dump().encode()) < 2600


@given(text=st.text())
def test_what_is_no_wait_is_none(text: str) -> None:
    assert Wait.load("") is None
    assert Wait.load(f"[{text}") is None
    assert Wait.load('{"tries": 1}') is None


def test_it_reads_as_a_sentence() -> None:
    once = wait_again(None, "the database is locked", 0.0, 60.0)
    assert str(once) == (
        "the database is locked; tried once since 1970-01-01T00:00:00Z, next try at 1970-01-01T00:01:00Z"
    )
    assert "tried 2 times since 1970-01-01T00:00:00Z, next try at 1970-01-01T00:04:00Z" in str(
        wait_again(once, "the database is locked", 120.0, 120.0)
    )
