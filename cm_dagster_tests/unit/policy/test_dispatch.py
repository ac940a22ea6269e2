"""Which groups are requested and which attempts go: never too many, nobody starves, no slot is left empty."""

from __future__ import annotations

from collections import Counter, deque
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from cm_dagster.policy.dispatch import Lane, Waiting, allocate, urgency
from cm_dagster.policy.limits import Limits, Use, share

GROUPS = [f"g{place:04d}" for place in range(12)]
NAMES = ("a", "b", "c")


# ------------------------------------------------------------------------------------------ between campaigns


def rank(attempt: Waiting) -> int:
    return 2 if not attempt.by_person else 1 if attempt.in_bulk else 0


WAITING = st.lists(
    st.builds(
        Waiting,
        step=st.sampled_from(["s1", "s2"]),
        group=st.sampled_from(GROUPS[:6]),
        by_person=st.booleans(),
        in_bulk=st.booleans(),
        priority=st.integers(-1, 1),
        since=st.integers(0, 5).map(float),
        place=st.integers(0, 1),
    ),
    max_size=14,
)
LANES = st.fixed_dictionaries(
    {name: st.tuples(WAITING, st.integers(-1, 9), st.integers(-1, 1), st.integers(0, 6)) for name in NAMES}
)
type Drawn = dict[str, tuple[list[Waiting], int, int, int]]


def lanes(drawn: Drawn, site: Limits) -> list[Lane]:
    """Make lanes; of each campaign what waits, its room, its priority, and what it has in flight."""
    made = []
    for name, (waiting, room, priority, in_flight) in drawn.items():
        own = [Waiting(**{**vars(one), "step": f"{name}/{one.step}/x"}) for one in waiting]
        portion = partial(_portion, site, Use(in_flight=in_flight), 0.0)
        made.append(Lane(name, sorted(own, key=urgency), room, priority, portion))
    return made


def campaign(attempt: Waiting) -> str:
    return attempt.step.partition("/")[0]


@given(drawn=LANES, room=st.integers(-2, 20))
def test_never_over_a_limit_and_no_slot_left_empty(drawn: Drawn, room: int) -> None:
    chosen = allocate(lanes(drawn, Limits(in_flight=10)), room)
    places = [(one.step, one.group) for one in chosen]
    assert len(places) == len(set(places)) <= max(room, 0)
    gone = Counter(campaign(one) for one in chosen)
    for name, (waiting, own, _, _) in drawn.items():
        groups = len({(one.step, one.group) for one in waiting})
        assert gone[name] <= max(own, 0)
        # Whoever could go and did not found the site full, or the campaign's own limit reached.
        assert len(chosen) == room or room <= 0 or gone[name] == min(max(own, 0), groups)


@given(drawn=LANES, room=st.integers(0, 20))
def test_people_first_then_priority_then_who_has_least(drawn: Drawn, room: int) -> None:
    chosen = allocate(lanes(drawn, Limits(in_flight=10)), room)
    gone: Counter[str] = Counter()
    for place, one in enumerate(chosen):
        for other in chosen[place + 1 :]:
            if campaign(other) == campaign(one):
                assert urgency(one) <= urgency(other)
                continue
            before = (rank(one), -drawn[campaign(one)][2] - one.priority)
            after = (rank(other), -drawn[campaign(other)][2] - other.priority)
            first = next(a for a in chosen[place + 1 :] if campaign(a) == campaign(other))
            if other is first:  # it stood at the head of its campaign when this one was chosen
                assert before <= after
                if before == after:
                    assert drawn[campaign(one)][3] + gone[campaign(one)] <= (
                        drawn[campaign(other)][3] + gone[campaign(other)]
                    )
        gone[campaign(one)] += 1


