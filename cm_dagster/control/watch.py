"""Following workflows at the WMS: one bulk query for all open attempts, then what follows from it for each."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property

import dagster as dg

from cm_dagster.control.claim import idle
from cm_dagster.control.health import read_health, write_health, write_progress
from cm_dagster.control.judge import settle
from cm_dagster.control.queue import Batch, in_work
from cm_dagster.control.site import Site
from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import WmsError
from cm_dagster.ledger import events
from cm_dagster.ledger.attempts import Attempt, index_of
from cm_dagster.ledger.claims import BusyError, Claims
from cm_dagster.plan.names import group_folder
from cm_dagster.policy.judge import Outcome
from cm_dagster.policy.states import State
from cm_dagster.services.submitter import SubmitOutcome, read_result
from cm_dagster.services.wms import WmsState, WorkflowReport

__all__ = ["Seen", "watch"]

_BUDGET = 20.0
"""Seconds of a tick after which no more workflows are judged; the rest is for the next tick."""
_ASK_SINGLY = 20
"""Most workflows that are asked for one by one in a tick, since the WMS's list does not show them."""

_STATES = {
    WmsState.PENDING: State.SUBMITTED,
    WmsState.RUNNING: State.RUNNING,
    WmsState.HELD: State.RUNNING,
    WmsState.UNKNOWN: State.UNKNOWN,
}


@dataclass
class Seen:
    """What a look at the WMS gave."""

    summary: str = ""
    finalize: list[str] = field(default_factory=list)
    """Runs of the attempts whose workflow's final job must be run again."""

    @property
    def batch(self) -> Batch | None:
        """The attempts to finalize, as one batch."""
        return Batch.of(self.finalize) if self.finalize else None


def watch(instance: dg.DagsterInstance, site: Site, log: logging.Logger, finalize_job: str) -> Seen:
    """Follow all open attempts of a site.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        The site that this process serves.
    log
        Where faults of single attempts go; they do not stop the others.
    finalize_job
        Name of the job that runs final jobs again.
    """
    index = index_of(instance)
    attempts = [a for a in index.open_at(site.name) if a.state is not State.QUEUED] + index.unswept_at(site.name)
    # A WMS that did not answer is asked also for nothing, since nothing is submitted until it does.
    if not attempts and read_health(instance, [site.name])[site.name].answers:
        write_progress(instance, site.name, {})
        return Seen("nothing in flight")
    try:
        reports = site.wms.report_all(site.spec.wms.history)
    except WmsError as error:
        health = write_health(instance, site.name, answers=False, cause=str(error))
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(health.since))
        return Seen(f"{len(attempts)} in flight, unknown since {since}: {error}")
    write_health(instance, site.name, answers=True)
    crash_point("watch.listed")
    return _Look(instance, site, log, finalize_job, reports).at(attempts)


