"""One site with the real HSC records, the mini DRP and the local WMS: what the tests of the BPS side stand on."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cm_dagster.local.minidrp import PIPELINE
from cm_dagster.local.survey import Survey
from cm_dagster.local.wms.shutdown import shutdown
from cm_dagster.plan.groups import Group
from cm_dagster.plan.names import AttemptId, StepId
from cm_dagster.plan.render import bps_config
from cm_dagster.services.butler import ButlerService
from cm_dagster.services.submitter import Prepared, SubmitOutcome, SubmitResult, Submitter, next_try
from cm_dagster.services.wms import WmsClient, WmsState, WorkflowReport
from cm_dagster.spec.models import CampaignSpec
from cm_dagster.spec.sites import SiteSpec

__all__ = ["OPERATOR", "WMS", "Bench", "open_bench"]

WMS = "cm_dagster.local.wms.LocalWmsService"
OPERATOR = "tester"
ENDED = (WmsState.SUCCEEDED, WmsState.FAILED, WmsState.CANCELLED)
VISITS = (903334, 903336, 903338, 903342, 903344, 903346, 903986, 903988, 903990, 904010, 904014)


class Bench:
    """Submits groups of step 1 and watches them."""

    def __init__(self, root: Path, survey: Survey) -> None:
        self.root = root
        self.survey = survey
        self.faults = root / "faults.json"
        self.env = {"CM_LOCAL_WMS_HOME": str(root / "wms"), "CM_MINIDRP_FAULTS": str(self.faults)}
        self.site = self.make_site()
        self.spec = self.make_spec()
        self.butler = ButlerService(str(survey.root))
        self.client = WmsClient(WMS, user=OPERATOR, env=self.env)
        self.submitter = Submitter(self.site)

    def make_site(self, **submit: Any) -> SiteSpec:
        return SiteSpec.model_validate(
            {
                "butler": str(self.survey.root),
                "submit_area": str(self.root / "area"),
                "wms": {"service": WMS, "compute_site": "local"},
                "bps": {"numberOfRetries": 0, "site": {"local": {"cores": 2, "warm": True}}},
                "submit": {"parallel": 2, "timeout": 3, **submit},
                "env": self.env,
            }
        )

    def make_spec(self, **changes: Any) -> CampaignSpec:
        return CampaignSpec.model_validate(
            {
                "campaign": "camp",
                "butler": {"input": [self.survey.defaults], "output": "u/camp"},
                "pipeline": str(PIPELINE),
                "sites": "here",
                "steps": {"step1": {"pipeline": "#step1"}},
                **changes,
            }
        )

    def strike(self, *rules: Mapping[str, Any]) -> None:
        """Have quanta fail from now on."""
        self.faults.write_text(json.dumps(rules))

    def prepare(
        self,
        index: int,
        visits: Sequence[int] | str,
        number: int = 1,
        *,
        spec: CampaignSpec | None = None,
        rescued: Sequence[str] = (),
    ) -> Prepared:
        where = visits if isinstance(visits, str) else f"visit IN ({','.join(map(str, visits))})"
        group = Group(f"g{index:04d}", f"{self.survey.where} AND {where}", 1, None, "test")
        attempt = AttemptId(StepId("camp", "step1", "here"), group.name, number)
        paths = next_try(attempt.folder(self.site.submit_area))
        spec = spec or self.spec
        config = bps_config(
            spec,
            self.site,
            group,
            attempt,
            paths,
            inputs=self.survey.defaults,
            operator=OPERATOR,
            rescued=rescued,
        )
        return self.submitter.prepare(attempt, config, paths, spec.stack)

    def submit(self, *batch: Prepared) -> dict[str, SubmitResult]:
        results = list(self.submitter.submit(batch))
        assert sorted(result.attempt.workflow for result in results) == sorted(one.attempt.workflow for one in batch)
        return {result.attempt.group: result for result in results}

    def run(self, prepared: Prepared) -> tuple[SubmitResult, WorkflowReport]:
        """Submit one group and wait until its workflow has ended."""
        (result,) = self.submit(prepared).values()
        assert result.outcome is SubmitOutcome.SUBMITTED, result.error
        assert result.wms_id is not None
        return result, self.wait(result.wms_id)

    def wait(self, wms_id: str, *states: WmsState) -> WorkflowReport:
        """Wait until a workflow is in one of some states."""
        end = time.monotonic() + 120
        while True:
            report = self.client.report_one(wms_id, history=1)
            assert report is not None
            if report.state in (states or ENDED):
                return report
            assert time.monotonic() < end, f"{report} after two minutes"
            time.sleep(0.2)


@contextmanager
def open_bench(root: Path, template: Survey) -> Iterator[Bench]:
    """Make a bench in a folder; end all that it started afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        shutil.copytree(template.root, root / "repo")
        bench = Bench(root, replace(template, root=root / "repo"))
        for name, value in bench.env.items():
            patch.setenv(name, value)
        try:
            yield bench
        finally:
            bench.butler.close()
            shutdown()
