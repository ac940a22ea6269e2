"""A day of a deployment in which something goes on all the time: what its process holds, hour by hour.

The daemons' own loops, the sensors and the code location live in one process, as in the crash worlds; its clock goes on
by 20 s in each round, so that a day takes less than an hour. Dagster's storage is PostgreSQL; the WMS is the fake one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from rich.table import Table

from cm_dagster.ledger import campaigns
from cm_dagster.ledger.attempts import index_of
from cm_dagster.policy.states import State
from cm_dagster_tests.faults.life import Life, begin
from cm_dagster_tests.faults.tally import databases
from cm_dagster_tests.faults.world import World, make_templates
from cm_dagster_tests.integration.databases import pooled

__all__ = ["bench", "soak"]

_HOURS = 24
_GROUPS = 1000
"""Groups of each of two steps: about as many as can be done in a day, two at a time."""
_MB = 1024.0


def bench(folder: Path) -> Table:
    """Measure a day."""
    return soak(folder, _HOURS, _GROUPS)


def soak(folder: Path, hours: float, groups: int) -> Table:
    """Let a deployment live for some hours of its own clock.

    Parameters
    ----------
    folder
        Where it is to be.
    hours
        How long, by its clock.
    groups
        Groups of each of two steps.
    """
    templates = make_templates(folder / "templates", visits=groups)
    notes = folder / "hours"
    with databases(folder) as blank, blank.copied() as database:
        world = World.make(folder / "world", templates, storage=pooled(database))
        spec = world.campaign(templates.survey, groups)

        def create(life: Life) -> bool:
            campaigns.create(life.instance, spec, user="bench")
            return campaigns.start(life.instance, spec.campaign, user="bench")

        def live(life: Life) -> bool:
            began, hour = world.clock.now(), 0
            while (lived := (world.clock.now() - began) / 3600.0) < hours:
                life.round()
                if lived >= hour:
                    _note(notes, life, hour)
                    hour += 1
            _note(notes, life, hour)
            return True

        for what in (create, live):  # the code location is loaded with the campaign
            if os.waitpid(begin(world, what), 0)[1]:
                raise RuntimeError(f"it did not live for {hours} h; its log ends so:\n{_tail(world.folder / 'log')}")
    found = [json.loads(line) for line in notes.read_text().splitlines()]
    if not found[-1]["accepted"]:
        raise RuntimeError(f"nothing was done in {hours} h; its log ends so:\n{_tail(world.folder / 'log')}")
    return _table(found)


def _note(notes: Path, life: Life, hour: int) -> None:
    """Note what this process holds now."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    attempts = index_of(life.instance).everything()
    found = {
        "hour": hour,
        "memory": int(status["VmRSS"].split()[0]) / _MB,
        "files": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "attempts": len(attempts),
        "accepted": sum(each.state is State.ACCEPTED for each in attempts),
    }
    with notes.open("a") as file:
        file.write(f"{json.dumps(found)}\n")


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-20:])


def _table(hours: list[dict[str, float]]) -> Table:
    made = Table(title="A day of one process with daemons, sensors and code location, by its own clock")
    for column in ("hour", "MB", "open files", "attempts", "accepted"):
        made.add_column(column, justify="right")
    for each in hours:
        numbers = (f"{each[name]:,.0f}" for name in ("memory", "files", "attempts", "accepted"))
        made.add_row(f"{each['hour']:.0f}", *numbers)
    return made
