"""Worlds by the dozen, and what became of them all."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from cm_dagster.crashpoints import POINTS
from cm_dagster.testing.postgres import Database, PostgresServer
from cm_dagster_tests.faults.play import Result, play
from cm_dagster_tests.faults.scenario import ELSEWHERE, FIRST, Scenario, make_scenario
from cm_dagster_tests.faults.world import make_templates
from cm_dagster_tests.integration.databases import BlankDatabase, pooled

__all__ = ["Tally", "replay", "run"]

_DEATHS = 14
"""Deaths that are planned for a world."""


@dataclass
class Tally:
    """What became of all worlds so far."""

    worlds: int = 0
    crashes: Counter[str] = field(default_factory=Counter)
    pauses: int = 0
    resubmitted: int = 0
    """Workflows that were submitted again after a WMS had hidden what it had, and cancelled."""
    rounds: int = 0
    bad: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def deaths(self) -> int:
        """Number of deaths, without the one with which each world begins."""
        return self.crashes.total() - self.crashes[FIRST]

    @property
    def missed(self) -> list[str]:
        """Points of a campaign's own way at which nobody has died."""
        return sorted(name for name in POINTS if name not in ELSEWHERE and not self.crashes[name])

    def add(self, result: Result, folder: Path) -> None:
        """Count a world; it is kept if anything is wrong with it."""
        self.worlds += 1
        self.crashes += result.crashes
        self.pauses += result.pauses.total()
        self.resubmitted += result.findings.resubmitted
        self.rounds = max(self.rounds, result.rounds)
        self.counts.update(result.findings.counts)
        if result.good:
            shutil.rmtree(folder)
        else:
            self.bad.append(f"{folder}: {result}")

    def report(self) -> str:
        """Say it all."""
        lines = [f"{self.crashes[name]:6d}  {name:22s} {what}" for name, what in POINTS.items()]
        lines += ["", *self.bad] if self.bad else []
        lines += ["", f"no death at {', '.join(self.missed)}"] if self.missed else []
        lines += ["", f"{self.pauses} hosts paused and woke beside another one"]
        lines += [f"{self.resubmitted} submitted again after the WMS had hidden what it had, and cancelled"]
        total = f"{self.deaths} deaths in {self.worlds} worlds, {len(self.bad)} not as they should be;"
        lines += [f"{total} most rounds in peace to the end: {self.rounds}"]
        names = ("lost", "twins", "redone", "early")
        return "\n".join([*lines, " ".join(f"{name} {self.counts[name]}" for name in names)])


@contextmanager
def databases(folder: Path) -> Iterator[BlankDatabase]:
    """Start a PostgreSQL server for worlds."""
    with PostgresServer() as server:
        yield BlankDatabase.make(server, folder / "blank_database")


def _stored(database: Database) -> dict[str, Any]:
    # A host that pauses in a transaction keeps its rows from the other one for less than the minute of real life.
    return pooled(database, options="-c idle_in_transaction_session_timeout=3s")


def run(seed: int, number: int, folder: Path, jobs: int, say: Callable[[str], object] = str) -> Tally:
    """Play worlds until there were so many deaths.

    Parameters
    ----------
    seed
        The same seed plans the same scenarios, as far as earlier ones went alike.
    number
        Number of deaths.
    folder
        Where the worlds are made.
    jobs
        Worlds at a time.
    say
        Is told of each world.
    """
    templates = make_templates(folder / "templates")
    tally = Tally()
    world = 0
    # Workers are started afresh, not forked: each begins lives by forks of its own.
    with databases(folder) as blank, ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running: dict[Future[Result], tuple[Path, ExitStack]] = {}
        while tally.deaths < number or running:
            while len(running) < jobs and tally.deaths + len(running) * _DEATHS // 2 < number:
                world += 1
                place = folder / f"world-{seed}-{world:04d}"
                # Every second world is on PostgreSQL, where much is written at once that is single steps on SQLite.
                scenario = make_scenario(
                    f"{seed}/{world}", deaths=_DEATHS, so_far=tally.crashes, postgres=world % 2 == 0
                )
                with ExitStack() as stack:
                    storage = _stored(stack.enter_context(blank.copied())) if scenario.postgres else None
                    running[pool.submit(play, scenario, place, templates, storage=storage)] = place, stack.pop_all()
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                place, stack = running.pop(done)
                with stack:
                    tally.add(done.result(), place)
                say(f"{place.name}: {tally.deaths} deaths")
    return tally


def replay(scenario: Scenario, folder: Path) -> Tally:
    """Play one scenario again."""
    tally = Tally()
    templates = make_templates(folder / "templates")
    with ExitStack() as stack:
        blank = stack.enter_context(databases(folder)) if scenario.postgres else None
        storage = _stored(stack.enter_context(blank.copied())) if blank else None
        tally.add(play(scenario, folder / "world", templates, storage=storage), folder / "world")
    return tally
