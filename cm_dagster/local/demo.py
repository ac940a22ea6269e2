"""A campaign of real survey records through four steps at two sites, unattended, on this machine."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cm_dagster.errors import CmError
from cm_dagster.local.deployment import Deployment
from cm_dagster.local.servers import stop_left_over

__all__ = ["CAMPAIGN", "Demo", "Timing"]

CAMPAIGN = "demo"
_HOME, _AWAY = "north", "south"
_SHARES = {_HOME: 0.6, _AWAY: 0.4}
"""Sites of the demo, each with a Butler, a WMS and a code server of its own, with what they take of each step."""
_MARK = ".cm_dagster_demo"
_TICK = 4.0
"""Seconds; short, so that the demo is. The default is 30."""

_FAULTS = [
    {"task": "isr", "where": "exposure=903334 AND detector=22", "action": "raise", "times": 1},
    {"task": "calibrateImage", "where": "visit=904014 AND detector=12", "action": "raise"},
]
"""One quantum that fails once, and is tried again by the WMS; one that always fails."""


@dataclass(frozen=True)
class Timing:
    """What a part of the demo cost."""

    part: str
    wall: float
    """Seconds."""
    cpu: float
    """Seconds of CPU, of this process and the children that it has waited for."""


class Demo:
    """The demo: its survey, its sites, its campaign, its servers.

    Parameters
    ----------
    folder
        Where everything of it is put.
    fault
        Whether quanta fail: one once, one always.
    """

    def __init__(self, folder: Path, *, fault: bool = False) -> None:
        self.deployment = Deployment(folder)
        self.fault = fault
        self.timings: list[Timing] = []

    @property
    def campaign_file(self) -> Path:
        """The campaign file."""
        return self.deployment.folder / "campaign.yaml"

    @property
    def repo(self) -> Path:
        """The Butler repository of the home site, where all outputs end up."""
        return self._repo(_HOME)

    def _repo(self, site: str) -> Path:
        return self.deployment.folder / "repo" / site

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Measure what a part costs."""
        wall, before = time.monotonic(), os.times()
        yield
        after = os.times()
        self.timings.append(Timing(part, time.monotonic() - wall, sum(after[:4]) - sum(before[:4])))

    def prepare(self) -> None:
        """Remove what a former demo left, also its processes, and make the survey and all files.

        Raises
        ------
        CmError
            If the folder holds anything else.
        """
        self.clean()
        self.deployment.folder.mkdir(parents=True)
        (self.deployment.folder / _MARK).touch()
        from cm_dagster.local.survey import copy_survey, make_hsc_survey

        survey = make_hsc_survey(self.repo)
        copy_survey(survey, self._repo(_AWAY))
        self.deployment.write(self._sites(), dequeue_seconds=2)
        (self.deployment.folder / "faults.json").write_text(json.dumps(_FAULTS if self.fault else []))
        self.campaign_file.write_text(yaml.safe_dump(self._campaign(survey.defaults, survey.where), sort_keys=False))
        os.environ.update(self.deployment.environment())

    def clean(self) -> None:
        """End the processes of a former demo and remove its folder."""
        folder = self.deployment.folder
        if not folder.exists():
            return
        if any(folder.iterdir()) and not (folder / _MARK).exists():
            raise CmError(f"{folder} holds something else than a demo", advice="name another folder: cm demo --dir ...")
        self.stop()
        shutil.rmtree(folder)

    def stop(self) -> None:
        """End all processes of the demo that still run: its servers, its workflows."""
        stop_left_over(self.deployment)
        from cm_dagster.local.wms.shutdown import shutdown

        for site in self.deployment.names if self.deployment.sites.exists() else ():
            if self.deployment.wms_home(site).exists():
                os.environ.update(self.deployment.environment(site))
                shutdown()

    def _sites(self) -> dict[str, Any]:
        return {"sites": {name: self._site(name) for name in _SHARES}}

    def _site(self, name: str) -> dict[str, Any]:
        return {
            "home": name == _HOME,
            "butler": str(self._repo(name)),
            "submit_area": str(self.deployment.submit_area(name)),
            "wms": {"service": "cm_dagster.local.wms.LocalWmsService", "compute_site": "local", "settle": 5.0},
            "bps": {
                "site": {"local": {"cores": 1, "warm": True, "preload": "cm_dagster.local.minidrp.tasks"}},
                "numberOfRetries": 2,
                "retryUnlessExit": [],
                "finalJob": {"requestMemory": 2048},
            },
            "tick": _TICK,
            "env": {
                "CM_LOCAL_WMS_HOME": str(self.deployment.wms_home(name)),
                "CM_MINIDRP_FAULTS": str(self.deployment.folder / "faults.json"),
                "CM_MINIDRP_STATE": str(self.deployment.folder / "faults"),
            },
        }

    def _campaign(self, inputs: str, where: str) -> dict[str, Any]:
        pipeline = Path(__file__).parent / "minidrp" / "pipelines" / "MiniDRP.yaml"
        steps = {
            "step1": {"pipeline": "#step1", "group_by": {"dimension": "visit", "dataset": "raw", "size": 3}},
            "step2": {"pipeline": "#step2", "needs": ["step1"], "group_by": {"dimension": "visit", "count": 2}},
            "step3": {
                "pipeline": "#step3",
                "needs": ["step1", "step2"],
                # Only patches that the images of step1 overlap.
                "group_by": {"dimension": "patch", "dataset": "calexp", "count": 3},
            },
            "step4": {"pipeline": "#step4", "needs": ["step3"], "group_by": {"dimension": "tract", "size": 1}},
        }
        return {
            "campaign": CAMPAIGN,
            "description": "Real HSC records through a DRP in miniature",
            "butler": {"input": [inputs], "output": "u/demo/hsc", "where": where},
            "pipeline": str(pipeline),
            "sites": dict(_SHARES),
            "defaults": {"requirements": {}},
            "steps": steps,
        }
