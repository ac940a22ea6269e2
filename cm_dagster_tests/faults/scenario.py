"""What happens to a world: a list of events, made from a seed, kept in a file, and played again from it."""

from __future__ import annotations

import json
import random
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cm_dagster.crashpoints import POINTS
from cm_dagster_tests.faults.life import HOST, WORKER, Death

__all__ = ["ELSEWHERE", "FIRST", "GROUPS", "Event", "Scenario", "make_scenario"]

GROUPS = [f"{step}/g{number:04d}" for step in ("step1", "step2") for number in range(3)]
"""Groups of a world's campaign that anything may happen to."""
_DUELS = 0.3
"""Part of the scenarios in which two hosts meet."""
_ASIDE = ("decision.", "overrule.", "restart.", "move.", "stage.", "deliver.", "travel.", "lane.")
"""How points begin that are passed where people decide, or where there are several sites."""
FIRST = "create.written"
"""The point at which each world dies when it begins."""
ELSEWHERE = frozenset(
    {
        FIRST,
        "backfill.noted",
        "audit.noted",
        "holds.told",
        "limits.written",
        "record.cancelled",  # passed if a person terminates an attempt at the very moment at which it is sent
        "stuck.queued",
        "tidy.removed",
        "divide.replaced",
        "rules.done",
        "sensor.lanes",
        "sensor.travel",
    }
) | {name for name in POINTS if name.startswith(_ASIDE)}
"""Points that a campaign does not pass on its own way, or only after long: their own tests come to them."""


@dataclass(frozen=True)
class Event:
    """Something that happens."""

    do: str
    """``live`` (go on, until death or for some rounds), ``duel`` (two hosts at once, the first of which pauses at a
    point), ``fault`` (of the WMS), ``order`` (to the cluster or the Butler), ``clock``, or what a pilot does:
    ``terminate``, ``launch``, ``decide`` (a verb of ``cm group``)."""
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.do} {' '.join(f'{key}={value}' for key, value in self.settings.items())}"

    def death(self) -> Death | None:
        """How the life is to end that this event is."""
        if "points" not in self.settings:
            return None
        known = {key: self.settings[key] for key in ("nth", "how", "who") if key in self.settings}
        return Death(tuple(self.settings["points"]), **known)


@dataclass(frozen=True)
class Scenario:
    """All that happens to a world before it is left in peace."""

    events: tuple[Event, ...]
    postgres: bool = False
    """Whether Dagster's storage is PostgreSQL, or SQLite."""

    def save(self, path: Path) -> None:
        """Write it to a file that `load` reads."""
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> Scenario:
        """Read it from a file."""
        found = json.loads(path.read_text())
        return cls(tuple(Event(**event) for event in found["events"]), found["postgres"])


_HELPS: dict[str, Sequence[Event]] = {
    "adopt.twin-cancelled": [
        Event("fault", {"kind": "twin", "times": 2}),
        Event("live", {"points": ["submit.sent"]}),
    ],
    "fail.observed": [Event("order", {"fail": GROUPS})],
    "fail.failed": [Event("order", {"fail": GROUPS})],
    "finalize.begun": [Event("order", {"orphan": GROUPS})],
    "finalize.ran": [Event("order", {"orphan": GROUPS})],
    "twin.remembered": [Event("fault", {"kind": "twin"})],
    "wait.noted": [Event("order", {"butler": True}), Event("live", {"rounds": 3})],
    "cancel.asked": [Event("live", {"rounds": 2}), Event("terminate", {"force": False, "death": "cancel.asked"})],
    "queue.dead-reported": [Event("live", {"points": ["submit.begun"]})],
    "watch.stopped": [Event("live", {"rounds": 4}), Event("terminate", {"force": False})],
    "watch.swept": [Event("live", {"rounds": 4}), Event("terminate", {"force": True})],
    "turn-away.cancelled": [Event("live", {"rounds": 4}), Event("launch", {"death": "turn-away.cancelled"})],
}
"""What must have happened before for a point to be passed at all."""


_SOON = (
    "sensor.advance",
    "sensor.chain",
    "sensor.dispatch",
    "watch.listed",
    "watch.done",
    "submit.begun",
    "claim.locked",
    "coordinator.queued",
    "queue.requested",
)
"""Points that are passed in almost every round."""


def make_scenario(
    seed: str, *, deaths: int = 12, so_far: Counter[str] | None = None, postgres: bool = False
) -> Scenario:
    """Make up what happens.

    Parameters
    ----------
    seed
        The same seed gives the same scenario.
    deaths
        How many deaths are planned; not each planned one comes to its point.
    so_far
        How often there was a death at each point already; the rarer ones are preferred.
    postgres
        Whether Dagster's storage is PostgreSQL, or SQLite.
    """
    chance = random.Random(seed)
    counts = so_far or Counter()
    events: list[Event] = []
    for _ in range(deaths):
        drawn = sorted(chance.sample(_points(), 12), key=lambda name: counts[name])
        points = [*drawn[:4], chance.choice(_SOON)]  # the rarest ones, and one that will be passed
        events += [*_mishap(chance), *_HELPS.get(points[0], ()), _death(chance, points)]
    if chance.random() < _DUELS:
        point = chance.choice(_points())
        pause = {"points": [point], "how": int(signal.SIGSTOP)}
        events.insert(chance.randrange(len(events)), Event("duel", pause))
    return Scenario(tuple(events), postgres)


def _points() -> list[str]:
    return [name for name in POINTS if name not in ELSEWHERE]


def _death(chance: random.Random, points: list[str]) -> Event:
    how = chance.choices([signal.SIGKILL, signal.SIGTERM], [4, 1])[0]
    settings: dict[str, Any] = {"points": points, "nth": chance.choice([1, 1, 1, 2, 3]), "how": int(how)}
    return Event("live", {**settings, "who": chance.choice([HOST, WORKER])})


def _mishap(chance: random.Random) -> list[Event]:
    """Make up what else goes wrong, most often nothing."""
    group = chance.choice(GROUPS)
    several: list[list[Event]] = [
        [Event("fault", {"kind": "done-but-error"})],
        [Event("fault", {"kind": "error-before"})],
        [Event("fault", {"kind": "done-but-timeout", "seconds": 0.2})],
        [Event("fault", {"kind": "lost-submit"})],
        [Event("fault", {"kind": "late", "seconds": 25.0})],
        [Event("fault", {"kind": "late-list", "seconds": 25.0})],
        [Event("fault", {"kind": "slow", "seconds": 0.2, "times": 5})],
        [Event("fault", {"kind": "down", "times": chance.randint(1, 6)})],
        [Event("fault", {"kind": "partial", "times": chance.randint(1, 3), "fraction": chance.choice([0.5, 1.0])})],
        [Event("fault", {"kind": "die", "word": chance.choice(["before", "after"])})],
        [Event("fault", {"kind": "lost-cancel"}), Event("terminate", {"group": group, "force": False})],
        [Event("fault", {"kind": "word", "word": "ODD", "times": 2})],
        [Event("fault", {"kind": "twin"})],
        [Event("order", {"butler": True}), Event("live", {"rounds": 3}), Event("order", {"butler": False})],
        [Event("order", {"orphan": [group]})],
        [Event("order", {"fail": [group]})],
        [Event("clock", {"seconds": chance.choice([-3600.0, 3600.0, 90.0])})],
        [Event("terminate", {"group": group, "force": chance.random() < 0.5})],
        [Event("launch", {"group": group})],
    ]
    return chance.choice(several) if chance.random() < 0.4 else []
