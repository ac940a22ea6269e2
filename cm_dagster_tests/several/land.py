"""Three sites, a campaign that is shared out to them, and how much of it each of them gets done in a time."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cm_dagster.local.deployment import Deployment
from cm_dagster.local.minidrp import PIPELINE
from cm_dagster.testing.postgres import PostgresServer
from cm_dagster_tests.outages.stage import Stage, Wms
from cm_dagster_tests.system.rig import PATIENCE, SITE, Case, Rig, wait_for
from cm_dagster_tests.system.start import pooled, started

__all__ = ["EAST", "SHARES", "STEPS", "WEST", "Land", "Shared", "open_land"]

EAST, WEST = "east", "west"
"""The sites beside the home site; each has a Butler of its own, on PostgreSQL."""
SHARES = {SITE: 0.4, EAST: 0.35, WEST: 0.25}
STEPS = ("step1", "step2", "step3")


@dataclass(frozen=True)
class Land:
    """A deployment of three sites, and the services that they depend on."""

    rig: Rig
    database: PostgresServer
    """Dagster's."""
    registries: Mapping[str, PostgresServer]
    """Of the Butlers, by site."""

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
    groups: int
    """Groups of the first step."""
    sleep: float
    """Seconds that a job of the first step sleeps, so that the time of a group is not made of computing alone."""

    def write_lanes(self) -> None:
        """Write the campaign file: a group per visit in two steps, at two sites, of which none waits for the other."""
        survey = self.rig.survey
        cut = {"dimension": "visit", "size": 1}
        first = {"pipeline": "#step1", "group_by": {**cut, "dataset": "raw"}, "barrier": "site"}
        second = {"pipeline": "#step2", "group_by": {**cut, "dataset": "calexp"}, "needs": ["step1"]}
        document = {
            "campaign": self.name,
            "butler": {
                "input": [survey.defaults],
                "output": f"u/test/{self.name}",
                "where": f"{survey.where} AND visit <= {self.groups}",
            },
            "pipeline": str(PIPELINE),
            "sites": [EAST, WEST],
            "steps": {"step1": first, "step2": second},
        }
        self.file.write_text(yaml.safe_dump(document))

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
        self.set_faults([{"task": "isr", "action": "sleep", "seconds": self.sleep}])

    # ------------------------------------------------------------------------------------------------ what is seen

    def accepted(self, step: str = "") -> Counter[str]:
        """Number of accepted groups by site, of a step or of all."""
        found: Counter[str] = Counter()
        for each in self.view().steps:
            if step in ("", each.step):
                found.update({place.site: place.accepted for place in each.sites})
        return found

    def left(self) -> Counter[str]:
        """Number of groups that are not accepted, of the steps that are planned, by site."""
        found: Counter[str] = Counter()
        for each in self.view().steps:
            found.update({place.site: place.left for place in each.sites})
        return found

    def wait_for_others(self, site: str, before: Counter[str]) -> None:
        """Wait until each site but one has got more done than before, or all that there is for it to do."""

        def look() -> bool:
            now, left = self.accepted(), self.left()
            return all(now[other] > before[other] or not left[other] for other in SHARES if other != site)

        wait_for(f"progress at the sites other than {site}", look, 2 * PATIENCE)

    def wait_for_progress(self, site: str) -> float:
        """Wait until a site that has anything to do has got more done, and give the time that took, in seconds."""
        before, begun = self.accepted()[site], time.monotonic()
        wait_for(f"progress at {site}", lambda: self.accepted()[site] > before or not self.left()[site], 2 * PATIENCE)
        return time.monotonic() - begun

    def said(self) -> str:
        """What is said of all steps, and of the sites."""
        view = self.view()
        sites = [json.dumps(each.to_json()) for each in view.sites]
        return "\n".join([*(each.reason for each in view.steps), *sites])

    def workflows(self) -> Counter[str]:
        """How often each workflow of the campaign was submitted, at all sites together, and succeeded."""
        found: Counter[str] = Counter()
        for site in SHARES:
            for name, states in self.land.wms(site).states().items():
                if name.startswith(f"{self.name}."):
                    found[name] += len(states)
                    assert set(states) == {"SUCCEEDED"}, (name, states)
        return found


@contextmanager
def open_land(folder: Path, visits: int, in_flight: int) -> Iterator[Land]:
    """Start three sites.

    Parameters
    ----------
    folder
        Where their files are to be.
    visits
        Number of visits of the survey.
    in_flight
        Most workflows at a site at a time.
    """
    site = {
        "limits": {"in_flight": in_flight},
        "tick": 5.0,
        # As long as an outage here, so that it is the pauses between tries that bring the campaign through.
        "backoff": {"first": 5.0, "longest": 10.0},
        "submit": {"batch": 5},
    }
    with ExitStack() as stack:
        database = stack.enter_context(PostgresServer())
        registries = {name: stack.enter_context(PostgresServer()) for name in (EAST, WEST)}
        urls = {name: each.create("registry", extensions=["btree_gist"]).url for name, each in registries.items()}
        started_ = started(Deployment(folder), visits=visits, storage=pooled(database), site=site, butlers=urls)
        yield Land(stack.enter_context(started_), database, registries)
