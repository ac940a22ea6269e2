"""Following workflows at the WMS: one bulk query for all open attempts, then what follows from it for each."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import dagster as dg

from cm_dagster.control.atonce import all_or_each
from cm_dagster.control.cancel import OVER, cancel
from cm_dagster.control.health import Progress, read_health, read_progress, write_health, write_progress
from cm_dagster.control.judge import settle
from cm_dagster.control.lookback import lookback, reach
from cm_dagster.control.queue import Batch, in_work
from cm_dagster.control.site import Site
from cm_dagster.control.twins import cancel_twins, oldest_first
from cm_dagster.control.waiting import longer, wait_of
from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import ButlerError, ServiceError, WmsError
from cm_dagster.ledger import campaigns, events, overrule
from cm_dagster.ledger.attempts import Attempt, AttemptIndex, index_of
from cm_dagster.ledger.claims import BusyError, Claims
from cm_dagster.plan.names import AttemptId, group_folder
from cm_dagster.policy.backoff import Wait
from cm_dagster.policy.judge import Outcome
from cm_dagster.policy.states import State
from cm_dagster.services.wms import WmsState, WorkflowReport

__all__ = ["Seen", "watch"]

_BUDGET = 20.0
"""Seconds of a tick after which no more workflows are judged or cancelled; the rest is for the next tick."""
_ASK_SINGLY = 20
"""Most workflows that are asked for one by one in a tick, since the WMS's list does not show them."""

_AT_ONCE = 100
"""Most attempts that are accepted in one transaction."""
_SOON = 2.0
"""Seconds after which that is written however few they are: till then the ledger does not tell."""

