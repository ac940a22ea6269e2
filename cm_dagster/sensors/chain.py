"""Sensor ``chain``: has newly accepted groups put into the chain of their step."""

from __future__ import annotations

import dagster as dg

from cm_dagster.control.advance import chains_due
from cm_dagster.control.site import Site
from cm_dagster.crashpoints import crash_point
from cm_dagster.ledger import tags

__all__ = ["chain_sensor"]


def chain_sensor(site: Site, job: dg.JobDefinition) -> dg.SensorDefinition:
    """Make the sensor of a site.

    Parameters
    ----------
    site
        The site.
    job
        The job that chains one step.
    """

    @dg.sensor(
        name=f"chain_{site.name}",
        job=job,
        minimum_interval_seconds=int(site.spec.brisk),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Has accepted groups put into the chain of their step, all that are new in one run.",
    )
    def sense(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        due = chains_due(context.instance, site)
        if not due:
            return dg.SkipReason("all accepted groups are chained, or what failed waits: see `cm status`")
        requests = [
            dg.RunRequest(
                run_key=chain.run_key,
                run_config={"ops": {"chain_step": {"config": {"step": chain.step.tag}}}},
                tags={tags.STEP: chain.step.tag, **chain.tags},
            )
            for chain in due
        ]
        crash_point("sensor.chain")
        return dg.SensorResult(run_requests=requests)

    return sense
