"""Ending an attempt: what its workflow did, the verdict, and what is written of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from cm_dagster.control.rules import BadEnd, end_badly
from cm_dagster.control.site import Site
from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import ButlerError, ServiceError, WmsError
from cm_dagster.ledger import campaigns, events
from cm_dagster.ledger.attempts import Attempt
from cm_dagster.policy.judge import Ended, Outcome, Verdict, judge
from cm_dagster.policy.rules import Fault
from cm_dagster.services.quanta import QuantaSummary, read_quanta
from cm_dagster.services.wms import WmsState, WorkflowReport

__all__ = ["settle"]

_MESSAGES = 3
_UNDONE = (WmsState.FAILED, WmsState.CANCELLED, WmsState.BLOCKED)
"""States of jobs that a restart runs."""


def settle(instance: dg.DagsterInstance, site: Site, attempt: Attempt, report: WorkflowReport) -> Outcome:
    """Judge an attempt whose workflow has ended, and end it unless its final job must be run again first.

    Raises
    ------
    ButlerError
        If the registry can't be asked, for whatever reason: what was done is done, so it is judged later.
    ServiceError, OSError
        If what the workflow left can't be read now.
    """
    spec = campaigns.find(instance, attempt.id.step.campaign).spec
    try:
        quanta = read_quanta(Path(attempt.submit_dir), site.butler(spec))
    except ServiceError as error:
        if error.transient or isinstance(error, ButlerError):
            raise
        message = f"Workflow {attempt.wms_id} ended but can't be judged: {error}"
        return end_badly(instance, site, attempt, BadEnd(message, faults=(Fault(texts=(error.cause,)),)))
    crash_point("judge.read")
    verdict = _verdict(attempt, report, quanta, spec.settings(attempt.id.step.step).accept.quanta)
    if verdict.outcome is Outcome.ACCEPT:
        events.accept(instance, attempt, f"Accepted: {verdict.reason}.", _metadata(attempt, report, quanta, verdict))
    elif verdict.outcome is Outcome.FAIL:
        return end_badly(instance, site, attempt, _bad_end(site, attempt, report, quanta, verdict))
    else:
        events.note(instance, attempt.run, f"Workflow {attempt.wms_id} ended, but {verdict.reason}.")
    return verdict.outcome


def _bad_end(site: Site, attempt: Attempt, report: WorkflowReport, quanta: QuantaSummary, verdict: Verdict) -> BadEnd:
    """Say for the error rules how a workflow failed."""
    one = _with_exit_codes(site, report)
    expected = quanta.expected + attempt.recipe.done
    return BadEnd(
        message=f"Workflow {attempt.wms_id} failed: {verdict.reason}.{_causes(one, quanta)}",
        metadata=_metadata(attempt, one, quanta, verdict),
        faults=tuple(_faults(one, quanta, verdict)),
        done=((quanta.registered_total or 0) + attempt.recipe.done) / expected if expected else 0.0,
        no_restart="" if any(one.jobs.get(bad) for bad in _UNDONE) else "all of its jobs have succeeded",
    )


def _with_exit_codes(site: Site, report: WorkflowReport) -> WorkflowReport:
    """Ask for a workflow by its id; the list that it is from lacks exit codes."""
    try:
        return site.wms.report_one(report.wms_id, site.spec.wms.history) or report
    except WmsError as error:
        if error.transient:
            raise
        return report  # a plugin that can't tell


def _faults(report: WorkflowReport, quanta: QuantaSummary, verdict: Verdict) -> Iterator[Fault]:
    """List the ways in which a workflow failed: tasks in the order of the pipeline, other jobs, the verdict."""
    for label, task in quanta.tasks.items():
        codes = tuple(report.exit_codes.get(label, ()))
        if task.failed or codes:
            yield Fault(label, codes, task.errors)
    for label, found in report.exit_codes.items():
        if label not in quanta.tasks:  # a cluster of tasks, or a job of BPS's own
            yield Fault(label, tuple(found))
    yield Fault(texts=(verdict.reason,))


def _verdict(attempt: Attempt, report: WorkflowReport, quanta: QuantaSummary, threshold: float) -> Verdict:
    done = attempt.recipe.done  # of a rescue: the group counts, not what was left to do of it
    ended = Ended(
        wms_state=report.state,
        expected=quanta.expected + done,
        succeeded=None if quanta.succeeded is None else quanta.succeeded + done,
        registered=None if quanta.registered_total is None else quanta.registered_total + done,
        finalized=attempt.finalized,
    )
    return judge(ended, threshold)


def _causes(report: WorkflowReport, quanta: QuantaSummary) -> str:
    """Say in a sentence per task why quanta failed; later tasks fail for lack of the first one's output."""
    parts = []
    for label, task in quanta.tasks.items():
        if task.failed:
            kinds = ", ".join(f"{count} x {name}" for name, count in task.exceptions.items())
            first = f": {task.messages[0]}" if task.messages else ""
            parts.append(f" {label}: {task.failed} of {task.expected} quanta failed ({kinds}){first}.")
        elif task.no_record and quanta.provenance:
            parts.append(f" {label}: {task.no_record} of {task.expected} quanta left no record.")
    codes = [f"{label} {', '.join(map(str, found))}" for label, found in report.exit_codes.items()]
    return "".join(parts[:_MESSAGES]) + (f" Exit codes: {'; '.join(codes)}." if codes else "")


def _metadata(attempt: Attempt, report: WorkflowReport, quanta: QuantaSummary, verdict: Verdict) -> events.Metadata:
    """What the pilot sees of an ended attempt."""
    folder = Path(attempt.folder)
    return {
        "verdict": verdict.reason,
        "workflow": attempt.wms_id,
        "attempt": attempt.id.number,
        "run collection": quanta.run,
        "submit directory": dg.MetadataValue.path(attempt.submit_dir),
        "quanta expected": quanta.expected,
        "quanta registered": quanta.registered_total or 0,
        "quanta": dg.MetadataValue.table([_row(label, quanta) for label in quanta.tasks]),
        "wall time (minutes)": round((time.time() - (attempt.started or attempt.created)) / 60, 2),
        "jobs": dg.MetadataValue.json({label: dict(counts) for label, counts in report.tasks.items()}),
        "BPS configuration": dg.MetadataValue.md(_fenced(folder / "bps.yaml")),
    }


def _row(label: str, quanta: QuantaSummary) -> dg.TableRecord:
    task = quanta.tasks[label]
    return dg.TableRecord(
        {
            "task": label,
            "expected": task.expected,
            "succeeded": task.succeeded,
            "failed": task.failed,
            "blocked": task.blocked,
            "no record": task.no_record,
            "registered": (quanta.registered or {}).get(label, 0),
        }
    )


def _fenced(path: Path) -> str:
    return f"```yaml\n{path.read_text()}```" if path.exists() else f"{path} is gone"
