"""Sensor ``watch``: follows workflows at the WMS, and judges and ends their attempts."""

from __future__ import annotations

import dagster as dg

from cm_dagster.control.site import Site
from cm_dagster.control.watch import watch

__all__ = ["watch_sensor"]


def watch_sensor(site: Site, job: dg.JobDefinition) -> dg.SensorDefinition:
    """Make the sensor of a site.

    Parameters
    ----------
    site
        The site.
    job
        The job that runs the final jobs of workflows again.
    """

    @dg.sensor(
        name=f"watch_{site.name}",
        job=job,
        minimum_interval_seconds=int(site.spec.tick),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Asks the WMS once for all open workflows; judges those that ended, cancels those to be cancelled.",
    )
    def sense(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        seen = watch(context.instance, site, context.log, job.name)
        if seen.batch is None:
            return dg.SkipReason(seen.summary)
        context.log.info(seen.summary)
        request = dg.RunRequest(run_key=seen.batch.run_key, run_config=seen.batch.config("finalize_attempts"))
        return dg.SensorResult(run_requests=[request])

    return sense
