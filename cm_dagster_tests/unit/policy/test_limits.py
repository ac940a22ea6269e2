"""How much more goes: by each limit, with the reason; and at the WMS never more than per_hour, whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm_dagster.policy.limits import (
    HOUR,
    UNLIMITED,
    Limits,
    Ramp,
    Use,
    last_return,
    remember,
    room,
    room_again,
    share,
    why_full,
    why_slow,
)
from cm_dagster.policy.windows import Window

NOW = 1_000_000_000.0  # Sunday, 9 September 2001, 01:46:40 UTC
BACK = "the WMS is back since 2001-09-09 01:46 UTC, all is taken again from 2001-09-09 02:03 UTC on"
RAMP = Ramp(after=600.0, over=1000.0, start=0.1)


@pytest.mark.parametrize(
    ("limits", "use", "left", "reason"),
    [
        (Limits(), Use(in_flight=10**6), UNLIMITED, ""),
        (Limits(in_flight=5), Use(in_flight=3), 2, ""),
        (Limits(in_flight=5), Use(in_flight=5), 0, "5 of at most 5 groups are in flight"),
        (Limits(in_flight=0), Use(), 0, "0 of at most 0 groups are in flight"),
        (Limits(building=2), Use(building=2), 0, "2 of at most 2 quantum graphs are being built"),
        (
            Limits(per_hour=3),
            Use(pending=1, sent=[NOW - 4000, NOW - 3000, NOW - 10]),
            0,
            "3 of at most 3 submissions in the last 60 minutes, the next from 2001-09-09 01:56 UTC on",
        ),
        (Limits(per_hour=2), Use(pending=3), -1, "3 of at most 2 submissions in the last 60 minutes"),
        (Limits(per_hour=3), Use(sent=[NOW - 3600]), 3, ""),
        (
            Limits(windows=(Window.parse("18:00-06:00"), Window.parse("sat")), hours="18:00-06:00, sat"),
            Use(),
            UNLIMITED,
            "",
        ),
        (
            Limits(windows=(Window.parse("mon-fri 18:00-06:00"),), hours="mon-fri 18:00-06:00"),
            Use(),
            0,
            "takes groups again from 2001-09-10 18:00 UTC on (windows: mon-fri 18:00-06:00)",
        ),
        (
            Limits(in_flight=50, ramp=RAMP),
            Use(sent=[NOW - 100, NOW - 5, NOW - 5], pending=3, returned=NOW - 10),
            0,
            f"5 of at most 5 submissions since then: {BACK}",
        ),
    ],
)
def test_room_and_reason(limits: Limits, use: Use, left: int, reason: str) -> None:
    assert room(limits, use, NOW) == left
    assert why_full(limits, use, NOW) == reason


def test_the_ramp_grows_evenly_and_ends() -> None:
    limits = Limits(in_flight=100, ramp=RAMP)
    grown = [room(limits, Use(returned=NOW - since), NOW) for since in (-5000.0, 0.0, 500.0, 999.0, 1000.0, 10_000.0)]
    assert grown == [10, 10, 55, 99, 100, 100]
    assert room(Limits(in_flight=100, per_hour=20, ramp=RAMP), Use(returned=NOW), NOW) == 2
    assert room(Limits(in_flight=100, ramp=Ramp(600.0, 0.0, 0.1)), Use(returned=NOW + 1), NOW) == 100


def test_what_is_handed_over_again_holds_its_slots_and_keeps_to_all_else() -> None:
    sent = Use(in_flight=50, pending=40, building=1, sent=[NOW - 5.0], returned=NOW - 10)
    assert room_again(Limits(in_flight=50), sent, NOW) == UNLIMITED
    assert room_again(Limits(in_flight=50, building=3), sent, NOW) == 2
    assert room_again(Limits(in_flight=50, per_hour=7), sent, NOW) == 5
    assert room_again(Limits(in_flight=50, ramp=RAMP), sent, NOW) == 3
    assert why_slow(Limits(in_flight=50, ramp=RAMP), sent, NOW) == f"1 of at most 5 submissions since then: {BACK}"
    assert why_slow(Limits(in_flight=50, ramp=RAMP), sent, NOW + 1000) == ""
    assert why_slow(Limits(in_flight=50), sent, NOW) == ""


def test_only_long_outages_count() -> None:
    outages = [(0.0, 700.0), (1000.0, 1599.0), (2000.0, 2001.0)]
    assert last_return(outages, RAMP) == 700.0
    assert last_return([*outages, (3000.0, 3600.0)], RAMP) == 3600.0
    assert last_return(outages[1:], RAMP) is None


def test_a_share_is_of_what_is_scarcest() -> None:
    limits = Limits(in_flight=100, per_hour=10)
    assert share(limits, Use(in_flight=50), NOW) == 0.5
    assert share(limits, Use(in_flight=50, sent=[NOW - 1.0] * 6), NOW) == 0.6
    assert share(limits, Use(in_flight=50), NOW, more=10) == 1.0
    assert share(Limits(), Use(in_flight=50), NOW) == 0.0


AMOUNT = st.none() | st.integers(0, 8)
LIMITS = st.builds(
    Limits,
    in_flight=AMOUNT,
    per_hour=AMOUNT.filter(lambda n: n != 0),
    building=AMOUNT.filter(lambda n: n != 0),
    windows=st.lists(st.sampled_from(["18:00-06:00", "sat-sun"]).map(Window.parse), max_size=2).map(tuple),
    ramp=st.none() | st.just(RAMP),
)
USES = st.builds(
    Use,
    in_flight=st.integers(0, 9),
    pending=st.integers(0, 9),
    building=st.integers(0, 9),
    sent=st.lists(st.floats(NOW - 9000, NOW + 9000), max_size=9).map(sorted),
    returned=st.none() | st.floats(NOW - 2000, NOW + 2000),
)


@given(limits=LIMITS, use=USES)
def test_there_is_a_reason_if_and_only_if_there_is_no_room(limits: Limits, use: Use) -> None:
    assert bool(why_full(limits, use, NOW)) == (room(limits, use, NOW) <= 0)


@given(
    limit=st.integers(1, 4),
    events=st.lists(st.tuples(st.sampled_from(["hand", "send", "record", "wait"]), st.integers(0, 9)), max_size=80),
)
def test_the_wms_never_sees_more_in_an_hour(limit: int, events: list[tuple[str, int]]) -> None:
    """Hand out as room says; workflows are sent, and then recorded, at any later time and in any order."""
    now, handed = 0.0, list[tuple[int, int]]()
    at_wms, recorded = dict[tuple[int, int], float](), dict[tuple[int, int], float]()
    for number, (what, size) in enumerate(events):
        if what == "hand":
            use = Use(pending=len(handed) - len(recorded), sent=sorted(recorded.values()))
            handed += [(number, place) for place in range(min(size, room(Limits(per_hour=limit), use, now)))]
        elif what == "send":
            at_wms |= dict.fromkeys([one for one in handed if one not in at_wms][:size], now)
        elif what == "record":
            recorded |= dict.fromkeys([one for one in at_wms if one not in recorded][:size], now)
        else:
            now += size * 400.0
    for begin in at_wms.values():
        assert sum(begin <= time < begin + HOUR for time in at_wms.values()) <= limit


@given(back=st.floats(0, 1e6), limit=st.integers(1, 5), ago=st.floats(0, 3000))
def test_a_clock_that_goes_back_opens_nothing(back: float, limit: int, ago: float) -> None:
    use = Use(sent=[NOW - ago] * limit)
    assert room(Limits(per_hour=limit), use, NOW - back) == 0
    assert room(Limits(per_hour=limit), use, NOW + HOUR) == limit


@given(outages=st.lists(st.tuples(st.floats(0, 2e5), st.floats(1, 5000)), max_size=40))
def test_the_latest_long_outage_is_not_forgotten_for_a_flickering_one(outages: list[tuple[float, float]]) -> None:
    kept: list[list[float]] = []
    for begin, lasts in sorted(outages):
        kept = remember(kept, begin, begin + lasts)
    if outages:
        now = max(begin + lasts for begin, lasts in outages)
        whole = [(begin, begin + lasts) for begin, lasts in outages if begin + lasts > now - 24 * HOUR]
        assert len(kept) <= 20
        if len([end for begin, end in whole if end - begin >= RAMP.after]) <= 20:
            assert last_return(kept, RAMP) == last_return(whole, RAMP)
