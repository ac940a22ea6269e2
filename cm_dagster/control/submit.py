"""How an attempt becomes a workflow, at most once: claim, look up, ``bps submit``, record.

Every part may be repeated after a crash, in another process. The order is what keeps a workflow from being submitted
twice or lost, also when a person terminates the attempt at any moment:

1. lock the group, read the run again: only a queued attempt, or one in the site's hands without a workflow, goes on;
2. claim the attempt's number for the run, by an atomic link in the submit area;
3. write that the run has begun; then ask its event log whether anybody wants it cancelled;
4. look the workflow's name up at the WMS, and what an earlier try has left; found: adopt it. A look-up that failed
   is not "not found": the attempt waits;
5. submit; an outcome that is not certain leads back to 4 in a later run;
6. record the id beside the claim and on the run; ask again whether anybody wants it cancelled.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import dagster as dg

from cm_dagster.control.claim import Taken, take
from cm_dagster.control.health import write_health
from cm_dagster.control.queue import hold_life_line
from cm_dagster.control.site import Site
from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import CmError, LedgerError, WmsError
from cm_dagster.ledger import campaigns, events
from cm_dagster.ledger.plans import Plan, load_plan
from cm_dagster.plan.names import AttemptId, step_input
from cm_dagster.plan.render import bps_config
from cm_dagster.policy.states import State
from cm_dagster.services.submitter import Prepared, SubmitOutcome, SubmitResult, next_try, read_result
from cm_dagster.spec import CampaignSpec

__all__ = ["Submission", "submit"]

_TRIES = 5
"""Most tries of one attempt whose submission fails by something that passes."""


@dataclass
class Submission:
    """How a batch went."""

    submitted: int = 0
    """Attempts whose workflow is at the WMS now."""
    waiting: int = 0
    """Attempts that a later run takes up: the WMS did not answer, or the outcome is not certain."""
    errors: list[str] = field(default_factory=list)
    """Faults that are not an attempt's own; those are shown on the attempts."""


def submit(
    instance: dg.DagsterInstance, site: Site, run_ids: Sequence[str], submit_run: str, log: logging.Logger
) -> Submission:
    """Submit attempts at a site.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        The site that this process serves.
    run_ids
        Runs of the attempts.
    submit_run
        Run that does this; the attempts link to it.
    log
        Where to say what is done.
    """
    hold_life_line(site, submit_run)
    crash_point("submit.begun")
    return _Batch(instance, site, submit_run, log).go(run_ids)


