"""Sensor ``submit``: hands queued attempts, in batches, to runs of the submit job."""

from __future__ import annotations

import dagster as dg

from cm_dagster.control.queue import batches
from cm_dagster.control.site import Site
from cm_dagster.crashpoints import crash_point

__all__ = ["submit_sensor"]


def submit_sensor(site: Site, job: dg.JobDefinition) -> dg.SensorDefinition:
    """Make the sensor of a site.

    Parameters
    ----------
    site
        The site.
    job
        The job that submits a batch of attempts.
    """

    @dg.sensor(
        name=f"submit_{site.name}",
        job=job,
        minimum_interval_seconds=int(site.spec.brisk),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Hands queued attempts to the WMS in batches; stop it to send nothing.",
    )
    def sense(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        due = batches(context.instance, site, job.name)
        if not due:
            return dg.SkipReason("nothing waits for submission, or no slot is free")
        requests = [dg.RunRequest(run_key=batch.run_key, run_config=batch.config("submit_attempts")) for batch in due]
        crash_point("queue.requested")
        return dg.SensorResult(run_requests=requests)

    return sense
