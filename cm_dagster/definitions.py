"""One code location: the assets, jobs and sensors of the site that ``CM_SITE`` names."""

from __future__ import annotations

import warnings

import dagster as dg

from cm_dagster.assets.audit import audit_asset, audit_job
from cm_dagster.assets.campaigns import campaigns
from cm_dagster.assets.jobs import site_jobs, step_jobs
from cm_dagster.assets.sites import sites
from cm_dagster.assets.steps import quanta_check, step_assets
from cm_dagster.control.site import current_site, remote_sites
from cm_dagster.control.travel import journeys_of
from cm_dagster.ledger.loading import load_specs
from cm_dagster.ledger.warm import warm_runs
from cm_dagster.plan.names import StepId
from cm_dagster.sensors import all_sensors
from cm_dagster.sensors.audit import audit_schedule

# Such features are used knowingly (`backfill_policy`, partitioned checks); a warning for each asset would bury all else
# in the logs.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)
warm_runs()


@dg.definitions
def defs() -> dg.Definitions:
    """Make the definitions of this process."""
    site = current_site()
    specs = load_specs()
    remote = {spec.campaign: remote_sites(spec) for spec in specs}
    assets = [
        asset
        for spec in specs
        for step in spec.order()
        for asset in step_assets(spec, step, site=site.name, home=site.spec.home, remote=remote[spec.campaign])
    ]
    here = [spec for spec in specs if site.name in spec.sites]
    checks = [quanta_check(StepId(spec.campaign, step, site.name)) for spec in here for step in spec.order()]
    jobs = site_jobs(site.name, journeys_of(site))
    attempts = step_jobs(specs, site.name)
    nightly = audit_job(site.name)
    return dg.Definitions(
        assets=[*([campaigns, sites] if site.spec.home else []), audit_asset(site.name), *assets],
        asset_checks=checks,
        jobs=[*jobs.values(), nightly, *attempts],
        schedules=[audit_schedule(site.name, nightly)],
        # A run of ours has a step or two: a process for each would cost seconds.
        executor=dg.in_process_executor,
        sensors=all_sensors(
            site,
            jobs=jobs,
            step_jobs=attempts,
            names=[spec.campaign for spec in specs],
            lanes=any(spec.lanes(step) for spec in here for step in spec.order()),
        ),
    )
