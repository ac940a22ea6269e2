"""Sensor ``campaigns``: has the code server load campaigns that were created since it started."""

from __future__ import annotations

import os
from collections.abc import Sequence

import dagster as dg

from cm_dagster.control.site import Site
from cm_dagster.ledger import campaigns
from cm_dagster.ledger.loading import reload_code_server

__all__ = ["campaigns_sensor"]


def campaigns_sensor(site: Site, loaded: Sequence[str]) -> dg.SensorDefinition:
    """Make the sensor.

    Parameters
    ----------
    site
        The site.
    loaded
        Names of the campaigns that this process's definitions are made of.
    """

    @dg.sensor(
        name=f"campaigns_{site.name}",
        minimum_interval_seconds=int(site.spec.tick),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Loads campaigns that were created since the code server started.",
    )
    def sense(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        new = sorted(set(campaigns.load_all(context.instance)) - set(loaded))
        if not new:
            return dg.SkipReason(f"{len(loaded)} campaigns")
        address = os.environ.get("CM_CODE_SERVER")
        if not address:
            return dg.SkipReason(
                f"new: {', '.join(new)}; reload the code location in the UI (CM_CODE_SERVER, the address of this"
                " code server, is not set, so it can't be done by itself)"
            )
        reload_code_server(address)
        return dg.SkipReason(f"loaded: {', '.join(new)}")

    return sense