_STATES = {
    WmsState.PENDING: State.SUBMITTED,
    WmsState.RUNNING: State.RUNNING,
    WmsState.HELD: State.RUNNING,
    WmsState.UNKNOWN: State.UNKNOWN,
}
_CANCELLED = (State.CANCELLING, State.CANCELLED)
_ALIVE = (WmsState.PENDING, WmsState.RUNNING, WmsState.HELD)
_UNSEEN = "the WMS does not show workflow"
_ASKED = "the WMS is asked to cancel workflow"
_FAULT = "fault: "
"""How the causes begin of waits for the WMS, and of those after our own faults; all others are for judgement."""


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
        reports = site.wms.report_all(reach(attempts))
    except WmsError as error:
        health = write_health(instance, site.name, answers=False, cause=str(error))
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(health.since))
        return Seen(f"{len(attempts)} in flight, unknown since {since}, asked {health.asked} times: {error}")
    write_health(instance, site.name, answers=True)
    crash_point("watch.listed")
    look = _Look(instance, site, log, finalize_job, reports)
    look.cancel_strays(index, attempts)
    return look.at(attempts)


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
        self.alive: dict[str, list[str]] = defaultdict(list)
        for wms_id, report in reports.items():
            if report.state in _ALIVE:
                self.alive[report.name].append(wms_id)
        self.seen = Seen()
        self.words: Counter[str] = Counter()
        """What there is to say of the attempts, and of how many."""
        self.states: list[tuple[Attempt, State]] = []
        """Attempts that have come to other states; it is written at the end of the look."""
        self.accepted: list[tuple[events.Acceptance, float]] = []
        """What is to be written of accepted attempts, and since when."""
        self.before = read_progress(instance, site.name)
        self.jobs: dict[str, dict[str, int]] = {}
        self.waits: dict[str, Wait] = {}
        self.asked: set[str] = set()
        """Runs of the attempts whose workflow is asked for by its id."""
        self.butlers: dict[str, ButlerError | None] = {}
        """How the Butlers did in this tick, by repository."""

    def at(self, attempts: list[Attempt]) -> Seen:
        """Look at each attempt; those first that were to be judged first."""
        self.asked = self._choose(attempts)
        for attempt in sorted(attempts, key=lambda a: wait.next if (wait := self._wait(a)) else 0.0):
            with self._apart(attempt):
                try:
                    self.words[self._one(attempt)] += 1
                except BusyError:
                    self.words["being submitted"] += 1
        self._accept()
        self._tell_states()
        crash_point("watch.done")
        write_progress(self.instance, self.site.name, self.jobs, self.waits, self.before)
        self.seen.summary = ", ".join(f"{count} {word}" for word, count in sorted(self.words.items()) if count)
        return self.seen

    @contextmanager
    def _apart(self, attempt: Attempt) -> Iterator[None]:
        """Keep the fault of one attempt from stopping all others of a site."""
        try:
            yield
        except Exception as error:
            self.log.exception("%s (run %s)", attempt.id.workflow, attempt.run_id)
            self.words["fault (see the log of this tick)"] += 1
            self._put_off(attempt, f"{_FAULT}{type(error).__name__}: {error}", attempt.run_id)

    # ------------------------------------------------------------------------------------------------- what waits

    def _wait(self, attempt: Attempt) -> Wait | None:
        return self.before.get(attempt.run_id, Progress()).wait

    def _put_off(self, attempt: Attempt, cause: str, seed: str) -> None:
        """Remember that something about an attempt failed, and when it is tried again."""
        before = self._wait(attempt)
        same = before is not None and before.tries > 0 and _kind(before.cause) == _kind(cause)
        self.waits[attempt.run_id] = wait = longer(self.site, before if same else None, cause, seed)
        self._keep_jobs(attempt)
        if not same:  # the run's page tells when it began; `cm group show` how it goes on
            events.note(self.instance, attempt.run, f"Waits: {wait}.")

    def _keep(self, attempt: Attempt) -> None:
        """Leave what is known of an attempt as it is."""
        if wait := self._wait(attempt):
            self.waits[attempt.run_id] = wait
        self._keep_jobs(attempt)

    def _keep_jobs(self, attempt: Attempt) -> None:
        jobs = self.before.get(attempt.run_id, Progress()).jobs
        if jobs and attempt.run_id not in self.jobs:
            self.jobs[attempt.run_id] = dict(jobs)

    def _choose(self, attempts: Iterable[Attempt]) -> set[str]:
        """Choose the workflows to ask for by id: of those whose time has come, those that were not for longest."""
        now = time.time()
        due = [
            (wait.last if wait else 0.0, attempt.run_id)
            for attempt in attempts
            if attempt.wms_id and attempt.wms_id not in self.reports and attempt.state not in _CANCELLED
            for wait in [self._wait(attempt)]
            if wait is None or wait.is_due(now)
        ]
        return {run_id for _, run_id in sorted(due)[:_ASK_SINGLY]}

    # --------------------------------------------------------------------------------------------------- each one

    def _one(self, attempt: Attempt) -> str:
        if attempt.state in _CANCELLED:
            return self._cancel(attempt)
        if not attempt.wms_id:
            return "being submitted"
        wait = self._wait(attempt)
        if wait and wait.cause.startswith(_FAULT) and not wait.is_due(time.time()):
            self._keep(attempt)
            return "waiting after a fault"
        report = self.reports.get(attempt.wms_id)
        if report is None:
            return self._unseen(attempt)
        return self._shown(attempt, report)

    def _cancel(self, attempt: Attempt) -> str:
        """Have the workflow of a cancelled attempt end; while it does not, the WMS is asked less and less often."""
        alive, wait, own = self.alive[attempt.id.workflow], self._wait(attempt), self.reports.get(attempt.wms_id)
        going = [*dict.fromkeys([*([attempt.wms_id] if own and own.state not in OVER else []), *alive])]
        asked = wait is not None and wait.cause.startswith(_ASKED) and not wait.is_due(time.time())
        if time.monotonic() > self.end or (going and asked):
            self._keep(attempt)
            return State.CANCELLING
        state = cancel(self.instance, self.site, attempt, self.reports, alive)
        if going and state is State.CANCELLING:
            self._put_off(attempt, f"{_ASKED} {', '.join(going)}", attempt.run_id)
        return state

    def _shown(self, attempt: Attempt, report: WorkflowReport) -> str:
        self.jobs[attempt.run_id] = {str(state): count for state, count in report.jobs.items()}
        state = _STATES.get(report.state, State.ENDED)
        others = [wms_id for wms_id in self.alive[attempt.id.workflow] if wms_id != attempt.wms_id]
        if others and report.state in (WmsState.FAILED, WmsState.CANCELLED):
            return self._follow(attempt, report, oldest_first(others)[0])
        if others and state is not State.UNKNOWN:  # nobody restarts what has succeeded
            self._cancel_twins(attempt, others)
        return self._ended(attempt, report) if state is State.ENDED else self._now(attempt, state)

    def _unseen(self, attempt: Attempt) -> str:
        """Deal with a workflow that the WMS's list does not show: its id is asked for, less and less often."""
        wait = self._wait(attempt)
        if attempt.run_id not in self.asked:
            self._keep(attempt)
            # Lately it was known by its id: it is not listed for a reason of the WMS's own.
            known = wait is not None and not (wait.tries and _is_unseen(wait))
            return attempt.state if known else self._now(attempt, State.UNKNOWN)
        try:
            report = self.site.wms.report_one(attempt.wms_id, lookback(self.site, [attempt]))
        except WmsError as error:
            if not error.transient:
                raise
            self.log.warning("%s: %s", attempt.id.workflow, error)
            self.asked.clear()  # it answers none of the others either
            self._keep(attempt)
            return f"{attempt.state}, not asked: the WMS does not answer"
        if report is None:
            self._put_off(attempt, f"{_UNSEEN} {attempt.wms_id}", attempt.run_id)
            return self._now(attempt, State.UNKNOWN)
        now = time.time()
        if _STATES.get(report.state):
            cause = f"{_UNSEEN} {attempt.wms_id} in its list"
            self.waits[attempt.run_id] = Wait(cause, 0, now, now, now + self.site.spec.backoff.first)
        return self._shown(attempt, report)

    def _follow(self, attempt: Attempt, report: WorkflowReport, other: str) -> str:
        """Follow another workflow of the same name: that of the attempt has failed, this one runs.

        It was restarted by a person, or by a process that died before it could say so; or it is a twin, whose work
        counts as well as that of another attempt. None of them may run beside the next attempt.
        """
        how = f"has {report.state}, and another of its name runs: restarted by hand, or a twin"
        with Claims(group_folder(self.site.area, attempt.id.step, attempt.id.group)).locked():
            overrule.restarted(self.instance, attempt, other, time.time(), how)
        return State.SUBMITTED

    def _cancel_twins(self, attempt: Attempt, twins: list[str]) -> None:
        """Cancel what runs beside the workflow of an attempt."""
        try:
            cancel_twins(self.instance, self.site, attempt, attempt.wms_id, twins, self.log)
        except WmsError as error:
            self.log.warning("%s: %s", attempt.id.workflow, error)

    def cancel_strays(self, index: AttemptIndex, attempts: Iterable[Attempt]) -> None:
        """Cancel what runs for attempts that are over: accepted ones, and those that another attempt has followed.

        One that failed may have been restarted by a person; the audit tells of it.
        """
        followed = {attempt.id.workflow for attempt in attempts}
        for name in self.alive.keys() - followed:
            try:
                id_ = AttemptId.from_workflow(name)
            except ValueError:
                continue  # not of a campaign
            alike = index.all_of(id_.step, id_.group)
            over = [each for each in alike if each.id == id_ and each.wms_id and not each.is_open]
            if over and (over[-1].state is State.ACCEPTED or alike[-1].id.number > id_.number):
                self._cancel_twins(over[-1], [wms_id for wms_id in self.alive[name] if wms_id != over[-1].wms_id])

    def _now(self, attempt: Attempt, state: State) -> str:
        if state is not attempt.state:
            self.states.append((attempt, state))
        return state

    def _tell_states(self) -> None:
        """Write which attempts have come to other states."""
        write = partial(events.set_states, self.instance)
        all_or_each(write, self.states, lambda each: self._apart(each[0]), self.log)

    def _ended(self, attempt: Attempt, report: WorkflowReport) -> str:
        """Judge a workflow that has ended, unless its final job is being run again."""
        if abs(time.time() - attempt.restarted) < self.site.spec.wms.settle:
            self._keep(attempt)
            return "restarted a moment ago"  # the WMS may still show its former end
        if time.monotonic() > self.end:
            self._keep(attempt)
            return "waiting for judgement"
        shown = attempt
        if attempt.state is State.FINALIZING:
            wait = wait_of(attempt)
            if attempt.run_id in self.finalizing or (wait and not wait.is_due(time.time())):
                return State.FINALIZING
        else:  # it is written only if the judgement, which ends most attempts, must wait
            attempt = replace(attempt, state=State.ENDED)
        spec = campaigns.pick(self.campaigns, attempt.id.step.campaign).spec
        repo = self.site.repo(spec)
        if not self._may_judge(attempt, repo):
            return self._unjudged(shown)
        try:
            settled = settle(self.instance, self.site, spec, attempt, report)
        except (ServiceError, OSError) as error:
            self._can_not_judge(attempt, repo, error)
            return self._unjudged(shown)
        self.butlers.setdefault(repo, None)
        if settled.outcome is Outcome.FINALIZE:
            self._now(attempt, State.FINALIZING)
            self.seen.finalize.append(attempt.run_id)
        else:
            self.jobs.pop(attempt.run_id, None)
        if settled.accepted:
            self.accepted.append((settled.accepted, time.monotonic()))
            if len(self.accepted) == _AT_ONCE or time.monotonic() - self.accepted[0][1] > _SOON:
                self._accept()
        return settled.outcome

    def _accept(self) -> None:
        """Write what was accepted."""
        accepted = [each for each, _ in self.accepted]
        self.accepted.clear()
        write = partial(events.accept, self.instance)
        written = all_or_each(write, accepted, lambda each: self._apart(each.attempt), self.log)
        self.words[Outcome.ACCEPT] -= len(accepted) - len(written)

    def _unjudged(self, attempt: Attempt) -> str:
        if attempt.state is not State.FINALIZING:
            self._now(attempt, State.ENDED)
        return "waiting for the Butler, or for other files"

    def _may_judge(self, attempt: Attempt, repo: str) -> bool:
        """Whether it is time to judge a workflow; one that answers for one workflow answers for all that wait."""
        error, wait = self.butlers.get(repo), self._wait(attempt)
        if error is not None:
            self._can_not_judge(attempt, repo, error)
            return False
        if wait and not _is_unseen(wait) and not wait.is_due(time.time()) and repo not in self.butlers:
            self._keep(attempt)
            return False
        return True

    def _can_not_judge(self, attempt: Attempt, repo: str, error: ServiceError | OSError) -> None:
        """Let an attempt wait for its judgement: what it has done is done, whatever is wrong with the Butler."""
        if isinstance(error, ButlerError):
            self.butlers[repo] = error
        self.log.warning("%s can't be judged: %s", attempt.id.workflow, error)
        self._put_off(attempt, f"it has ended and can't be judged: {error}", repo)

    @cached_property
    def campaigns(self) -> dict[str, campaigns.Campaign]:
        """All campaigns."""
        return campaigns.load_all(self.instance)

    @cached_property
    def finalizing(self) -> set[str]:
        """Attempts whose final job is being run again."""
        return in_work(self.instance, self.site, self.finalize_job)


def _is_unseen(wait: Wait) -> bool:
    return _kind(wait.cause) == _UNSEEN


def _kind(cause: str) -> str:
    """Say what is waited for: waits for different things have nothing to do with each other."""
    return next((kind for kind in (_UNSEEN, _ASKED) if cause.startswith(kind)), "")
