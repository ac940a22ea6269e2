"""Sensor ``dispatch``: requests attempts at groups as slots come free."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from cm_dagster.control.dispatch import look
from cm_dagster.control.site import Site
from cm_dagster.control.telling import tell
from cm_dagster.crashpoints import crash_point
from cm_dagster.ledger.loading import AssetJob

__all__ = ["dispatch_sensor"]


def dispatch_sensor(site: Site, jobs: Sequence[AssetJob]) -> dg.SensorDefinition:
    """Make the sensor of a site.

    Parameters
    ----------
    site
        The site.
    jobs
        The jobs of its steps.
    """
    known = {job.name for job in jobs}

    @dg.sensor(
        name=f"dispatch_{site.name}",
        jobs=jobs,
        minimum_interval_seconds=int(site.spec.brisk),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Requests attempts at planned groups as slots come free; stop it to request nothing new.",
    )
    def sense(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        outlook = look(context.instance, site)
        tell(context.instance, outlook)
        # A campaign that was created a moment ago is not loaded yet.
        due = [wish for wish in outlook.wishes if wish.id.step.job in known]
        if not due:
            return dg.SkipReason("; ".join(outlook.reasons) or "nothing is left to be requested")
        requests = [
            dg.RunRequest(
                run_key=wish.run_key,
                job_name=wish.id.step.job,
                partition_key=wish.id.group,
                tags=wish.tags,
            )
            for wish in due
        ]
        crash_point("sensor.dispatch")
        return dg.SensorResult(run_requests=requests)

    return sense