class _Look:
    """One look at the WMS."""

    def __init__(
        self,
        instance: dg.DagsterInstance,
        site: Site,
        log: logging.Logger,
        finalize_job: str,
        reports: dict[str, WorkflowReport],
    ) -> None:
        self.instance = instance
        self.site = site
        self.log = log
        self.finalize_job = finalize_job
        self.reports = reports
        self.end = time.monotonic() + _BUDGET
        self.singly = _ASK_SINGLY
        self.seen = Seen()
        self.jobs: dict[str, dict[str, int]] = {}

    def at(self, attempts: list[Attempt]) -> Seen:
        """Look at each attempt."""
        words: Counter[str] = Counter()
        for attempt in attempts:
            try:
                words[self._one(attempt)] += 1
            except BusyError:
                words["being submitted"] += 1
            except Exception:  # one bad run must not stop all attempts of a site
                self.log.exception("%s (run %s)", attempt.id.workflow, attempt.run_id)
                words["fault (see the log of this tick)"] += 1
        crash_point("watch.done")
        write_progress(self.instance, self.site.name, self.jobs)
        self.seen.summary = ", ".join(f"{count} {word}" for word, count in sorted(words.items()))
        return self.seen

    def _one(self, attempt: Attempt) -> str:
        if attempt.state in (State.CANCELLING, State.CANCELLED):
            return self._cancel(attempt)
        if not attempt.wms_id:
            return "being submitted"
        report = self._report(attempt)
        if report is None:
            return self._now(attempt, State.UNKNOWN)
        self.jobs[attempt.run_id] = {str(state): count for state, count in report.jobs.items()}
        state = _STATES.get(report.state, State.ENDED)
        return self._now(attempt, state) if state is not State.ENDED else self._ended(attempt, report)

    def _now(self, attempt: Attempt, state: State) -> str:
        if state is not attempt.state:
            events.set_state(self.instance, attempt, state)
            crash_point("watch.state")
        return state

    def _report(self, attempt: Attempt) -> WorkflowReport | None:
        """What the WMS says of a workflow; one that its list no longer shows is asked for by its id."""
        report = self.reports.get(attempt.wms_id)
        if report is None and self.singly > 0:
            self.singly -= 1
            report = self.site.wms.report_one(attempt.wms_id, self.site.spec.wms.history)
        return report

    def _ended(self, attempt: Attempt, report: WorkflowReport) -> str:
        """Judge a workflow that has ended, unless its final job is being run again."""
        if time.monotonic() > self.end:
            return "waiting for judgement"
        if attempt.state is State.FINALIZING and attempt.run_id in self.finalizing:
            return State.FINALIZING
        if attempt.state is not State.FINALIZING:
            self._now(attempt, State.ENDED)
            attempt = replace(attempt, state=State.ENDED)
        outcome = settle(self.instance, self.site, attempt, report)
        if outcome is Outcome.FINALIZE:
            self._now(attempt, State.FINALIZING)
            self.seen.finalize.append(attempt.run_id)
        else:
            self.jobs.pop(attempt.run_id, None)
        return outcome

    @cached_property
    def finalizing(self) -> set[str]:
        """Attempts whose final job is being run again."""
        return in_work(self.instance, self.site, self.finalize_job)

    def _cancel(self, attempt: Attempt) -> str:
        """Cancel the workflow of an attempt that a person terminated."""
        claims = Claims(group_folder(self.site.area, attempt.id.step, attempt.id.group))
        with claims.locked():  # a submitter looks for the cancellation itself when it is done
            ids = [attempt.wms_id] if attempt.wms_id else self._unrecorded(attempt, claims)
            unseen = [wms_id for wms_id in ids or () if not self._stopped(wms_id)]
            if (ids is None or unseen) and self._young(attempt, claims):
                return State.CANCELLING  # the WMS may not show its workflow yet
            done = f"Workflow {', '.join(ids)} was cancelled." if ids else "Nothing was submitted."
            events.cancelled(self.instance, attempt.run_id, done, swept=True)
        return State.CANCELLED

    def _young(self, attempt: Attempt, claims: Claims) -> bool:
        number, folder = attempt.id.number, attempt.id.folder(self.site.area)
        return number in claims.owners() and idle(claims, number, folder) < self.site.spec.wms.settle

    def _unrecorded(self, attempt: Attempt, claims: Claims) -> list[str] | None:
        """Workflows of an attempt that was cancelled before its workflow was recorded; None if that is not certain."""
        id_ = attempt.id
        if claims.owners().get(id_.number) != attempt.run_id:
            return []
        known = [wms_id for wms_id, report in self.reports.items() if report.name == id_.workflow]
        recorded, left = claims.recorded(id_.number), read_result(id_, id_.folder(self.site.area))
        known += [recorded["wms_id"]] if recorded else []
        known += [left.wms_id] if left and left.wms_id else []
        sent = left is not None and left.outcome is not SubmitOutcome.FAILED
        return list(dict.fromkeys(known)) or (None if sent else [])

    def _stopped(self, wms_id: str) -> bool:
        """Make sure that a workflow does not run; False if the WMS does not show it."""
        report = self.reports.get(wms_id)
        if report is None:
            report = self.site.wms.report_one(wms_id, self.site.spec.wms.history)
        if report is not None and report.state in _STATES:  # one that has ended can't be cancelled, and need not be
            self.site.wms.cancel(wms_id)
            crash_point("watch.stopped")
        return report is not None
