"""Sensor ``dispatch``: requests attempts at groups as slots come free."""

from __future__ import annotations

import dagster as dg

from cm_dagster.control.dispatch import wishes
from cm_dagster.control.site import Site
from cm_dagster.ledger import tags

__all__ = ["dispatch_sensor"]


def dispatch_sensor(site: Site) -> dg.SensorDefinition:
    """Make the sensor of a site."""

    @dg.sensor(
        name=f"dispatch_{site.name}",
        target=dg.AssetSelection.tag(tags.KIND, tags.WORKFLOW),
        minimum_interval_seconds=int(site.spec.tick),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Requests attempts at planned groups as slots come free; stop it to request nothing new.",
    )
    def sense(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        due = wishes(context.instance, site)
        if not due:
            return dg.SkipReason("nothing to request, or no slot free")
        requests = [
            dg.RunRequest(
                run_key=wish.run_key,
                asset_selection=[dg.AssetKey(wish.id.step.asset)],
                partition_key=wish.id.group,
                tags={tags.BY: "dispatch", tags.WANT: str(wish.id.number)},
            )
            for wish in due
        ]
        return dg.SensorResult(run_requests=requests)

    return sense
