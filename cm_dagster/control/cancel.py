"""Cancelling the workflow of an attempt that a person terminated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import dagster as dg

from cm_dagster.control.claim import rested
from cm_dagster.control.lookback import lookback
from cm_dagster.control.site import Site
from cm_dagster.control.twins import oldest_first
from cm_dagster.crashpoints import crash_point
from cm_dagster.ledger import events
from cm_dagster.ledger.attempts import Attempt
from cm_dagster.ledger.claims import Claims
from cm_dagster.plan.names import group_folder
from cm_dagster.policy.states import State
from cm_dagster.services.submitter import SubmitOutcome, read_result
from cm_dagster.services.wms import WmsState, WorkflowReport

__all__ = ["OVER", "cancel"]

_ASKED = "is asked to end"
OVER = (WmsState.SUCCEEDED, WmsState.FAILED, WmsState.CANCELLED)
"""States in which a workflow does not run, nor will by itself."""


def cancel(
    instance: dg.DagsterInstance,
    site: Site,
    attempt: Attempt,
    reports: Mapping[str, WorkflowReport],
    alive: Iterable[str],
) -> State:
    """Cancel the workflow of an attempt that was terminated, and its twins if it has any.

    The WMS is asked to; the attempt is cancelled when a later look shows that they have ended. Safe to repeat.

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
        Cancelled, or cancelling if its workflow has still to end, or the WMS may not show it yet.

    Raises
    ------
    BusyError
        If it is being submitted; the submitter looks for the cancellation itself when it is done.
    WmsError
        If the WMS does not answer.
    """
    claims = Claims(group_folder(site.area, attempt.id.step, attempt.id.group))
    with claims.locked():
        if attempt.wms_id:
            known: dict[str, str] | None = {attempt.wms_id: attempt.submit_dir}
        else:
            known = _unrecorded(site, attempt, claims, reports)
        ids = [*dict.fromkeys([*known, *alive])] if known else []
        ends: dict[str, str] = {wms_id: _stop(site, attempt, wms_id, reports) for wms_id in ids}
        if any(end == _ASKED for end in ends.values()):
            return State.CANCELLING
        if (known is None or not all(ends.values())) and _is_young(site, attempt, claims):
            return State.CANCELLING
        if known and not attempt.wms_id:
            # What it has done can be looked at, rescued or restarted, like that of any other attempt.
            own, submit_dir = next(iter(known.items()))
            events.found(instance, attempt, wms_id=own, submit_dir=submit_dir)
        done = "; ".join(f"workflow {wms_id} {end or 'is not known to the WMS'}" for wms_id, end in ends.items())
        events.cancelled(instance, attempt.run_id, f"Cancelled: {done or 'nothing was submitted'}.", swept=True)
    return State.CANCELLED


def _is_young(site: Site, attempt: Attempt, claims: Claims) -> bool:
    number, folder = attempt.id.number, attempt.id.folder(site.area)
    return number in claims.owners() and rested(claims, number, folder) < site.spec.wms.settle


def _unrecorded(
    site: Site, attempt: Attempt, claims: Claims, reports: Mapping[str, WorkflowReport]
) -> dict[str, str] | None:
    """Workflows of an attempt that was cancelled before its workflow was recorded, its own one first.

    Each with its submit directory, empty if nobody knows it. None if it is not certain that there is none.
    """
    id_ = attempt.id
    if claims.owners().get(id_.number) != attempt.run_id:
        return {}
    recorded, left = claims.recorded(id_.number), read_result(id_, id_.folder(site.area))
    known = {recorded["wms_id"]: str(recorded.get("submit_dir") or "")} if recorded else {}
    if left and left.wms_id:
        known.setdefault(left.wms_id, str(left.submit_dir or ""))
    for wms_id in oldest_first(wms_id for wms_id, report in reports.items() if report.name == id_.workflow):
        known[wms_id] = known.get(wms_id) or reports[wms_id].path or ""
    sent = left is not None and left.outcome is not SubmitOutcome.FAILED
    return known or (None if sent else {})


def _stop(site: Site, attempt: Attempt, wms_id: str, reports: Mapping[str, WorkflowReport]) -> str:
    """See to it that a workflow ends, and say how it did; empty if the WMS does not show it."""
    report = reports.get(wms_id)
    if report is None:
        report = site.wms.report_one(wms_id, lookback(site, [attempt]))
    if report is None:
        return ""
    if report.state in OVER:  # one that has ended can't be cancelled, and need not be
        return "was cancelled" if report.state is WmsState.CANCELLED else f"had {report.state} before"
    site.wms.cancel(wms_id)
    crash_point("watch.stopped")
    return _ASKED
