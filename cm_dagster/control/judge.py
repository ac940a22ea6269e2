"""Ending an attempt: what its workflow did, the verdict, and what is written of it."""

from __future__ import annotations

import time
from pathlib import Path

import dagster as dg

from cm_dagster.control.site import Site
from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import ServiceError
from cm_dagster.ledger import campaigns, events
from cm_dagster.ledger.attempts import Attempt
from cm_dagster.policy.judge import Ended, Outcome, Verdict, judge
from cm_dagster.services.quanta import QuantaSummary, read_quanta
from cm_dagster.services.wms import WorkflowReport

__all__ = ["settle"]

_MESSAGES = 3


def settle(instance: dg.DagsterInstance, site: Site, attempt: Attempt, report: WorkflowReport) -> Outcome:
    """Judge an attempt whose workflow has ended, and end it unless its final job must be run again first.

    Raises
    ------
    ButlerError
        If the registry can't be asked; the attempt stays as it is and is judged later.
    """
    spec = campaigns.find(instance, attempt.id.step.campaign).spec
    try:
        quanta = read_quanta(Path(attempt.submit_dir), site.butler(spec))
    except ServiceError as error:
        if error.transient:
            raise
        events.fail(instance, attempt, f"Workflow {attempt.wms_id} ended but can't be judged: {error}")
        return Outcome.FAIL
    crash_point("judge.read")
    verdict = _verdict(attempt, report, quanta, spec.settings(attempt.id.step.step).accept.quanta)
    if verdict.outcome is Outcome.ACCEPT:
        events.accept(instance, attempt, f"Accepted: {verdict.reason}.", _metadata(attempt, report, quanta, verdict))
    elif verdict.outcome is Outcome.FAIL:
        message = f"Workflow {attempt.wms_id} failed: {verdict.reason}.{_causes(report, quanta)}"
        events.fail(instance, attempt, message, _metadata(attempt, report, quanta, verdict))
    else:
        events.note(instance, attempt.run, f"Workflow {attempt.wms_id} ended, but {verdict.reason}.")
    return verdict.outcome


def _verdict(attempt: Attempt, report: WorkflowReport, quanta: QuantaSummary, threshold: float) -> Verdict:
    ended = Ended(
        wms_state=report.state,
        expected=quanta.expected,
        succeeded=quanta.succeeded,
        registered=quanta.registered_total,
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