class _Batch:
    """One batch under way."""

    def __init__(self, instance: dg.DagsterInstance, site: Site, submit_run: str, log: logging.Logger) -> None:
        self.instance = instance
        self.site = site
        self.submit_run = submit_run
        self.log = log
        self.done = Submission()
        self.campaigns = campaigns.load_all(instance)
        self.plans: dict[tuple[str, str], Plan | None] = {}

    def go(self, run_ids: Sequence[str]) -> Submission:
        with ExitStack() as locks:
            taken = [found for run_id in run_ids if (found := self._take(run_id, locks))]
            fresh = {each.attempt.id: each for each in self._look_up(taken)}
            batch = [ready for each in fresh.values() if (ready := self._prepare(each))]
            crash_point("submit.prepared")
            # The submitting processes hold the locks too: should this process die, nobody else begins before they end.
            for result in self.site.submitter.submit(batch, pass_fds=[each.lock for each in fresh.values()]):
                with self._apart(result.attempt.workflow):
                    self._record_result(fresh[result.attempt], result)
        return self.done

    @contextmanager
    def _apart(self, name: str) -> Iterator[None]:
        """Keep the fault of one attempt from stopping the others; a later run takes the attempt up again."""
        try:
            yield
        except LedgerError as error:
            self.log.info("%s: %s", name, error)
        except Exception as error:
            self.log.exception("%s", name)
            self.done.errors.append(f"{name}: {error}")

    def _take(self, run_id: str, locks: ExitStack) -> Taken | None:
        with self._apart(f"run {run_id}"):
            return take(self.instance, self.site, run_id, locks)
        return None

    def _look_up(self, taken: Sequence[Taken]) -> list[Taken]:
        """Adopt the workflows that exist; give the attempts that are to be submitted."""
        if not taken:
            return []
        try:
            found = self.site.wms.find([each.attempt.id.workflow for each in taken], self.site.spec.wms.history)
        except WmsError as error:
            write_health(self.instance, self.site.name, answers=False, cause=str(error))
            self.log.warning("the WMS does not answer: %s; %d attempts wait", error, len(taken))
            self.done.waiting += len(taken)
            return []
        crash_point("submit.looked-up")
        fresh = []
        for each in taken:
            name = each.attempt.id.workflow
            with self._apart(name):
                if not self._settled(each, found.get(name, [])):
                    fresh.append(each)
        return fresh

    def _settled(self, taken: Taken, found: Sequence[str]) -> bool:
        """Deal with an attempt for which something was, or may have been, submitted before."""
        known = taken.claims.recorded(taken.attempt.id.number)
        left = read_result(taken.attempt.id, taken.folder)
        if known:
            self._record(taken, known["wms_id"], known["submit_dir"], "recorded before")
        elif found:
            submit_dir = str(left.submit_dir) if left and left.submit_dir else ""
            self._adopt(taken, sorted(found, key=_age), submit_dir)
        elif left and left.outcome is SubmitOutcome.SUBMITTED:
            self._record(taken, left.wms_id or "", str(left.submit_dir), "submitted before")
        elif not taken.new and taken.idle() < self.site.spec.wms.settle:
            self.log.info("%s: wait, the WMS may not show it yet", taken.attempt.id.workflow)
            self.done.waiting += 1
        elif not taken.new and events.cancel_asked(self.instance, taken.attempt.run_id):
            message = "Cancelled before submission; nothing was submitted."
            events.cancelled(self.instance, taken.attempt.run_id, message, swept=True)
        elif left and left.outcome is SubmitOutcome.FAILED:
            return self._failed(taken, left)
        else:
            return False
        return True

    def _adopt(self, taken: Taken, found: Sequence[str], submit_dir: str) -> None:
        """Take the oldest workflow of the attempt's name for its own, and cancel its twins."""
        own, twins = found[0], found[1:]
        for twin in twins:
            end = self._cancel_twin(twin)
            crash_point("adopt.twin-cancelled")
            message = f"ALARM: the WMS had a second workflow of this name, {twin}; {end}, {own} stays."
            events.note(self.instance, taken.attempt.run, message)
        report = self.site.wms.report_one(own, self.site.spec.wms.history)
        self._record(taken, own, (report and report.path) or submit_dir, "found by name")

    def _cancel_twin(self, twin: str) -> str:
        try:
            self.site.wms.cancel(twin)
        except WmsError as error:
            if error.transient:
                raise
            return f"it can't be cancelled ({error.cause})"  # it has ended
        return "it was cancelled"

    def _prepare(self, taken: Taken) -> Prepared | None:
        """Write the files of a try; what can't be written fails its attempt."""
        attempt = taken.attempt
        id_ = attempt.id
        try:
            spec = self._campaign(id_)
            plan = self._plan(id_)
            paths = next_try(taken.folder)
            config = bps_config(
                spec,
                self.site.spec,
                plan.group(id_.group),
                id_,
                paths,
                inputs=step_input(spec.butler.output, id_.step.step),
                operator=self.site.operator,
            )
            return self.site.submitter.prepare(id_, config, paths, spec.stack)
        except CmError as error:
            events.fail(self.instance, attempt, f"Not submitted: {error}")
            return None

    def _campaign(self, id_: AttemptId) -> CampaignSpec:
        found = self.campaigns.get(id_.step.campaign)
        if found is None:
            raise LedgerError(f"there is no campaign {id_.step.campaign!r}")
        return found.spec

    def _plan(self, id_: AttemptId) -> Plan:
        key = (id_.step.campaign, id_.step.step)
        if key not in self.plans:
            self.plans[key] = load_plan(self.instance, *key)
        plan = self.plans[key]
        if plan is None:
            raise LedgerError(f"{'/'.join(key)} has no groups", advice="materialize its inputs first")
        return plan

    def _record_result(self, taken: Taken, result: SubmitResult) -> None:
        crash_point("submit.sent")
        if result.outcome is SubmitOutcome.SUBMITTED:
            self._record(taken, result.wms_id or "", str(result.submit_dir), f"submitted in {result.wall:.1f} s")
        elif result.outcome is SubmitOutcome.FAILED:
            if not self._failed(taken, result):
                self.done.waiting += 1
        else:
            self.done.waiting += 1
            events.set_state(self.instance, taken.attempt, State.UNKNOWN)
            events.note(
                self.instance,
                taken.attempt.run,
                f"It is not known whether the WMS has the workflow: {result.error}. It will be asked.",
            )

    def _failed(self, taken: Taken, result: SubmitResult) -> bool:
        """Fail an attempt of which nothing was sent; returns False if it is to be tried again."""
        error = result.error
        tries = next_try(taken.folder).number - 1
        if error is not None and error.transient and tries < _TRIES:
            self.log.warning("%s: try %d: %s; it is tried again", taken.attempt.id.workflow, tries, error)
            return False
        folder = dg.MetadataValue.path(str(taken.folder))
        events.fail(self.instance, taken.attempt, f"Not submitted: {error}", {"folder": folder, **self._link()})
        return True

    def _link(self) -> events.Metadata:
        return {"submit run": dg.MetadataValue.dagster_run(self.submit_run)}

    def _record(self, taken: Taken, wms_id: str, submit_dir: str, how: str) -> None:
        """Write down which workflow is the attempt's; cancel it if the attempt was cancelled meanwhile."""
        crash_point("record.begun")
        attempt = taken.attempt
        output_run = attempt.id.run(self._campaign(attempt.id).butler.output)
        taken.claims.record(attempt.id.number, {"wms_id": wms_id, "submit_dir": submit_dir, "run": attempt.run_id})
        crash_point("record.claim")
        events.submitted(
            self.instance,
            attempt,
            wms_id=wms_id,
            submit_dir=submit_dir,
            output_run=output_run,
        )
        crash_point("record.tagged")
        message = f"Attempt {attempt.id.number}: workflow {wms_id}, {how}."
        where: events.Metadata = {"submit directory": dg.MetadataValue.path(submit_dir), "run collection": output_run}
        events.note(self.instance, attempt.run, message, {**where, **self._link()})
        self.log.info("%s: %s", attempt.id.workflow, message)
        self.done.submitted += 1
        if events.cancel_asked(self.instance, attempt.run_id):
            # First on the run: should the WMS not answer now, the watch sensor cancels the workflow.
            events.cancelled(self.instance, attempt.run_id, f"Workflow {wms_id} is cancelled.", swept=False)
            crash_point("record.cancelled")
            self.site.wms.cancel(wms_id)
            events.cancelled(self.instance, attempt.run_id, "", swept=True)


def _age(wms_id: str) -> tuple[float, str]:
    """Sort ids by age: they grow at every WMS that numbers them."""
    try:
        return float(wms_id), wms_id
    except ValueError:
        return float("inf"), wms_id
