"""The sensors of a code location: each asks `cm_dagster.control` what is due, and requests it.

A pilot can stop one of them in the UI: without ``dispatch`` nothing new is requested, without ``submit`` nothing goes
to the WMS, while ``watch`` goes on following what runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from cm_dagster.control.site import Site
from cm_dagster.sensors.advance import advance_sensor
from cm_dagster.sensors.campaigns import campaigns_sensor
from cm_dagster.sensors.chain import chain_sensor
from cm_dagster.sensors.dispatch import dispatch_sensor
from cm_dagster.sensors.submit import submit_sensor
from cm_dagster.sensors.watch import watch_sensor

__all__ = ["all_sensors"]


def all_sensors(
    site: Site, *, jobs: dict[str, dg.JobDefinition], names: Sequence[str], assets: Sequence[dg.AssetsDefinition]
) -> list[dg.SensorDefinition]:
    """Make the sensors of a site's code location.

    Parameters
    ----------
    site
        The site.
    jobs
        The site's jobs, by stage.
    names
        Names of the campaigns that the code location has loaded.
    assets
        The code location's assets.
    """
    made = [
        campaigns_sensor(site, names),
        submit_sensor(site, jobs["submit"]),
        watch_sensor(site, jobs["finalize"]),
        chain_sensor(site, jobs["chain"]),
    ]
    if assets:
        made.append(dispatch_sensor(site))
        if site.spec.home:
            made.append(advance_sensor(site))
    return made
