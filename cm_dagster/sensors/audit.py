"""Schedule ``audit``: has the site audited every night."""

from __future__ import annotations

import dagster as dg

from cm_dagster.ledger.loading import AssetJob

__all__ = ["audit_schedule"]

_NIGHTLY = "17 3 * * *"


def audit_schedule(site: str, job: AssetJob) -> dg.ScheduleDefinition:
    """Make the schedule of a site.

    Parameters
    ----------
    site
        Name of the site.
    job
        The job that audits it.
    """
    return dg.ScheduleDefinition(
        name=f"audit_{site}",
        job=job,
        cron_schedule=_NIGHTLY,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Compares ledger, claims, WMS and Butler every night at 03:17 UTC.",
    )
