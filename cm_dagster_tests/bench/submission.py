"""Our own part of submitting groups of 6 quanta, beside what ``bps submit`` itself takes."""

from __future__ import annotations

import subprocess
from pathlib import Path

from rich.table import Table

from cm_dagster.control.inputs import prepare_inputs
from cm_dagster.control.site import Site
from cm_dagster.control.submit import submit
from cm_dagster.ledger.plans import load_plan
from cm_dagster.local.minidrp import PIPELINE
from cm_dagster.local.survey import Survey, make_hsc_survey
from cm_dagster.local.wms.shutdown import shutdown
from cm_dagster.spec import CampaignSpec
from cm_dagster_tests.bench.measure import Cpu, measured
from cm_dagster_tests.integration.ledger_rig import LOG, SITE, STEP1, Rig, make_blank, open_rig

__all__ = ["bench"]

_PLAIN = 3
"""Groups that are submitted by plain ``bps submit``, for comparison."""


def bench(folder: Path) -> Table:
    """Submit a batch by our protocol, and some groups by hand."""
    survey = make_hsc_survey(folder / "hsc")
    settings = {"butler": str(survey.root), "bps": {"site": {"local": {"cores": 1}}}}
    with open_rig(folder, make_blank(folder / "blank"), settings) as rig:
        try:
            site = Site(SITE, rig.site.spec)  # with its real WMS and its real submitter
            groups = _plan(rig, site, survey)
            run_ids = [rig.queue(group) for group in groups]
            with measured() as batch:
                done = submit(rig.instance, site, run_ids, "bench", LOG)
            plain = _plain(site, groups[:_PLAIN])
        finally:
            shutdown()
    if done.submitted != len(groups):
        raise RuntimeError(f"{done.submitted} of {len(groups)} groups were submitted: {done.errors}")
    return _table(len(groups), batch, plain)


def _plan(rig: Rig, site: Site, survey: Survey) -> list[str]:
    """Make a campaign of one step with a group for each visit."""
    document = {
        "campaign": STEP1.campaign,
        "butler": {"input": [survey.defaults], "output": "u/camp", "where": survey.where},
        "pipeline": str(PIPELINE),
        "sites": SITE,
        "steps": {STEP1.step: {"pipeline": "#step1", "group_by": {"dimension": "visit", "size": 1}}},
    }
    spec = rig.create(CampaignSpec.model_validate(document))
    prepare_inputs(rig.instance, site, spec, STEP1.step)
    plan = load_plan(rig.instance, STEP1.campaign, STEP1.step)
    if plan is None:
        raise RuntimeError("the step has no plan")
    return [group.name for group in plan.groups]


def _plain(site: Site, groups: list[str]) -> Cpu:
    """Submit the same groups by ``bps submit``, as a person would, into other directories and collections."""
    with measured() as cpu:
        for group in groups:
            folder = site.area / STEP1.campaign / STEP1.step / group / "a01"
            config = folder / "plain.yaml"
            config.write_text((folder / "bps.yaml").read_text().replace("/a01", "/plain"))
            script = folder / "plain.sh"
            script.write_text((folder / "submit.sh").read_text().replace("bps.yaml", "plain.yaml"))
            subprocess.run(["bash", str(script)], check=True, capture_output=True)
    return cpu


def _table(groups: int, batch: Cpu, plain: Cpu) -> Table:
    each = plain.children / _PLAIN
    table = Table(title=f"submitting {groups} groups, CPU seconds a group (SQLite)")
    for column in ("plain bps submit", "bps in our batch", "our own part", "ours / plain"):
        table.add_column(column, justify="right")
    own = batch.own / groups
    table.add_row(f"{each:.2f}", f"{batch.children / groups:.2f}", f"{own:.3f}", f"{own / each:.1%}")
    return table
