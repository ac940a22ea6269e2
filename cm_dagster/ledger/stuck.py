"""Launches that were left behind: the launching process died, or was held up, on a run's way into the queue.

A sensor's tick and a backfill take up again what they were launching when their daemon died; nobody does so for a
launch from the web UI or by GraphQL. Such a run stays NOT_STARTED: with its tags, it occupies its group for ever;
without them, it is lost. And a process that was held up between its two last steps may say that a run is queued when
somebody else has queued it, and the site has taken it, long ago.

Uses of ``dagster._core``: `DagsterEvent.job_enqueue`, the event that the run coordinator writes. The coordinator itself
needs the definitions of all code locations, which no sensor has.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.events import DagsterEvent

from cm_dagster.crashpoints import crash_point
from cm_dagster.ledger import events
from cm_dagster.ledger.admission import admit, find_steps
from cm_dagster.ledger.attempts import index_of
from cm_dagster.policy.states import State

__all__ = ["queue_stuck"]

_AGE = timedelta(seconds=60)
"""How long a launch may take before it counts as left behind; Dagster needs less than a second."""

_LOG = logging.getLogger(__name__)


def queue_stuck(instance: dg.DagsterInstance, site: str) -> None:
    """Bring the launches at a site that were left behind through the rules of the coordinator, into the queue.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        Name of the site; other sites look after their own.
    """
    old = dg.RunsFilter(statuses=[dg.DagsterRunStatus.NOT_STARTED], created_before=datetime.now(UTC) - _AGE)
    for run in instance.get_runs(old):
        try:
            _queue(instance, run, site)
        except Exception:  # one bad run must not stop the submissions of a site
            _LOG.exception("run %s can't be queued", run.run_id)
    for attempt in index_of(instance).open_at(site):
        if attempt.state is State.QUEUED and attempt.wms_id:
            events.begun(instance, attempt)


def _queue(instance: dg.DagsterInstance, run: dg.DagsterRun, site: str) -> None:
    steps, others = find_steps(instance, run)
    if site not in {step.site for step in steps}:
        return
    now = admit(instance, run, (steps, others))
    if now.status is dg.DagsterRunStatus.NOT_STARTED:
        instance.report_dagster_event(DagsterEvent.job_enqueue(now), run_id=now.run_id)
        crash_point("stuck.queued")
        events.note(instance, now, "What launched this run died before it was queued; it is queued now.")
