"""Ending an attempt: what its workflow did, the verdict, and what is written of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from cm_dagster.control.judged import Judged
from cm_dagster.control.lookback import lookback
from cm_dagster.control.rules import BadEnd, end_badly
from cm_dagster.control.site import Site
from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import ButlerError, ServiceError, WmsError
from cm_dagster.ledger import checks, events
from cm_dagster.ledger.attempts import Attempt
from cm_dagster.ledger.events import Acceptance
from cm_dagster.ledger.writing import writing
from cm_dagster.policy.judge import Outcome, Verdict
from cm_dagster.policy.rules import Fault
from cm_dagster.services.quanta import QuantaSummary, read_quanta
from cm_dagster.services.wms import WmsState, WorkflowReport
from cm_dagster.spec import CampaignSpec

__all__ = ["Settled", "settle"]

_MESSAGES = 3
_UNDONE = (WmsState.FAILED, WmsState.CANCELLED, WmsState.BLOCKED)
"""States of jobs that a restart runs."""


@dataclass(frozen=True)
class Settled:
    """How an ended workflow was judged."""

    outcome: Outcome
    accepted: Acceptance | None = None
    """What is still to be written, of one that is accepted: with those of others at once."""


def settle(
    instance: dg.DagsterInstance, site: Site, spec: CampaignSpec, attempt: Attempt, report: WorkflowReport
) -> Settled:
    """Judge an attempt whose workflow has ended, and end it unless it is accepted, or its final job must be run again.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        The site.
    spec
        The attempt's campaign.
    attempt
        The attempt.
    report
        What the WMS says of its workflow.

    Raises
    ------
    ButlerError
        If the registry can't be asked, for whatever reason: what was done is done, so it is judged later.
    ServiceError, OSError
        If what the workflow left can't be read now.
    """
    try:
        quanta = read_quanta(Path(attempt.submit_dir), site.butler(spec))
        rescued = _rescued(site, spec, attempt)
    except ServiceError as error:
        if error.transient or isinstance(error, ButlerError):
            raise
        message = f"Workflow {attempt.wms_id} ended but can't be judged: {error}"
        return Settled(end_badly(instance, site, attempt, BadEnd(message, faults=(Fault(texts=(error.cause,)),))))
    crash_point("judge.read")
    judged = Judged(attempt, report, quanta, rescued, spec.settings(attempt.id.step.step).accept)
    verdict = judged.verdict
    if verdict.outcome is Outcome.ACCEPT:
        message = f"Accepted: {verdict.reason}."
        return Settled(verdict.outcome, Acceptance(attempt, message, judged.metadata(), judged.check()))
    if verdict.outcome is Outcome.FAIL:
        with writing(instance, [attempt]) as writer:
            checks.write(writer, attempt, judged.check(), checks.latest_made(instance, attempt))
        return Settled(end_badly(instance, site, attempt, _bad_end(site, judged)))
    events.note(instance, attempt.run, f"Workflow {attempt.wms_id} ended, but {verdict.reason}.")
    return Settled(verdict.outcome)


def _rescued(site: Site, spec: CampaignSpec, attempt: Attempt) -> Counter[str]:
    """Count the quanta that an attempt has rescued and the registry has, by task."""
    found: Counter[str] = Counter()
    for run in attempt.rescued_runs(spec.butler.output):
        found.update(site.butler(spec).quanta_in(run) or {})
    return found


def _bad_end(site: Site, judged: Judged) -> BadEnd:
    """Say for the error rules how a workflow failed."""
    attempt, quanta, verdict = judged.attempt, judged.quanta, judged.verdict
    one = _with_exit_codes(site, attempt, judged.report)
    done = (judged.registered or sum(judged.rescued.values())) / judged.expected if judged.expected else 0.0
    return BadEnd(
        message=f"Workflow {attempt.wms_id} failed: {verdict.reason}.{_causes(one, quanta)}",
        metadata=judged.metadata(one),
        faults=tuple(_faults(one, quanta, verdict)),
        done=done,
        no_restart="" if any(one.jobs.get(bad) for bad in _UNDONE) else "all of its jobs have succeeded",
    )


def _with_exit_codes(site: Site, attempt: Attempt, report: WorkflowReport) -> WorkflowReport:
    """Ask for a workflow by its id; the list that it is from lacks exit codes."""
    try:
        return site.wms.report_one(report.wms_id, lookback(site, [attempt])) or report
    except WmsError as error:
        if error.transient:
            raise
        return report  # a plugin that can't tell


def _faults(report: WorkflowReport, quanta: QuantaSummary, verdict: Verdict) -> Iterator[Fault]:
    """List the ways in which a workflow failed: tasks in the order of the pipeline, other jobs, the verdict."""
    for label, task in quanta.tasks.items():
        codes = tuple(report.exit_codes.get(label, ()))
        if task.failed or codes:
            yield Fault(label, codes, (*task.errors, *task.log))
    for label, found in report.exit_codes.items():
        if label not in quanta.tasks:  # a cluster of tasks, or a job of BPS's own
            yield Fault(label, tuple(found))
    yield Fault(texts=(verdict.reason,))


def _causes(report: WorkflowReport, quanta: QuantaSummary) -> str:
    """Say in a sentence per task why quanta failed; later tasks fail for lack of the first one's output."""
    parts = []
    for label, task in quanta.tasks.items():
        if task.failed:
            kinds = ", ".join(f"{count} x {name}" for name, count in task.exceptions.items())
            first = f": {task.messages[0]}" if task.messages else ""
            parts.append(f" {label}: {task.failed} of {task.expected} quanta failed ({kinds}){first}.")
        elif task.no_record and quanta.told:
            parts.append(f" {label}: {task.no_record} of {task.expected} quanta left no record.")
    codes = [f"{label} {', '.join(map(str, found))}" for label, found in report.exit_codes.items()]
    return "".join(parts[:_MESSAGES]) + (f" Exit codes: {'; '.join(codes)}." if codes else "")
