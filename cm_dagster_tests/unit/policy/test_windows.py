"""Windows: open when they say, also across midnight and the end of the week; what is closed opens again."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm_dagster.policy.windows import Window, next_opening

NAMES = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
WEEK = 7 * 86_400


def at(text: str) -> float:
    """Seconds since the epoch of a time in UTC, e.g. ``2026-03-02 17:59``."""
    return datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "open_at", "closed_at"),
    [
        # 2 March 2026 is a Monday.
        ("18:00-06:00", ["2026-03-02 18:00", "2026-03-03 05:59"], ["2026-03-02 17:59", "2026-03-02 06:00"]),
        ("08:30-17:00", ["2026-03-02 08:30", "2026-03-08 16:59"], ["2026-03-02 08:29", "2026-03-02 17:00"]),
        ("mon-fri 18:00-06:00", ["2026-03-07 05:59"], ["2026-03-07 18:00", "2026-03-02 05:59"]),
        ("sat-sun", ["2026-03-07 00:00", "2026-03-08 23:59"], ["2026-03-06 23:59", "2026-03-09 00:00"]),
        ("FRI-mon 20:00-24:00", ["2026-03-02 20:00", "2026-03-06 23:59"], ["2026-03-03 20:00", "2026-03-07 00:00"]),
        ("sun 22:00-02:00", ["2026-03-09 01:59"], ["2026-03-09 02:00", "2026-03-08 01:00"]),
        ("00:00-24:00", ["2026-03-02 00:00", "2026-03-04 23:59"], []),
    ],
)
def test_open_and_closed(text: str, open_at: list[str], closed_at: list[str]) -> None:
    window = Window.parse(text)
    assert [window.is_open(at(time)) for time in open_at] == [True] * len(open_at)
    assert [window.is_open(at(time)) for time in closed_at] == [False] * len(closed_at)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not a window"),
        ("weekend", "not a window"),
        ("mon,tue 18:00-06:00", "not a window"),
        ("18-06", "not a window"),
        ("18:00-18:00", "is empty; the whole day is 00:00-24:00"),
        ("18:60-20:00", "no time 18:60"),
        ("25:00-20:00", "no time 25:00"),
        ("24:00-06:00", "no time 24:00"),
        ("06:00-24:01", "no time 24:01"),
    ],
)
def test_what_is_no_window_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Window.parse(text)


def test_when_it_opens_next() -> None:
    windows = [Window.parse("mon-fri 18:00-06:00"), Window.parse("sat-sun 10:00-11:00")]
    assert next_opening(windows, at("2026-03-02 17:00")) == at("2026-03-02 18:00")
    assert next_opening(windows, at("2026-03-02 18:00")) is None
    assert next_opening(windows, at("2026-03-07 06:00")) == at("2026-03-07 10:00")
    assert next_opening(windows, at("2026-03-08 11:00")) == at("2026-03-09 18:00")
    assert next_opening([], at("2026-03-08 11:00")) is None


MINUTES = st.integers(0, 24 * 60 - 1)


@st.composite
def texts(draw: st.DrawFn) -> str:
    first, last, begin, end = draw(st.tuples(st.integers(0, 6), st.integers(0, 6), MINUTES, MINUTES))
    end = end if end != begin else 24 * 60
    hours = f"{begin // 60:02d}:{begin % 60:02d}-{end // 60:02d}:{end % 60:02d}"
    return draw(st.sampled_from([hours, f"{NAMES[first]} {hours}", f"{NAMES[first]}-{NAMES[last]} {hours}"]))


def spelled_out(text: str, now: float) -> bool:
    """Whether a window is open, said in another way than in the code: by the calendar, minute by minute."""
    moment = datetime.fromtimestamp(now, UTC)
    days, _, hours = text.rpartition(" ")
    first, _, last = (days or "mon-sun").partition("-")
    begin, end = (int(part[:2]) * 60 + int(part[3:]) for part in hours.split("-"))
    day, minute = moment.weekday(), moment.hour * 60 + moment.minute
    on, place = list[int](), NAMES.index(first)
    while not on or NAMES[on[-1]] != (last or first):
        on.append(place)
        place = (place + 1) % 7
    if begin < end:
        return day in on and begin <= minute < end
    return (day in on and minute >= begin) or ((day - 1) % 7 in on and minute < end)


@given(text=texts(), now=st.integers(0, 4_000_000_000).map(float))
def test_it_is_open_as_the_calendar_says(text: str, now: float) -> None:
    assert Window.parse(text).is_open(now) == spelled_out(text, now)


@given(text=st.lists(texts(), min_size=1, max_size=3), now=st.integers(0, 4_000_000_000).map(float))
def test_what_is_closed_opens_within_a_week_and_not_before_it_says(text: list[str], now: float) -> None:
    windows = [Window.parse(one) for one in text]
    opens = next_opening(windows, now)
    if any(spelled_out(one, now) for one in text):
        assert opens is None
        return
    assert opens is not None
    assert now < opens <= now + WEEK
    assert next_opening(windows, opens) is None
    step = max(1.0, (opens - now) / 20)
    assert not any(
        spelled_out(one, now + step * place) for one in text for place in range(20) if now + step * place < opens
    )
