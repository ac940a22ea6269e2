"""Sensor ``dispatch``: requests attempts at groups as slots come free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import dagster as dg

from cm_dagster.control.dispatch import look
from cm_dagster.control.site import Site
from cm_dagster.control.telling import tell
from cm_dagster.crashpoints import crash_point
from cm_dagster.ledger.copies import FIRST, Wish, can_copy, queue_copies
from cm_dagster.ledger.loading import AssetJob
from cm_dagster.plan.names import StepId

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
        crash_point("sensor.dispatch")
        copies = queue_copies(context.instance, site.name, due)
        done = {wish.id for wish in (*copies.made, *copies.late)}
        rest = [wish for wish in due if wish.id not in done]
        if not rest:
            return dg.SkipReason(f"{len(copies.made)} attempts are queued: {_counted(copies.made)}")
        return dg.SensorResult(run_requests=[_request(wish) for wish in _first(context.instance, rest)])

    return sense


def _first(instance: dg.DagsterInstance, wishes: Sequence[Wish]) -> list[Wish]:
    """Choose what Dagster is asked for: all, or where the storage can copy attempts, the first few of each step."""
    if not can_copy(instance):
        return list(wishes)
    seen: Counter[StepId] = Counter()
    chosen = []
    for wish in wishes:
        seen[wish.id.step] += 1
        if seen[wish.id.step] <= FIRST:
            chosen.append(wish)
    return chosen


def _request(wish: Wish) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=wish.run_key, job_name=wish.id.step.job, partition_key=wish.id.group, tags=dict(wish.tags)
    )


def _counted(wishes: Sequence[Wish]) -> str:
    counts = Counter(f"{wish.id.step.campaign}/{wish.id.step.step}" for wish in wishes)
    return ", ".join(f"{count} of {step}" for step, count in counts.items())
