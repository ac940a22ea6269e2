"""How an attempt becomes a workflow, at most once: claim, look up, ``bps submit``, record.

Every part may be repeated after a crash, in another process. The order is what keeps a workflow from being submitted
twice or lost, also when a person terminates the attempt at any moment:

1. lock the group, read the run again: only a queued attempt, or one in the site's hands without a workflow, goes on;
2. claim the attempt's number for the run, by an atomic link in the submit area;
3. write that the run has begun; then ask its event log whether anybody wants it cancelled;
4. look the workflow's name up at the WMS, and what an earlier try has left; found: adopt it. A look-up that failed
   is not "not found": the attempt waits;
5. submit; an outcome that is not certain leads back to 4 in a later run;
6. record the id beside the claim and on the run; ask again whether anybody wants it cancelled; let go of the group.

What fails by something that passes (the Butler away, the disk full) is not the attempt's fault: it waits, longer each
time, and fails only when the site's patience has an end. What fails for good fails the attempt, with its cause.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

import dagster as dg

from cm_dagster.control.atonce import all_or_each
from cm_dagster.control.claim import Taken, take
from cm_dagster.control.health import write_health
from cm_dagster.control.history import iso
from cm_dagster.control.lifeline import hold_life_line
from cm_dagster.control.lookback import lookback, reach
from cm_dagster.control.redo import check_rescued
from cm_dagster.control.rules import BadEnd, end_badly
from cm_dagster.control.site import Site
from cm_dagster.control.twins import cancel_twins, oldest_first
from cm_dagster.control.waiting import longer, put_off, wait_of
from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import CmError, LedgerError, SubmitError, WmsError
from cm_dagster.ledger import campaigns, events
from cm_dagster.ledger.attempts import read_attempt, read_attempts, read_started
from cm_dagster.ledger.claims import unlock
from cm_dagster.ledger.plans import Plan, load_plan
from cm_dagster.plan.names import AttemptId, step_input
from cm_dagster.plan.render import bps_config
from cm_dagster.policy.backoff import Wait
from cm_dagster.policy.rules import Fault
from cm_dagster.policy.states import State
from cm_dagster.services.submitter import Prepared, SubmitOutcome, SubmitResult, next_try, read_result
from cm_dagster.spec import CampaignSpec

__all__ = ["Submission", "submit"]

_LISTED = (State.SUBMITTED, State.RUNNING)
_SOON = 5.0
"""Seconds after which runs are told of their workflows, while others are still being submitted."""
_WITNESSES = 5
"""Most workflows of a site that a list must hold if it is to show that there is no other."""


@dataclass
class Submission:
    """How a batch went."""

    submitted: int = 0
    """Attempts whose workflow is at the WMS now."""
    waiting: int = 0
    """Attempts that a later run takes up: the WMS did not answer, the outcome is not certain, or what failed passes."""
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
    batch = _Batch(instance, site, submit_run, log)
    try:
        hold_life_line(site, submit_run)
    except OSError as error:  # without it this run would be taken for dead
        return batch.put_off(run_ids, error)
    crash_point("submit.begun")
    return batch.go(run_ids)


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
        self.sent: list[events.Sent] = []
        """What is to be written onto runs."""
        self.told = time.monotonic()
        """When that was done last."""
        self.held: dict[str, Taken] = {}
        """Attempts whose groups are locked, by run."""

    def go(self, run_ids: Sequence[str]) -> Submission:
        queued = read_attempts(self.instance, run_ids)
        with ExitStack() as locks:
            wanted = {run_id: queued.get(run_id) for run_id in run_ids}
            taken = take(self.instance, self.site, wanted, locks, self._apart, self.log)
            self.held = {each.attempt.run_id: each for each in taken}
            fresh = {each.attempt.id: each for each in self._look_up(taken)}
            self._tell()
            batch = [ready for each in fresh.values() if (ready := self._prepare(each))]
            crash_point("submit.prepared")
            try:
                self._send(batch, fresh)
            finally:
                self._tell()
        return self.done

    def _let_go(self, unfinished: Iterable[Taken]) -> None:
        """Let others work on the groups with which this run is done: those that are still to be sent may take hours."""
        kept = {each.attempt.run_id for each in unfinished} | {each.attempt.run_id for each in self.sent}
        for run_id in self.held.keys() - kept:
            unlock(self.held.pop(run_id).lock)

    def put_off(self, run_ids: Iterable[str], error: OSError) -> Submission:
        """Let attempts wait, since the submit area can't be written or no process started."""
        self.log.warning("%s", error)
        for run_id in run_ids:
            self._put_off(run_id, str(error))
        return self.done

    def _send(self, batch: Sequence[Prepared], fresh: Mapping[AttemptId, Taken]) -> None:
        """Submit what is prepared, and record how it went."""
        left = {each.attempt: fresh[each.attempt] for each in batch}
        self._let_go(left.values())

        def meanwhile() -> None:
            if self.sent and time.monotonic() - self.told > _SOON:
                self._tell()
            self._let_go(left.values())

        # The submitting processes hold the locks too: should this process die, nobody else begins before they end.
        locks = [each.lock for each in left.values()]
        try:
            for result in self.site.submitter.submit(batch, pass_fds=locks, meanwhile=meanwhile):
                one = left.pop(result.attempt)
                with self._apart(result.attempt.workflow, one.attempt.run_id):
                    self._record_result(one, result)
                meanwhile()
        except OSError as error:  # what it has sent, if anything, the files of the tries and the WMS tell
            self.put_off([one.attempt.run_id for one in left.values()], error)

    @contextmanager
    def _apart(self, name: str, run_id: str) -> Iterator[None]:
        """Keep the fault of one attempt from stopping the others; a later run takes the attempt up again."""
        try:
            yield
        except LedgerError as error:
            self.log.info("%s: %s", name, error)
        except Exception as error:
            if isinstance(error, OSError) or (isinstance(error, CmError) and error.transient):
                self.log.warning("%s: %s", name, error)
            else:
                self.log.exception("%s", name)
                self.done.errors.append(f"{name}: {error}")
            self._put_off(run_id, str(error))

    def _put_off(self, run_id: str, cause: str) -> None:
        """Let an attempt wait that is still to be submitted."""
        self.done.waiting += 1
        try:
            attempt = read_attempt(self.instance, run_id)
            if attempt and attempt.is_open and attempt.state is not State.CANCELLING and not attempt.wms_id:
                put_off(self.instance, self.site, attempt, cause)
        except Exception:  # the ledger itself is away; without it nothing holds the attempt back
            self.log.exception("run %s: it can't be written that it waits", run_id)

    def _look_up(self, taken: Sequence[Taken]) -> list[Taken]:
        """Adopt the workflows that exist; give the attempts that are to be submitted."""
        if not taken:
            return []
        try:
            found = self._find(taken)
        except WmsError as error:
            write_health(self.instance, self.site.name, answers=False, cause=str(error))
            self.log.warning("the WMS does not answer: %s; %d attempts wait", error, len(taken))
            self.done.waiting += len(taken)
            return []
        crash_point("submit.looked-up")
        fresh = []
        again = _SecondLook(self, [each for each in taken if not each.new])
        for each in taken:
            name = each.attempt.id.workflow
            with self._apart(name, each.attempt.run_id):
                if not self._settled(each, found.get(name, []), again):
                    fresh.append(each)
        return fresh

    def _settled(self, taken: Taken, found: Sequence[str], again: _SecondLook) -> bool:
        """Deal with an attempt for which something was, or may have been, submitted before."""
        known = taken.claims.recorded(taken.attempt.id.number)
        left = read_result(taken.attempt.id, taken.folder)
        if known:
            self._adopt(taken, found, known["wms_id"], known["submit_dir"], "recorded before")
        elif left and left.outcome is SubmitOutcome.SUBMITTED:
            self._adopt(taken, found, left.wms_id or "", str(left.submit_dir), "submitted before")
        elif found:
            self._adopt_found(taken, found, left)
        elif not taken.new and taken.idle() < self.site.spec.wms.settle:
            self.log.info("%s: wait, the WMS may not show it yet", taken.attempt.id.workflow)
            self.done.waiting += 1
        elif not taken.new and events.cancel_asked(self.instance, [taken.attempt.run_id]):
            message = "Cancelled before submission; nothing was submitted."
            events.cancelled(self.instance, taken.attempt.run_id, message, swept=True)
        elif not taken.new and (hidden := again.finds(taken)):
            self._adopt_found(taken, hidden, left)
        else:
            if taken.attempt.state is State.UNKNOWN:
                events.set_state(self.instance, taken.attempt, State.CLAIMED)  # it is known now: the WMS has nothing
            return left is not None and self._given_up(taken, left)
        return True

    def look_again(self, taken: Sequence[Taken]) -> dict[str, list[str]]:
        """Look once more for workflows that may have been submitted, in a list that must show others we know of."""
        at_site = read_started(self.instance, self.site.name)
        settled = time.time() - self.site.spec.wms.settle
        known = [each.wms_id for each in at_site if each.state in _LISTED and each.sent and each.sent < settled]
        return self._find(taken, known[-_WITNESSES:])

    def _find(self, taken: Sequence[Taken], known: Sequence[str] = ()) -> dict[str, list[str]]:
        """Look for workflows of attempts by their names, as far back as there can be any."""
        attempts = [each.attempt for each in taken]
        new = all(each.new for each in taken)  # nobody has submitted anything for these
        history = reach(attempts) if new else lookback(self.site, attempts)
        return self.site.wms.find([each.id.workflow for each in attempts], history, known)

    def _adopt_found(self, taken: Taken, found: Sequence[str], left: SubmitResult | None) -> None:
        own = oldest_first(found)[0]
        report = self.site.wms.report_one(own, lookback(self.site, [taken.attempt]))
        submit_dir = (report and report.path) or (str(left.submit_dir) if left and left.submit_dir else "")
        self._adopt(taken, found, own, submit_dir, "found by name")

    def _given_up(self, taken: Taken, left: SubmitResult) -> bool:
        """Fail an attempt of which nothing is at the WMS, if it is not to be tried again."""
        wait = wait_of(taken.attempt)
        # One that waits was judged to have failed by something that passes, whatever its files say.
        if left.outcome is SubmitOutcome.FAILED and not wait and not (left.error and left.error.transient):
            self._fail(taken, str(left.error))
            return True
        if left.outcome is SubmitOutcome.FAILED or wait is None or wait.lasts(time.time()) < self._patience:
            return False
        self._give_up(taken, wait.cause, wait)
        return True

    @property
    def _patience(self) -> float:
        """Seconds for which an attempt is tried again."""
        return self.site.spec.submit.patience * 3600.0

    def _adopt(self, taken: Taken, found: Sequence[str], own: str, submit_dir: str, how: str) -> None:
        """Take a workflow for the attempt's own, and cancel the others of its name."""
        twins = [wms_id for wms_id in oldest_first(found) if wms_id != own]
        cancel_twins(self.instance, self.site, taken.attempt, own, twins, self.log)
        self._record(taken, own, submit_dir, how)

    def _prepare(self, taken: Taken) -> Prepared | None:
        """Write the files of a try; what can't be rendered fails its attempt, a full disk does not."""
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
                rescued=check_rescued(self.site, spec, attempt),
                memory=attempt.recipe.memory,
            )
            return self.site.submitter.prepare(id_, config, paths, spec.stack)
        except (CmError, OSError) as error:
            if isinstance(error, OSError) or error.transient:
                self._put_off(attempt.run_id, str(error))
            else:
                with self._apart(id_.workflow, attempt.run_id):
                    self._fail(taken, str(error))
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
            self._failed(taken, result)
        else:
            self.done.waiting += 1
            events.set_state(self.instance, taken.attempt, State.UNKNOWN)
            cause = f"it is not known whether the WMS has the workflow ({result.error}); it will be asked"
            put_off(self.instance, self.site, taken.attempt, cause, at_least=self.site.spec.wms.settle)

    def _failed(self, taken: Taken, result: SubmitResult) -> None:
        """Fail an attempt of which nothing was sent, or let it wait if that passes."""
        error, attempt = self._unless_away(result.error), taken.attempt
        if error is None or not error.transient:
            # Of an earlier try nobody knew for certain: it may have come to light by now.
            found = [] if taken.new else self.look_again([taken])[attempt.id.workflow]
            if found:
                self._adopt_found(taken, found, result)
            else:
                self._fail(taken, str(error))
            return
        wait = longer(self.site, wait_of(attempt), str(error), attempt.run_id)
        if wait.lasts(time.time()) >= self._patience:
            self._give_up(taken, str(error), wait)
            return
        self.log.warning("%s: %s", attempt.id.workflow, wait)
        self.done.waiting += 1
        events.wait(self.instance, attempt, wait)

    def _unless_away(self, error: SubmitError | None) -> SubmitError | None:
        """Blame no attempt for what a plugin says in its own words while its WMS is away."""
        if error is None or error.transient:
            return error
        try:
            self.site.wms.ping()
        except WmsError as away:
            if away.transient:
                return SubmitError(f"{error.cause}; {away.cause}", advice=away.advice, transient=True)
        return error

    def _give_up(self, taken: Taken, cause: str, wait: Wait) -> None:
        end = f"given up after {wait.tries} tries since {iso(wait.since)}"
        # What has not passed in all that time is no case for the rules on what passes.
        self._fail(taken, f"{cause}; {end}", end)

    def _fail(self, taken: Taken, cause: str, text: str = "") -> None:
        """Fail an attempt of which nothing was sent; the error rules say what follows."""
        metadata = {"folder": dg.MetadataValue.path(str(taken.folder)), **self._link()}
        fault = Fault(texts=(text or cause,))
        end_badly(self.instance, self.site, taken.attempt, BadEnd(f"Not submitted: {cause}.", metadata, (fault,)))

    def _link(self) -> events.Metadata:
        return {"submit run": dg.MetadataValue.dagster_run(self.submit_run)}

    def _record(self, taken: Taken, wms_id: str, submit_dir: str, how: str) -> None:
        """Write down beside its claim which workflow is the attempt's; `_tell` does so on its run, with others."""
        crash_point("record.begun")
        attempt = taken.attempt
        output_run = attempt.id.run(self._campaign(attempt.id).butler.output)
        try:
            taken.claims.record(attempt.id.number, {"wms_id": wms_id, "submit_dir": submit_dir, "run": attempt.run_id})
        except OSError as error:  # the run has it too
            self.log.warning("%s: workflow %s is not recorded beside its claim: %s", attempt.id.workflow, wms_id, error)
        crash_point("record.claim")
        self.sent.append(events.Sent(attempt, wms_id, submit_dir, output_run, how, self._link()))

    def _tell(self) -> None:
        """Write onto the runs which workflows are theirs; cancel those of attempts that were cancelled meanwhile."""
        sent, self.sent, self.told = self.sent, [], time.monotonic()
        write = partial(events.submitted, self.instance)
        written = all_or_each(write, sent, self._apart_from, self.log)
        self.done.submitted += len(written)
        if written:  # each message of a run is an event of its log
            lines = (f"{one.attempt.id.workflow}: workflow {one.wms_id}, {one.how}" for one in written)
            self.log.info("%s", "\n".join(lines))
        unwanted = events.cancel_asked(self.instance, [one.attempt.run_id for one in written])
        for one in written:
            if one.attempt.run_id in unwanted:
                with self._apart_from(one):
                    self._cancel(one)

    def _apart_from(self, sent: events.Sent) -> AbstractContextManager[None]:
        return self._apart(sent.attempt.id.workflow, sent.attempt.run_id)

    def _cancel(self, sent: events.Sent) -> None:
        # First on the run: the watch sensor asks for it again until the workflow has ended.
        run_id = sent.attempt.run_id
        events.cancelled(self.instance, run_id, f"Workflow {sent.wms_id} is cancelled.", swept=False)
        crash_point("record.cancelled")
        self.site.wms.cancel(sent.wms_id)


class _SecondLook:
    """A second look at the WMS, taken when the first attempt needs it; its answer or error is that of all others too.

    Parameters
    ----------
    batch
        The batch that looks.
    taken
        Attempts of which a workflow may have been submitted.
    """

    def __init__(self, batch: _Batch, taken: Sequence[Taken]) -> None:
        self._batch = batch
        self._taken = taken
        self._found: dict[str, list[str]] | WmsError | None = None

    def finds(self, taken: Taken) -> list[str]:
        """Give the ids of the workflows of an attempt.

        Raises
        ------
        WmsError
            If the look-up failed.
        """
        if self._found is None:
            try:
                self._found = self._batch.look_again(self._taken)
            except WmsError as error:
                self._found = error
        if isinstance(self._found, WmsError):
            raise self._found
        return self._found[taken.attempt.id.workflow]
