"""Three sites, a campaign that is shared out to them, and how much of it each of them gets done in a time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from cm_dagster.local.minidrp import PIPELINE
from cm_dagster.plan.names import StepId
from cm_dagster.testing.postgres import PostgresServer
from cm_dagster_tests.outages.stage import Stage, Wms
from cm_dagster_tests.system.rig import PATIENCE, SITE, Case, Rig, wait_for

__all__ = ["EAST", "GROUPS", "SHARES", "SLEEP", "STEPS", "WEST", "Land", "Shared", "Window"]

EAST, WEST = "east", "west"
"""The sites beside the home site; each has a Butler of its own, on PostgreSQL."""
SHARES = {SITE: 0.4, EAST: 0.35, WEST: 0.25}
STEPS = ("step1", "step2", "step3")
GROUPS = 60
"""Groups of the first step."""
SLEEP = 4.0
"""Seconds that a job of the first step sleeps: the time of a group is not made of computing."""


class Window(NamedTuple):
    """What sites got done in a time."""

    seconds: float
    accepted: Mapping[str, int]
    """Groups that were accepted meanwhile, by site."""

    def rate(self, *sites: str) -> float:
        """Groups that some sites got done in a minute."""
        return 60.0 * sum(self.accepted[site] for site in sites) / self.seconds


@dataclass(frozen=True)
class Land:
    """A deployment of three sites, and the services that they depend on."""

    rig: Rig
    database: PostgresServer
    """Dagster's."""
    registries: Mapping[str, PostgresServer]
    """Of the Butlers, by site."""
    figures: list[str] = field(default_factory=list)

    def wms(self, site: str) -> Wms:
        """The WMS of a site."""
        return Wms(self.rig.deployment.wms_home(site))

    @contextmanager
    def without_code_server(self, site: str) -> Iterator[None]:
        """Have the host of a site's code server die, with all workers; it comes back."""
        name = f"code-{site}"
        self.rig.kill(name)
        try:
            yield
        finally:
            self.rig.revive(name)

    @contextmanager
    def without_butler(self, site: str) -> Iterator[None]:
        """Have the database of a site's Butler stop."""
        self.registries[site].stop()
        try:
            yield
        finally:
            Stage.bring_back(self.registries[site])


@dataclass(frozen=True)
class Shared(Case):
    """The campaign that is shared out."""

    land: Land

    def write(self) -> None:
        """Write the campaign file: a group per visit, then some, then one."""
        survey = self.rig.survey
        cut = {"step1": {"size": 1}, "step2": {"count": 6}, "step3": {"count": 1}}
        steps: dict[str, Any] = {
            name: {"pipeline": f"#{name}", "group_by": {"dimension": "visit", **cut[name]}} for name in STEPS
        }
        steps["step1"]["group_by"]["dataset"] = "raw"
        steps["step2"] |= {"needs": ["step1"]}
        steps["step2"]["group_by"]["dataset"] = "calexp"
        steps["step3"] |= {"needs": ["step1", "step2"]}
        document = {
            "campaign": self.name,
            "butler": {"input": [survey.defaults], "output": f"u/test/{self.name}", "where": survey.where},
            "pipeline": str(PIPELINE),
            "sites": dict(SHARES),
            "bps": {"environment": {"CM_MINIDRP_FAULTS": str(self.faults_file)}},
            "steps": steps,
        }
        self.file.write_text(yaml.safe_dump(document))
        self.set_faults([{"task": "isr", "action": "sleep", "seconds": SLEEP}])

    # ------------------------------------------------------------------------------------------------ what is seen

    def accepted(self, step: str = "step1") -> Counter[str]:
        """Number of accepted groups of a step, by site."""
        (found,) = [each for each in self.view().steps if each.step == step]
        return Counter({place.site: place.accepted for place in found.sites})

    def window(self, seconds: float) -> Window:
        """Let a time pass, and count what was accepted meanwhile."""
        before, begun = self.accepted(), time.monotonic()
        time.sleep(seconds)
        after = self.accepted()
        passed = time.monotonic() - begun
        return Window(passed, {site: after[site] - before[site] for site in SHARES})

    def wait_for_progress(self, site: str) -> float:
        """Wait until a site has got anything more done, and give the time that took, in seconds."""
        before, begun = self.accepted()[site], time.monotonic()
        wait_for(f"progress at {site}", lambda: self.accepted()[site] > before, PATIENCE)
        return time.monotonic() - begun

    def reason(self, step: str = "step1") -> str:
        """What is said of a step."""
        return next(each.reason for each in self.view().steps if each.step == step)

    def workflows(self) -> Counter[str]:
        """How often each workflow of the campaign was submitted, at all sites together, and succeeded."""
        found: Counter[str] = Counter()
        for site in SHARES:
            for name, states in self.land.wms(site).states().items():
                if name.startswith(f"{self.name}."):
                    found[name] += len(states)
                    assert set(states) == {"SUCCEEDED"}, (name, states)
        return found

    def at(self, step: str, site: str) -> StepId:
        return StepId(self.name, step, site)