@given(room=st.integers(0, 60), have=st.lists(st.integers(0, 20), min_size=2, max_size=5))
def test_equal_campaigns_end_within_one_of_each_other(room: int, have: list[int]) -> None:
    site = Limits(in_flight=100)
    drawn: Drawn = {
        f"c{place}": ([Waiting("s", f"g{n}") for n in range(80)], 99, 0, used) for place, used in enumerate(have)
    }
    gone = Counter(campaign(one) for one in allocate(lanes(drawn, site), room))
    now = {f"c{place}": used + gone[f"c{place}"] for place, used in enumerate(have)}
    for name, count in gone.items():
        assert now[name] <= min(now.values()) + 1 or count == 0
    assert sum(gone.values()) == room


def test_a_campaign_that_waits_behind_its_own_limit_lets_others_pass() -> None:
    drawn: Drawn = {
        "a": ([Waiting("s", "g0", by_person=True)], 0, 1, 0),
        "b": ([Waiting("s", "g0")], 5, 0, 9),
    }
    assert [campaign(one) for one in allocate(lanes(drawn, Limits(in_flight=10)), 1)] == ["b"]


def test_a_group_goes_once() -> None:
    twice = [Waiting("c/s/x", "g0000", run_id="r1", since=1.0), Waiting("c/s/x", "g0000", run_id="r2", since=2.0)]
    assert [one.run_id for one in allocate([Lane("c", twice, 9)], 9)] == ["r1"]


def test_the_order_within_a_campaign() -> None:
    attempts = [
        Waiting("c/s2/x", "g0000", place=1),
        Waiting("c/s1/x", "g0007", by_person=True, in_bulk=True, since=3.0),
        Waiting("c/s1/x", "g0001"),
        Waiting("c/s2/x", "g0009", by_person=True, since=9.0, place=1),
        Waiting("c/s1/x", "g0000"),
        Waiting("c/s1/x", "g0005", priority=1),
        Waiting("c/s1/x", "g0006", by_person=True, in_bulk=True, since=2.0),
    ]
    assert [one.group for one in sorted(attempts, key=urgency)] == [
        "g0009",
        "g0006",
        "g0007",
        "g0005",
        "g0000",
        "g0001",
        "g0000",
    ]


# --------------------------------------------------------------------------------------------- as time goes on


def _portion(site: Limits, use: Use, now: float, more: int) -> float:
    return share(site, use, now, more)


@settings(max_examples=60)
@given(
    slots=st.integers(1, 6),
    hourly=st.none() | st.integers(1, 4),
    lasts=st.lists(st.integers(1, 30), min_size=2, max_size=4),
    tick=st.sampled_from([600.0, 1800.0]),
)
def test_nobody_starves(slots: int, hourly: int | None, lasts: list[int], tick: float) -> None:
    """Equal campaigns whose workflows take very different times: each is served again within bounded ticks."""
    site = Limits(in_flight=slots, per_hour=hourly)
    flying: dict[str, list[float]] = {f"c{place}": [] for place in range(len(lasts))}
    sent: dict[str, list[float]] = {name: [] for name in flying}
    served: dict[str, deque[float]] = {name: deque([0.0]) for name in flying}
    patience = len(lasts) * (1 + max(lasts)) * tick + (3600.0 * len(lasts) if hourly else 0.0)
    for round_ in range(1, 150):
        now = round_ * tick
        flying = {name: [end for end in ends if end > now] for name, ends in flying.items()}
        used = Use(in_flight=sum(map(len, flying.values())), sent=sorted(t for each in sent.values() for t in each))
        uses = {name: Use(in_flight=len(flying[name]), sent=sent[name]) for name in flying}
        made = [
            Lane(
                name,
                [Waiting(f"{name}/s/x", f"g{round_}{n}") for n in range(slots)],
                slots,
                share=partial(_portion, site, use, now),
                sent=use.in_the_hour(now),
                last=max(sent[name], default=0.0),
            )
            for name, use in uses.items()
        ]
        left = [slots - used.in_flight] + ([hourly - used.in_the_hour(now)] if hourly else [])
        for one in allocate(made, min(left)):
            name = campaign(one)
            flying[name].append(now + lasts[int(name[1:])] * tick)
            sent[name].append(now)
            served[name].append(now)
        for name, times in served.items():
            assert flying[name] or now - times[-1] <= patience, name
