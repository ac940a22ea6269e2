"""Sensors ``stage`` and ``deliver``: have data brought to a site, and home."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg

from cm_dagster.control.site import Site
from cm_dagster.control.travel import DELIVER, STAGE, Trip, deliveries_due, stages_due
from cm_dagster.crashpoints import crash_point

__all__ = ["travel_sensor"]

_DUE: dict[str, Callable[[dg.DagsterInstance, Site], list[Trip]]] = {STAGE: stages_due, DELIVER: deliveries_due}
_SAID = {
    STAGE: "Has the inputs of planned groups brought to this site, in the order of their submission.",
    DELIVER: "Has the outputs of groups that other sites have accepted brought home, a run a site at a time.",
}


def travel_sensor(site: Site, kind: str, job: dg.JobDefinition) -> dg.SensorDefinition:
    """Make the sensor of a site.

    Parameters
    ----------
    site
        The site to which data are brought.
    kind
        ``stage``, or ``deliver`` at the home site.
    job
        The job that brings them.
    """

    @dg.sensor(
        name=f"{kind}_{site.name}",
        job=job,
        minimum_interval_seconds=int(site.spec.brisk),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=_SAID[kind],
    )
    def sense(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        due = _DUE[kind](context.instance, site)
        if not due:
            return dg.SkipReason("nothing is to be brought, or what is waits: see `cm status`")
        requests = [
            dg.RunRequest(run_key=trip.run_key, run_config=trip.config(f"{kind}_groups"), tags=dict(trip.tags))
            for trip in due
        ]
        crash_point("sensor.travel")
        return dg.SensorResult(run_requests=requests)

    return sense
