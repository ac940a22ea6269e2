"""Runs of ours that failed - they chain, collect, make inputs -: whether they are asked for again, and when.

No process waits for a service to come back. A run tries a few times, and fails; the sensor that asked for it asks
again after a while, each time later, as long as what made it fail may pass. What will not pass by itself waits until a
person has decided something on the campaign, or has run it with success.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from cm_dagster.control.history import Cause, run_cause
from cm_dagster.control.lifeline import living
from cm_dagster.control.site import Site
from cm_dagster.ledger import tags
from cm_dagster.ledger.campaigns import Campaign
from cm_dagster.policy.backoff import Wait, delay

__all__ = ["Failed", "Last", "again_tags", "failed", "look_at_last"]

_BADLY = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_DELAY = 60.0
"""Seconds until the next try where the run itself does not say: a person launched it."""


@dataclass(frozen=True)
class Failed:
    """A run that has not made what it was for."""

    run_id: str
    cause: Cause
    wait: Wait | None
    """When it is asked for again; None: not before a person has done something."""


def failed(
    instance: dg.DagsterInstance, record: dg.RunRecord, campaign: Campaign, asset: dg.AssetKey | None = None
) -> Failed | None:
    """Say whether a run failed, why, and what follows.

    Parameters
    ----------
    instance
        The Dagster instance.
    record
        The latest run that was to make something.
    campaign
        The campaign that it was for.
    asset
        What it was to make, if it is one of several things that the run makes.

    Returns
    -------
    failed
        None if it has not failed, or failed for good before the last decision: that may have put it right.
    """
    run = record.dagster_run
    if run.status not in _BADLY:
        return None
    cause, series = run_cause(instance, run, asset), _series(run)
    # A run that died says nothing of itself, so it is tried again; one that a person cancelled is not.
    if cause.final or run.status is dg.DagsterRunStatus.CANCELED:
        return None if _has_changed(campaign, record, series) else Failed(run.run_id, cause, None)
    end = record.end_time or record.update_timestamp.timestamp()
    tries, since = int(series.get("tries", 0)) + 1, float(series.get("since") or end)
    return Failed(run.run_id, cause, Wait(cause.text, tries, since, end, end + float(series.get("delay", _DELAY))))


def _series(run: dg.DagsterRun) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(run.tags.get(tags.AGAIN) or "{}")
    return found


def _has_changed(campaign: Campaign, record: dg.RunRecord, series: Mapping[str, Any]) -> bool:
    """Whether a person has decided something on the campaign since the run was requested."""
    if "revision" in series:
        return bool(campaign.revision != series["revision"])
    return campaign.changed > record.create_timestamp.timestamp()  # a person launched it


def again_tags(site: Site, campaign: Campaign, before: Wait | None, seed: str) -> dict[str, str]:
    """Give the tag that tells a run of the failures before it, and how long after its own it is asked for again.

    Parameters
    ----------
    site
        The site, whose settings say how long is waited.
    campaign
        The campaign that it is for.
    before
        The failures so far; None if there are none.
    seed
        What the run is for.
    """
    tries, settings = (before.tries if before else 0), site.spec.backoff
    seconds = delay(tries + 1, seed, first=settings.first, longest=settings.longest)
    since = before.since if before else None
    series = {"tries": tries, "since": since, "delay": seconds, "revision": campaign.revision}
    return {tags.AGAIN: json.dumps(series, separators=(",", ":"))}


@dataclass(frozen=True)
class Last:
    """How the last run went that was to make something."""

    busy: bool = False
    failed: Failed | None = None
    key: str = ""
    """What makes the run key another one after each run."""

    @property
    def is_due(self) -> bool:
        """Whether another run is to make it now."""
        if self.failed is None:
            return not self.busy
        return self.failed.wait is not None and self.failed.wait.is_due(time.time())

    def tags(self, site: Site, campaign: Campaign, seed: str) -> dict[str, str]:
        """Tags of the next run, which is for ``seed``."""
        return again_tags(site, campaign, self.failed.wait if self.failed else None, seed)


def look_at_last(
    instance: dg.DagsterInstance,
    site: Site,
    campaign: Campaign,
    record: dg.RunRecord | None,
    asset: dg.AssetKey | None = None,
) -> Last:
    """Look at the last run that was to make something; one whose process is gone is reported as failed first.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        The site whose process it has.
    campaign
        The campaign that it was for.
    record
        The run; None if there was none.
    asset
        What it was to make, if it is one of several things that the run makes.
    """
    if record is not None and not record.dagster_run.is_finished:
        if living(instance, site, [record]):
            return Last(busy=True)
        record = instance.get_run_record_by_id(record.dagster_run.run_id)
    if record is None:
        return Last()
    if record.dagster_run.is_success:  # what is to be made may have been before, and undone since
        return Last(key=f" after {record.dagster_run.run_id}")
    return Last(failed=failed(instance, record, campaign, asset), key=f" after {record.dagster_run.run_id}")
