"""A world: one deployment in a folder, with a campaign, a fake WMS, and a cluster that does the workflows' work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from lsst.daf.butler import Butler

from cm_dagster.errors import ButlerError
from cm_dagster.local.deployment import Deployment
from cm_dagster.local.survey import Survey, make_synthetic_survey
from cm_dagster.plan.names import AttemptId
from cm_dagster.services.quanta import FinalJobResult, QuantaSummary, TaskQuanta
from cm_dagster.spec import CampaignSpec
from cm_dagster.testing.fakewms.bps import install
from cm_dagster.testing.fakewms.store import FakeWms, Workflow
from cm_dagster_tests.faults.clock import Clock
from cm_dagster_tests.integration.ledger_rig import make_blank, use_storage

__all__ = ["CAMPAIGN", "LAST", "SITE", "Templates", "World", "make_templates"]

CAMPAIGN = "camp"
LAST = "step3"
SITE = "here"
QUANTA = 4
"""Quanta of each workflow."""
_LAUNCHER = {"inner": {"module": "cm_dagster_tests.faults.launcher", "class": "ForkRunLauncher", "config": {}}}


@dataclass(frozen=True)
class Templates:
    """What worlds are copies of, since making it takes seconds."""

    home: Path
    survey: Survey


def make_templates(folder: Path, *, visits: int = 4) -> Templates:
    """Make an empty Dagster home and a small survey."""
    survey = make_synthetic_survey(folder / "repo", visits=visits, detectors=1, tracts=1, patches=1)
    return Templates(make_blank(folder / "blank"), survey)


@dataclass(frozen=True)
class World:
    """One deployment, in a folder of its own."""

    folder: Path

    @classmethod
    def make(
        cls,
        folder: Path,
        templates: Templates,
        *,
        settle: float = 30.0,
        in_flight: int = 2,
        storage: Mapping[str, Any] | None = None,
    ) -> World:
        """Make a world.

        Parameters
        ----------
        folder
            Where; it must not exist.
        templates
            What it is a copy of.
        settle
            Seconds after which a submitted workflow is visible at the WMS.
        in_flight
            Most workflows at a time.
        storage
            The block ``storage`` of dagster.yaml; None for SQLite.
        """
        world = cls(folder)
        folder.mkdir(parents=True)
        shutil.copytree(templates.survey.root, world.repo)
        shutil.copytree(templates.home, world.deployment.home)
        site = {
            "butler": str(world.repo),
            "submit_area": str(world.deployment.submit_area(SITE)),
            "wms": {
                "service": "cm_dagster.testing.fakewms.service.FakeWmsService",
                "compute_site": "fake",
                "settle": settle,
            },
            "submit": {"method": "plain", "batch": 2},
            "limits": {"in_flight": in_flight, "ramp_up": {"over": 2.0}},  # a world in peace lives a quarter of an hour
            "env": {"CM_FAKE_WMS_HOME": str(world.wms.home)},
        }
        world.deployment.write({"sites": {SITE: site}}, dequeue_seconds=1)
        settings = yaml.safe_load((world.deployment.home / "dagster.yaml").read_text())
        settings["run_launcher"]["config"] = _LAUNCHER
        # Runs are forks here, and a fork of one of several threads may wait for ever for a lock that another one held.
        settings["run_coordinator"]["config"]["dequeue_use_threads"] = False
        (world.deployment.home / "dagster.yaml").write_text(yaml.safe_dump(settings))
        use_storage(world.deployment, storage)
        install(world.folder / "bin")
        return world

    @cached_property
    def deployment(self) -> Deployment:
        return Deployment(self.folder / "deployment")

    @property
    def repo(self) -> Path:
        return self.folder / "repo"

    @cached_property
    def wms(self) -> FakeWms:
        return FakeWms(self.folder / "wms")

    @cached_property
    def clock(self) -> Clock:
        return Clock(self.folder / "clock.json")

    @property
    def crashes(self) -> Path:
        """A line for each crash: the point at which it was."""
        return self.folder / "crashes"

    def environment(self) -> dict[str, str]:
        """Environment of every process of the world."""
        ours = {"CM_FAKE_WMS_HOME": str(self.wms.home), "CM_SITE": SITE, "CM_OPERATOR": "cm"}
        return {**self.deployment.environment(), **ours}

    def campaign(self, survey: Survey, visits: int = 3) -> CampaignSpec:
        """Describe the campaign: a group per visit in two steps that a third one, of one group, needs both."""
        each = {"group_by": {"dimension": "visit", "dataset": "raw", "size": 1}}
        return CampaignSpec.model_validate(
            {
                "campaign": CAMPAIGN,
                "butler": {
                    "input": [survey.defaults],
                    "output": "u/camp",
                    "where": f"{survey.where} AND visit <= {visits}",
                },
                "pipeline": "/nope/DRP.yaml",
                "stack": {"setup": "script", "script": f"export PATH={self.folder / 'bin'}:$PATH"},
                "sites": SITE,
                "steps": {
                    "step1": {"pipeline": "#step1", **each},
                    "step2": {"pipeline": "#step2", **each, "needs": []},
                    LAST: {
                        "pipeline": "#step3",
                        "needs": ["step1", "step2"],
                        "group_by": {"dimension": "visit", "count": 1},
                    },
                },
            }
        )

    # --------------------------------------------------------------------------------------------- what goes wrong

    @property
    def _orders(self) -> Path:
        return self.folder / "orders.json"

    def orders(self) -> dict[str, Any]:
        """What the cluster and the Butler do wrong: ``fail`` and ``orphan`` (names of groups), ``butler`` (down)."""
        return json.loads(self._orders.read_text()) if self._orders.exists() else {}

    def order(self, **orders: Any) -> None:
        """Have something go wrong, or right again."""
        self._orders.write_text(json.dumps({**self.orders(), **orders}))

    # -------------------------------------------------------------------------------------------------- the cluster

    def work(self, followed: Collection[str]) -> None:
        """Let every workflow at the WMS come on by one state; at its end its outputs are in the Butler.

        Parameters
        ----------
        followed
            Ids of the workflows that attempts record as theirs.
        """
        orders = self.orders()
        # A twin that the WMS made by itself can't be prevented, only cancelled: it waits in the queue for that, or
        # until it is followed in the place of one that has failed.
        twins = {each.wms_id for each in self.wms.requests() if each.outcome == "done, as a twin"}
        for workflow in self.wms.workflows():
            if workflow.wms_id in twins and workflow.wms_id not in followed:
                continue
            if workflow.state == "PENDING":
                self.wms.set(workflow.wms_id, "RUNNING")
            elif workflow.state == "RUNNING":
                self._end(workflow, orders)

    def _end(self, workflow: Workflow, orders: dict[str, Any]) -> None:
        attempt = AttemptId.from_workflow(workflow.name)
        once = f"{attempt.step.step}/{attempt.group}"
        failed = once in orders.get("fail", ()) and attempt.number == 1
        done = QUANTA // 2 if failed else QUANTA
        quanta = {"run": workflow.run, "succeeded": done}
        (Path(workflow.submit_dir) / "quanta.json").write_text(json.dumps(quanta))
        if once not in orders.get("orphan", ()):
            self.register(workflow.run)
        self.wms.set(workflow.wms_id, "FAILED" if failed else "SUCCEEDED")

    def register(self, run: str) -> None:
        """Do what a workflow's final job does."""
        with Butler.from_config(str(self.repo), writeable=True) as butler:
            butler.collections.register(run)

    # ------------------------------------------------------------- in place of quantum graphs, which no workflow has

    def read_quanta(self, submit_dir: Path, butler: Any) -> QuantaSummary:
        """Stand in for `cm_dagster.services.quanta.read_quanta`: what the cluster left, and what the Butler has."""
        quanta = json.loads((submit_dir / "quanta.json").read_text())
        done: int = quanta["succeeded"]
        tasks = {"isr": TaskQuanta(QUANTA, done, failed=QUANTA - done)}
        registered = {"isr": done} if butler.exists(quanta["run"]) else None
        return QuantaSummary(quanta["run"], tasks, provenance=True, registered=registered)

    def run_final_job(self, submit_dir: Path, *_: Any, **__: Any) -> FinalJobResult:
        """Stand in for `cm_dagster.services.quanta.run_final_job`."""
        if self.orders().get("butler"):
            error = ButlerError("the Butler does not answer: it is switched off", transient=True)
            return FinalJobResult(False, submit_dir / "final.log", 0.0, error)
        self.register(json.loads((submit_dir / "quanta.json").read_text())["run"])
        return FinalJobResult(True, submit_dir / "final.log", 0.0, None)
