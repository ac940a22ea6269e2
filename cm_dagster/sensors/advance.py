"""Sensor ``advance``: collects steps that are complete, and lets those begin that have all they need."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from cm_dagster.control.advance import ADVANCE, moves
from cm_dagster.control.site import Site
from cm_dagster.crashpoints import crash_point
from cm_dagster.ledger import tags

__all__ = ["advance_sensor"]


def advance_sensor(site: Site, loaded: Sequence[str]) -> dg.SensorDefinition:
    """Make the sensor; it belongs to the home site.

    Parameters
    ----------
    site
        The home site.
    loaded
        Names of the campaigns that this process's definitions are made of; the assets of others are not known yet.
    """

    @dg.sensor(
        name="advance",
        target=dg.AssetSelection.tag(tags.KIND, "inputs") | dg.AssetSelection.tag(tags.KIND, "collected"),
        minimum_interval_seconds=int(site.spec.brisk),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Collects a step when all its groups are accepted and at the home site; then lets others begin.",
    )
    def sense(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        due = [move for move in moves(context.instance, site) if move.campaign in loaded]
        if not due:
            return dg.SkipReason("no step is complete, none may begin")
        crash_point("sensor.advance")
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(
                    run_key=move.run_key,
                    asset_selection=list(move.assets),
                    tags={tags.KIND: ADVANCE, **tags.NO_RETRIES, **move.tags},
                )
                for move in due
            ]
        )

    return sense
