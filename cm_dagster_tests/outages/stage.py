"""A campaign under way on real services that tests take away, and what is seen of it meanwhile."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import pytest

from cm_dagster.local.servers import Servers
from cm_dagster.testing.postgres import PostgresServer
from cm_dagster_tests.faults.clock import Clock
from cm_dagster_tests.outages.disk import SmallDisk
from cm_dagster_tests.system.rig import PATIENCE, Case, Rig, wait_for, wms_rows

__all__ = ["IN_FLIGHT", "TICK", "Figures", "HousedServers", "Long", "Stage", "Wms", "wait"]

IN_FLIGHT = 3
"""Most workflows of the site at a time."""
TICK = 5.0
"""Seconds between two ticks of a sensor: Dagster's daemon makes them no shorter."""
_LOCATION = """{workspaceOrError {... on Workspace {locationEntries {locationOrLoadError {
    ... on PythonError {message}}}}}}"""
_ENDED = ("SUCCEEDED", "FAILED", "DELETED")


def wait[T](what: str, look: Callable[[], T | None], every: float = 1.0) -> T:
    """Look until there is something to see: longer than other tests do, since much goes on at a time here.

    Raises
    ------
    AssertionError
        If there is nothing after a time.
    """
    return wait_for(what, look, 3 * PATIENCE, every)


@dataclass
class HousedServers(Servers):
    """Servers, and with them all that they start, that see a small disk."""

    disk: SmallDisk | None = None

    def _command(self, name: str) -> list[str]:
        assert self.disk is not None
        return [*self.disk.prefix, *super()._command(name)]


class Figures(NamedTuple):
    """What an outage took, in seconds."""

    outage: str
    away: float
    """How long the service was away."""
    first: float
    """From its return until anything of the campaign went on."""
    well: float
    """From its return until all was as it should be."""

    def __str__(self) -> str:
        return (
            f"{self.outage:<28} away {self.away:5.1f} s, first progress after {self.first:5.1f} s"
            f" ({self.first / TICK:.1f} ticks), all well after {self.well:5.1f} s ({self.well / TICK:.1f} ticks)"
        )


@dataclass
class Wms:
    """The local WMS, looked at without its help."""

    home: Path

    def states(self) -> dict[str, list[str]]:
        """State of each workflow that was ever submitted, by name."""
        found: dict[str, list[str]] = {}
        for name, state in wms_rows(self.home, "SELECT name, state FROM run"):
            found.setdefault(str(name), []).append(str(state))
        return found

    def servers(self) -> list[int]:
        """Processes that serve; some may have ended."""
        return [int(pid) for (pid,) in wms_rows(self.home, "SELECT pid FROM server")]

    @contextmanager
    def away(self) -> Iterator[None]:
        """Have the WMS not answer: where its state was, there is something else. Its workflows go on."""
        home = self.home
        self.home = home.with_name("away")
        home.rename(self.home)
        home.touch()
        try:
            yield
        finally:
            home.unlink()
            self.home.rename(home)
            self.home = home


@dataclass(frozen=True)
class Stage:
    """The deployment, and the services that it depends on."""

    rig: Rig
    database: PostgresServer
    """Dagster's."""
    registry: PostgresServer
    """The Butler's."""
    disk: SmallDisk
    """The submit area."""
    clock: Clock
    """Of the servers, and all that they start."""
    wms: Wms
    figures: list[Figures] = field(default_factory=list)

    @staticmethod
    def bring_back(server: PostgresServer) -> None:
        """Start a database again."""
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("DAGSTER_HOME")  # or it would be taken for a process of the deployment that is left behind
            server.start()


