"""Cancelling the workflow of an attempt that a person terminated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import dagster as dg

from cm_dagster.control.claim import idle
from cm_dagster.control.site import Site
from cm_dagster.crashpoints import crash_point
from cm_dagster.ledger import events
from cm_dagster.ledger.attempts import Attempt
from cm_dagster.ledger.claims import Claims
from cm_dagster.plan.names import group_folder
from cm_dagster.policy.states import State
from cm_dagster.services.submitter import SubmitOutcome, read_result
from cm_dagster.services.wms import WmsState, WorkflowReport

__all__ = ["cancel"]

_OVER = (WmsState.SUCCEEDED, WmsState.FAILED, WmsState.CANCELLED)


def cancel(
    instance: dg.DagsterInstance,
    site: Site,
    attempt: Attempt,
    reports: Mapping[str, WorkflowReport],
    alive: Iterable[str],
) -> State:
    """Cancel the workflow of an attempt that was terminated, and its twins if it has any.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        The site that this process serves.
    attempt
        The attempt.
    reports
        What the WMS's list shows, by id.
    alive
        Ids of the workflows of the attempt's name that run.

    Returns
    -------
    state
        Cancelled, or cancelling if the WMS may not show its workflow yet.

    Raises
    ------
    BusyError
        If it is being submitted; the submitter looks for the cancellation itself when it is done.
    WmsError
        If the WMS does not answer.
    """
    claims = Claims(group_folder(site.area, attempt.id.step, attempt.id.group))
    with claims.locked():
        ids = [attempt.wms_id] if attempt.wms_id else _unrecorded(site, attempt, claims, reports)
        if ids:
            ids = list(dict.fromkeys([*ids, *alive]))
        unseen = [wms_id for wms_id in ids or () if not _stopped(site, wms_id, reports)]
        if (ids is None or unseen) and _is_young(site, attempt, claims):
            return State.CANCELLING
        done = f"Workflow {', '.join(ids)} was cancelled." if ids else "Nothing was submitted."
        events.cancelled(instance, attempt.run_id, done, swept=True)
    return State.CANCELLED


def _is_young(site: Site, attempt: Attempt, claims: Claims) -> bool:
    number, folder = attempt.id.number, attempt.id.folder(site.area)
    return number in claims.owners() and idle(claims, number, folder) < site.spec.wms.settle


def _unrecorded(
    site: Site, attempt: Attempt, claims: Claims, reports: Mapping[str, WorkflowReport]
) -> list[str] | None:
    """Workflows of an attempt that was cancelled before its workflow was recorded; None if that is not certain."""
    id_ = attempt.id
    if claims.owners().get(id_.number) != attempt.run_id:
        return []
    known = [wms_id for wms_id, report in reports.items() if report.name == id_.workflow]
    recorded, left = claims.recorded(id_.number), read_result(id_, id_.folder(site.area))
    known += [recorded["wms_id"]] if recorded else []
    known += [left.wms_id] if left and left.wms_id else []
    sent = left is not None and left.outcome is not SubmitOutcome.FAILED
    return list(dict.fromkeys(known)) or (None if sent else [])


def _stopped(site: Site, wms_id: str, reports: Mapping[str, WorkflowReport]) -> bool:
    """Make sure that a workflow does not run; False if the WMS does not show it."""
    report = reports.get(wms_id)
    if report is None:
        report = site.wms.report_one(wms_id, site.spec.wms.history)
    if report is not None and report.state not in _OVER:  # one that has ended can't be cancelled, and need not be
        site.wms.cancel(wms_id)
        crash_point("watch.stopped")
    return report is not None
