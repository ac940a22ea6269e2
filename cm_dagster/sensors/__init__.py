"""The sensors of a code location: each asks `cm_dagster.control` what is due, and requests it.

A pilot can stop one of them in the UI: without ``dispatch`` nothing new is requested, without ``submit`` nothing goes
to the WMS, while ``watch`` goes on following what runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dagster as dg

from cm_dagster.control.site import Site
from cm_dagster.control.travel import DELIVER, STAGE
from cm_dagster.ledger.loading import AssetJob
from cm_dagster.sensors.advance import advance_sensor
from cm_dagster.sensors.campaigns import campaigns_sensor
from cm_dagster.sensors.chain import chain_sensor
from cm_dagster.sensors.dispatch import dispatch_sensor
from cm_dagster.sensors.lanes import lanes_sensor
from cm_dagster.sensors.submit import submit_sensor
from cm_dagster.sensors.travel import travel_sensor
from cm_dagster.sensors.watch import watch_sensor

__all__ = ["all_sensors"]


def all_sensors(
    site: Site,
    *,
    jobs: Mapping[str, dg.JobDefinition],
    step_jobs: Sequence[AssetJob],
    names: Sequence[str],
    lanes: bool = False,
) -> list[dg.SensorDefinition]:
    """Make the sensors of a site's code location.

    Parameters
    ----------
    site
        The site.
    jobs
        The site's jobs, by stage.
    step_jobs
        The jobs of its steps.
    names
        Names of the campaigns that the code location has loaded.
    lanes
        Whether any of their steps is planned by each site itself.
    """
    made = [
        campaigns_sensor(site, names),
        submit_sensor(site, jobs["submit"]),
        watch_sensor(site, jobs["finalize"]),
        chain_sensor(site, jobs["chain"]),
    ]
    made += [travel_sensor(site, kind, jobs[kind]) for kind in (DELIVER, STAGE) if kind in jobs]
    if step_jobs:
        made.append(dispatch_sensor(site, step_jobs))
    if lanes:
        made.append(lanes_sensor(site, names))
    if site.spec.home and names:
        made.append(advance_sensor(site, names))
    return made