@dataclass(frozen=True)
class Long(Case):
    """A campaign whose first groups end at once; each further one waits in its job until it is released."""

    stage: Stage
    groups: int
    """Number of groups of the first step."""

    def set_up(self, free: int) -> None:
        """Have all groups but the first ones wait."""
        visits = range(1 + free, 1 + self.groups)
        self.set_faults([{"task": "isr", "where": f"exposure={visit}", "action": "wait"} for visit in visits])

    def names(self) -> list[str]:
        """Names of the first step's groups, that of visit 1 first."""
        return [f"g{number:04d}" for number in range(self.groups)]

    # ------------------------------------------------------------------------------------------------ what is done

    def release(self) -> str:
        """Let the first group go on that runs and waits, and give its name."""
        group = wait("a group that waits in its job", lambda: next(iter(self._waiting()), None))
        rules = json.loads(self.faults_file.read_text())
        self.set_faults([rule for rule in rules if rule["where"] != f"exposure={int(group[1:]) + 1}"])
        return group

    def _waiting(self) -> list[str]:
        told = {f"g{int(rule['where'].partition('=')[2]) - 1:04d}" for rule in json.loads(self.faults_file.read_text())}
        return sorted(group for group, states in self.at_wms().items() if group in told and states == ["RUNNING"])

    def make_sure_it_is_in_the_middle(self) -> None:
        """Wait until some groups are accepted, as many run as may, and others wait for a slot."""

        def look() -> bool:
            count = self.count()
            return count.get("accepted", 0) > 0 and count.get("running") == IN_FLIGHT and "planned" in count

        wait("the middle of the campaign", look)

    def wait_for_submission(self) -> None:
        """Wait until a claim is made of which no workflow is recorded."""
        wait("a submission under way", self._is_submitting, every=0.05)

    def _is_submitting(self) -> bool:
        files = (self.stage.disk.inside / self.name / "step1").glob("g*/claims/a*")
        return any(not path.suffix and not path.with_suffix(".json").exists() for path in files)

    # ------------------------------------------------------------------------------------------------ what is seen

    def at_wms(self, step: str = "step1") -> dict[str, list[str]]:
        """States of the workflows of each group at the WMS."""
        prefix = f"{self.step(step).tag.replace('/', '.')}."
        found: dict[str, list[str]] = {}
        for name, states in self.stage.wms.states().items():
            if name.startswith(prefix):
                found.setdefault(name.removeprefix(prefix).partition(".")[0], []).extend(states)
        return found

    def has_ended(self, *groups: str) -> bool:
        """Whether the workflows of groups have ended, in the WMS's opinion."""
        states = self.at_wms()
        return all(states.get(group, [""])[0] in _ENDED for group in groups)

    def is_accepted(self, *groups: str) -> bool:
        """Whether groups are, by the ledger."""
        return all(self.attempts(group)[-1].tags["cm/state"] == "accepted" for group in groups)

    def shown(self) -> Mapping[str, Any]:
        """What ``cm status`` shows of the first step; of the second, that it waits."""
        document = json.loads(self.rig.program("cm", "status", self.name, "--json"))
        first, second = document["steps"]
        assert document["state"] == "running"
        assert (second["state"], second["groups"]["total"]) == ("waiting", 0)
        assert second["reason"] == f"waits for step1 ({first['state']})"
        return dict(first)

    def next_planned(self) -> str:
        """The group that is due next: groups are submitted in order, one for each that ends."""
        return self.names()[len(self.at_wms())]

    def wait_until_waiting(self, group: str, cause: str) -> None:
        """Wait until a group waits for a cause, and make sure that ``cm status`` says so."""

        def look(step: Mapping[str, Any]) -> bool:
            return any(each["group"] == group and cause in each["cause"] for each in step["waits"])

        wait(f"{group} that waits: {cause}", lambda: look(self.view().to_json()["steps"][0]))
        assert look(self.shown())

    def assert_truth(self, *, loaded: bool = True) -> Mapping[str, Any]:
        """Compare what ``cm status`` and the web UI show with what the WMS has, and give the first step's status.

        Parameters
        ----------
        loaded
            Whether the web UI has the code location: it shows no assets of one that does not answer.
        """
        ended = {group for group in self.at_wms() if self.has_ended(group)}
        step = self.shown()
        numbers = Counter({state: number for state, number in step["groups"].items() if number})
        assert numbers.pop("total") == self.groups
        assert numbers.total() == self.groups
        assert not numbers.keys() & {"failed", "held"}
        assert numbers["accepted"] <= len(ended)
        assert not step["failures"]
        if loaded:
            ui = self.partitions()
            assert not ui.failed
            assert ui.materialized <= {group for group in self.at_wms() if self.has_ended(group)}
        assert {run.status for run in self.runs()} <= {"QUEUED", "STARTED", "SUCCESS"}
        return step

    def location_error(self) -> str:
        """What the web UI says is wrong with the code location; empty if nothing is."""
        (entry,) = self.rig.ui.call(_LOCATION)["workspaceOrError"]["locationEntries"]
        return str((entry["locationOrLoadError"] or {}).get("message", ""))

    def assert_nothing_is_done_twice(self) -> None:
        """Each group has one workflow, and one attempt."""
        assert {group: states for group, states in self.at_wms().items() if len(states) > 1} == {}
        assert {run.tags["cm/attempt"] for run in self.runs()} == {"1"}

    def ask_oracle(self) -> str:
        """Have ledger, WMS and registry compared by somebody who knows nothing of how cm_dagster works."""
        words: list[str | Path] = ["python", "-m", "cm_dagster.testing.oracle", "--campaign", self.name]
        words += ["--service", "cm_dagster.local.wms.LocalWmsService", "--dagster", self.rig.deployment.home]
        return self.rig.program(*words, "--butler", self.rig.survey.root, code=None)

    def assert_steps_in_order(self) -> None:
        """The second step was requested after all of the first was accepted, by the order of the event log."""
        instance = self.rig.instance
        ends = {dg.DagsterEventType.RUN_SUCCESS}
        accepted = [
            record.storage_id
            for run in self.runs()
            for record in instance.get_records_for_run(run.run_id, of_type=ends).records
        ]
        (second,) = self.runs("step2")
        first = instance.get_records_for_run(second.run_id, limit=1, ascending=True).records[0]
        assert len(accepted) == self.groups
        assert first.storage_id > max(accepted)

    def recover(self, outage: str, away: float, is_well: Callable[[], bool]) -> None:
        """Wait until all is well after an outage, and take down how long that took.

        Parameters
        ----------
        outage
            What it was.
        away
            How long the service was away, in seconds.
        is_well
            Whether all is as it should be.
        """
        returned, before = time.monotonic(), self._fingerprint()
        first = wait("any progress", lambda: self._fingerprint() != before and time.monotonic(), every=0.5)
        wait("all to be well again", lambda: is_well() and self.count().get("running") == IN_FLIGHT, every=0.5)
        self.stage.figures.append(Figures(outage, away, first - returned, time.monotonic() - returned))
        self.assert_nothing_is_done_twice()

    def _fingerprint(self) -> object:
        """What changes whenever anything of the campaign goes on, by the ledger."""
        wanted = dg.RunsFilter(tags={"cm/kind": "workflow", "cm/step": self.step("step1").tag})
        return [(run.run_id, run.tags.get("cm/state")) for run in self.rig.instance.get_runs(wanted)]
