"""Playing a scenario in a world, to its end, and examining what is left."""

from __future__ import annotations

import os
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from cm_dagster.ledger import campaigns
from cm_dagster.policy.verbs import Verb
from cm_dagster.testing.fakewms.store import Fault
from cm_dagster.testing.oracle import Findings, examine
from cm_dagster_tests.faults import pilot
from cm_dagster_tests.faults.life import PAUSE, Death, Life, begin
from cm_dagster_tests.faults.mutations import MUTATIONS
from cm_dagster_tests.faults.scenario import FIRST, Event, Scenario
from cm_dagster_tests.faults.world import Templates, World

__all__ = ["Result", "play"]

_ROUNDS = 5
"""Most rounds of a life that is to die."""
_DUEL = 4
"""Rounds of each life of a duel."""
_PEACE = 100
"""Most rounds in which a world that is left in peace must come to its end: what failed for long is tried again after a
quarter of an hour, which is 45 of them."""


@dataclass
class Result:
    """What became of a world."""

    done: bool
    """Whether its campaign came to its end."""
    findings: Findings
    crashes: Counter[str] = field(default_factory=Counter)
    """Number of deaths by point."""
    pauses: Counter[str] = field(default_factory=Counter)
    """Number of hosts that paused beside another, by point."""
    rounds: int = 0
    """Rounds that it took in peace until the end."""
    hidden: bool = False
    """Whether its WMS has shown lists without what it had."""
    audit: list[str] = field(default_factory=list)
    """What the nightly audit finds at the end, after it has cancelled twins that run."""
    scenario: Path | None = None
    """File from which it can be played again."""

    @property
    def good(self) -> bool:
        """Whether the campaign is done, with nothing lost, doubled, redone or too early, and the audit says so too.

        Nothing was submitted twice either, not even if it was cancelled; unless the WMS had hidden what it had.
        """
        once = self.hidden or not self.findings.resubmitted
        return self.done and self.findings.clean and once and not self.audit

    def __str__(self) -> str:
        said = "".join(f"\naudit: {finding}" for finding in self.audit)
        again = f"\nto play it again: make faults REPLAY={self.scenario}"
        return f"{'done' if self.done else 'NOT DONE'}  {self.findings}{said}{again}"


def working_folder() -> Path:
    """Choose memory to work in, where there is some: a world is small and lives seconds."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="cm-faults-", dir=memory if os.access(memory, os.W_OK) else None))


def play(
    scenario: Scenario,
    folder: Path,
    templates: Templates,
    mutation: str = "",
    storage: Mapping[str, Any] | None = None,
) -> Result:
    """Play a scenario, then leave the world in peace until its campaign is done.

    Parameters
    ----------
    scenario
        What happens.
    folder
        Where the world is made.
    templates
        What it is a copy of.
    mutation
        How the code under test is broken, see `cm_dagster_tests.faults.mutations`; by default not.
    storage
        The block ``storage`` of its dagster.yaml; None for SQLite.
    """
    with dg.DagsterInstance.from_config(str(templates.home)):
        pass  # what this reads of Dagster's own files, all lives share
    world = World.make(folder, templates, storage=storage)
    scenario.save(folder / "scenario.json")
    player = _Player(world, mutation)
    player.create(templates)
    for event in scenario.events:
        player.happen(event)
    result = player.peace()
    result.hidden = any(event.settings.get("kind") == "partial" for event in scenario.events)
    result.scenario = folder / "scenario.json"
    return result


class _Player:
    """One world being played."""

    def __init__(self, world: World, mutation: str) -> None:
        self.world, self.mutation = world, mutation

    def _begin(self, what: Callable[[Life], bool], death: Death | None = None) -> int:
        def live(life: Life) -> bool:
            if self.mutation:
                MUTATIONS[self.mutation]()
            return what(life)

        return begin(self.world, live, death)

    def _live(self, what: Callable[[Life], bool], death: Death | None = None) -> int:
        return os.waitpid(self._begin(what, death), 0)[1]

    def create(self, templates: Templates) -> None:
        """Create the campaign; dying half-way must not matter."""
        spec = self.world.campaign(templates.survey)

        def create(life: Life) -> bool:
            campaigns.create(life.instance, spec, user="pilot")
            return campaigns.start(life.instance, spec.campaign, user="pilot")

        self._live(create, Death((FIRST,)))
        status = self._live(create)
        assert status == 0, f"the campaign can't be created: see {self.world.folder / 'log'}"

    def happen(self, event: Event) -> None:
        """Have an event happen."""
        settings = event.settings
        if event.do == "fault":
            self.world.wms.script(Fault(**settings))
        elif event.do == "order":
            self.world.order(**settings)
        elif event.do == "clock":
            self.world.clock.advance(settings["seconds"])
        elif event.do == "live":
            rounds = settings.get("rounds", _ROUNDS)
            self._live(lambda life: life.go(rounds), event.death())
        elif event.do == "duel":
            self._duel(event)
        else:
            self._live(lambda life: _act(life, event), _at_launch(settings))

    def _duel(self, event: Event) -> None:
        """Have two hosts live at once; the first pauses at a point, wakes late, and goes on beside the second."""

        def beside(life: Life) -> bool:
            if event.settings.get("again"):
                pilot.submit_again(life)
            return life.go(_DUEL)

        first = self._begin(lambda life: life.go(_DUEL), event.death())
        if os.WIFSTOPPED(os.waitpid(first, os.WUNTRACED)[1]):
            self._live(beside)
            os.killpg(first, signal.SIGCONT)
            second = self._begin(lambda life: life.go(_DUEL))
            for pid in (first, second):
                os.waitpid(pid, 0)

    def peace(self) -> Result:
        """Take all faults back, and let the campaign come to its end."""
        self.world.wms.clear()
        self.world.order(butler=False, fail=[], orphan=[])
        rounds, audited = self.world.folder / "rounds", self.world.folder / "audit"

        def live(life: Life) -> bool:
            pilot.release_all(life)
            for number in range(_PEACE):
                rounds.write_text(str(number))
                if life.is_done():
                    life.audit()  # what it finds of twins it has cancelled
                    audited.write_text("\n".join(map(str, life.audit().findings)))
                    return True
                pilot.repair(life)
                life.round()
            return False

        status = self._live(live)
        struck = self.world.crashes.read_text().split()
        crashes = Counter(name for name in struck if not name.startswith(PAUSE))
        pauses = Counter(name.removeprefix(PAUSE) for name in struck if name.startswith(PAUSE))
        left = audited.read_text().splitlines() if audited.exists() else []
        return Result(status == 0, self._examine(), crashes, pauses, int(rounds.read_text()), audit=left)

    def _examine(self) -> Findings:
        return examine(self.world.wms.home, self.world.deployment.home, butler=str(self.world.repo))


def _at_launch(settings: dict[str, Any]) -> Death | None:
    return Death((settings["death"],)) if "death" in settings else None


def _act(life: Life, event: Event) -> bool:
    """Do what a pilot does."""
    groups = [event.settings["group"]] if "group" in event.settings else [f"step1/g{n:04d}" for n in range(3)]
    for group in groups:
        if event.do == "terminate":
            pilot.terminate(life, group, force=event.settings["force"])
        elif event.do == "decide":
            pilot.decide(life, group, Verb(event.settings["verb"]))
        else:
            pilot.launch(life, group)
    return True
