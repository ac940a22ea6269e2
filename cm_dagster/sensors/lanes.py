"""Sensor ``lanes``: has a site make its groups of steps that it plans by itself."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from cm_dagster.control.lanes import LANE, lanes_due
from cm_dagster.control.site import Site
from cm_dagster.crashpoints import crash_point
from cm_dagster.ledger import tags

__all__ = ["lanes_sensor"]


def lanes_sensor(site: Site, loaded: Sequence[str]) -> dg.SensorDefinition:
    """Make the sensor of a site.

    Parameters
    ----------
    site
        The site.
    loaded
        Names of the campaigns that this process's definitions are made of; the assets of others are not known yet.
    """

    @dg.sensor(
        name=f"lanes_{site.name}",
        target=dg.AssetSelection.tag(tags.KIND, LANE),
        minimum_interval_seconds=int(site.spec.brisk),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Lets this site begin steps with what it has made itself, where no other site is waited for.",
    )
    def sense(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        due = [move for move in lanes_due(context.instance, site) if move.campaign in loaded]
        if not due:
            return dg.SkipReason("no step may begin here")
        requests = [
            dg.RunRequest(
                run_key=move.run_key,
                asset_selection=list(move.assets),
                tags={tags.KIND: LANE, **tags.NO_RETRIES, **move.tags},
            )
            for move in due
        ]
        crash_point("sensor.lanes")
        return dg.SensorResult(run_requests=requests)

    return sense
