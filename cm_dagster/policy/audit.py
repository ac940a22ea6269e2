"""The audit's comparison of attempts with each other and with the workflows at the WMS.

Everything here compares what was read; nothing asks, nothing changes. A source that could not be asked is left out by
the caller: the absence of an answer is never taken for an answer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from cm_dagster.plan.names import AttemptId
from cm_dagster.policy.findings import Finding, Kind, Known, Place, Workflow, listed
from cm_dagster.policy.states import OPEN, State

__all__ = [
    "CANCEL_TAKES",
    "DAY",
    "compare_attempts",
    "compare_workflows",
    "missing_workflow",
    "stale_unknown",
    "strange_campaigns",
    "stuck",
    "stuck_job",
]

DAY = 86400.0
"""Seconds after which an attempt that does not move is a finding."""
CANCEL_TAKES = 3600.0
"""Seconds within which a WMS is trusted to cancel a workflow."""


# ---------------------------------------------------------------------------------------------------------- the WMS


def strange_campaigns(flows: Iterable[Workflow], campaigns: Collection[str], place: Place) -> Iterator[Finding]:
    """Find workflows that run for campaigns that the ledger does not know: one finding for each campaign."""
    found: dict[str, list[Workflow]] = {}
    for flow in flows:
        if flow.alive and flow.attempt.step.campaign not in campaigns:
            found.setdefault(flow.attempt.step.campaign, []).append(flow)
    for campaign, alive in found.items():
        seen = f"WMS: {listed([flow.wms_id for flow in alive], 'workflow')} running; ledger: no such campaign"
        advice = (
            "nothing, if another deployment submits under the same account; else cancel each:"
            f" {place.bps('cancel', alive[0].wms_id)}"
        )
        yield Finding(Kind.ORPHAN_WORKFLOW, campaign, seen, advice, wms_id=alive[0].wms_id)


def compare_workflows(flows: Iterable[Workflow], runs: Iterable[Known], place: Place) -> Iterator[Finding]:
    """Compare the workflows at the WMS with the attempts that they are named after.

    Parameters
    ----------
    flows
        The WMS's list, and what it said of single workflows.
    runs
        All attempts of the same campaigns at the site.
    place
        The site.
    """
    named: dict[AttemptId, list[Workflow]] = {}
    for flow in flows:
        named.setdefault(flow.attempt, []).append(flow)
    known: dict[AttemptId, list[Known]] = {}
    for run in runs:
        if run.id in named:
            known.setdefault(run.id, []).append(run)
    for id_, alike in sorted(named.items()):
        ids = {wms_id for run in known.get(id_, ()) for wms_id in run.wms_ids}
        own = [flow for flow in alike if flow.wms_id in ids]
        others = [flow for flow in alike if flow.wms_id not in ids and flow.state != "cancelled"]
        if id_ not in known:
            yield from (_orphan(flow, "ledger: no such attempt", place) for flow in others)
            continue
        run = max(known[id_], key=_weight)
        if not ids:
            yield from _unrecorded(run, others, place)
        yield from _own(run, own, place)
        if ids:
            yield from _twins(run, own, others, place)


def _weight(run: Known) -> tuple[bool, bool, str]:
    # Of several runs that have one number, the one that counts: those that were turned away are cancelled.
    return bool(run.wms_ids), run.state is not State.CANCELLED, run.run_id


def _orphan(flow: Workflow, ledger: str, place: Place, run: Known | None = None) -> Finding:
    id_ = flow.attempt
    maker = run or Known(id_, "", State.FAILED)
    advice = f"if nobody needs it: {place.bps('cancel', flow.wms_id)}"
    if not flow.alive:
        advice = f"nothing runs; to look at it: {place.bps('report', flow.wms_id)}"
    elif run and run.state in (State.FAILED, State.CANCELLED):
        advice = f"to have it followed: {run.verb('restart', 'it runs again')}; {advice}"
    return maker.finding(
        Kind.ORPHAN_WORKFLOW, f"WMS: workflow {flow} is {id_.workflow}; {ledger}", advice, wms_id=flow.wms_id
    )


def _unrecorded(run: Known, flows: Sequence[Workflow], place: Place) -> Iterator[Finding]:
    """Judge workflows of an attempt that has none on record."""
    if run.state in (State.CANCELLED, State.CANCELLING):
        yield from (_lost_cancel(run, flow, place) for flow in flows if flow.alive and run.quiet >= CANCEL_TAKES)
    elif run.state not in OPEN:
        yield from (_orphan(flow, f"ledger: {run.state} without a workflow", place, run) for flow in flows)
    elif run.quiet < place.settle:
        return  # it is being submitted
    elif len(flows) > 1:
        seen = f"WMS: workflows {', '.join(map(str, flows))} of one name; ledger: {run.state}, none is recorded"
        advice = f"the oldest is to be recorded, the others cancelled: {place.sensor('submit')}"
        yield run.finding(Kind.TWIN_WORKFLOW, seen, advice, wms_id=flows[-1].wms_id)
    elif flows:
        seen = f"WMS: workflow {flows[0]} has its name; ledger: {run.state}, no workflow is recorded"
        advice = f"it is to be recorded: {place.sensor('submit')}"
        yield run.finding(Kind.ORPHAN_WORKFLOW, seen, advice, wms_id=flows[0].wms_id)


def _own(run: Known, own: Sequence[Workflow], place: Place) -> Iterator[Finding]:
    """Judge the recorded workflows: one that runs must be waited for."""
    for flow in own:
        if not flow.alive:
            continue
        if run.state in (State.CANCELLED, State.CANCELLING):
            if run.quiet >= CANCEL_TAKES:
                yield _lost_cancel(run, flow, place)
        elif run.state not in OPEN and run.quiet >= place.settle:
            yield _orphan(flow, f"ledger: {run.state}, so it was restarted by hand", place, run)


def _lost_cancel(run: Known, flow: Workflow, place: Place) -> Finding:
    return run.finding(
        Kind.LOST_CANCEL,
        f"WMS: workflow {flow}; ledger: {run.state}",
        f"cancel it once more: {place.bps('cancel', flow.wms_id)}; if it stays, ask who runs the WMS",
        wms_id=flow.wms_id,
    )


def _twins(run: Known, own: Sequence[Workflow], others: Sequence[Workflow], place: Place) -> Iterator[Finding]:
    """Judge the workflows that have the name of an attempt whose workflow is another one."""
    recorded = ", ".join(sorted(run.wms_ids))
    for flow in others:
        # Some WMSs give a workflow that is restarted a new id; it goes on in the same directory.
        lives = [mine for mine in own if flow.path and flow.path == mine.path]
        if not flow.alive and (lives or run.restarts):
            continue  # an earlier life of the recorded one
        if not own and run.in_hands:
            continue  # the recorded one is missing: that finding names this one
        if not own:
            yield _orphan(flow, f"ledger: {run.state} with workflow {recorded}, which its list lacks", place, run)
        elif any(not mine.alive for mine in lives):
            what = f"ledger: {run.state} with workflow {recorded} in the same directory, so it was restarted by hand"
            yield _orphan(flow, what, place, run)
        else:
            yield _twin(run, own[0], flow, place)


def _twin(run: Known, own: Workflow, twin: Workflow, place: Place) -> Finding:
    seen = f"WMS: workflows {own} and {twin} of one name; ledger: {run.state}, {own.wms_id} is recorded and stays"
    if twin.alive:
        campaign = run.id.step.campaign
        advice = f"cancel {twin.wms_id}: `cm audit {campaign} --site {place.site} --fix`"
    else:
        show = f"`cm group show {run.id.step.campaign} {run.id.step.step} {run.id.group}`"
        advice = (
            f"both wrote into one collection, compare the quanta: {show}; in doubt process it again:"
            f" {_again(run, 'two workflows')}"
        )
    return run.finding(Kind.TWIN_WORKFLOW, seen, advice, wms_id=twin.wms_id, cancel=twin.alive)


def _again(run: Known, reason: str) -> str:
    return f"{run.verb('reject', reason)} if it is accepted, then {run.verb('retry', reason)}"


def missing_workflow(run: Known, alike: Sequence[Workflow], place: Place) -> Finding:
    """Say that the WMS, asked for it by id, does not know the workflow of an open attempt.

    Parameters
    ----------
    run
        The attempt.
    alike
        Workflows of its name that the WMS does know.
    place
        The site.
    """
    wms_id = min(run.wms_ids)
    other = f", but {', '.join(map(str, alike))} of the same name: restarted by hand?" if alike else ""
    return run.finding(
        Kind.MISSING_WORKFLOW,
        f"ledger: {run.state} with workflow {wms_id}; WMS: does not know {wms_id}{other}",
        f"ask who runs the WMS ({place.bps('report', wms_id)}); if it is gone for good:"
        f" {run.verb('cancel', 'the WMS has lost it')}, and when it is cancelled"
        f" {run.verb('retry', 'the WMS has lost it')}",
        wms_id=wms_id,
    )


# --------------------------------------------------------------------------------------------- the ledger by itself


def compare_attempts(runs: Iterable[Known]) -> Iterator[Finding]:
    """Find groups with two attempts at once: two runs of one number, or two open ones in the site's hands."""
    groups: dict[tuple[str, str], list[Known]] = {}
    for run in runs:
        if run.state not in (State.QUEUED, State.CANCELLED):  # of two that are queued, one is turned away in its turn
            groups.setdefault((run.id.step.tag, run.id.group), []).append(run)
    for alike in groups.values():
        if len(alike) < 2:
            continue
        first, *rest = sorted(alike, key=lambda run: (run.id.number, not run.wms_ids, run.run_id))
        for before, run in zip([first, *rest], rest, strict=False):
            if run.id == before.id or (run.in_hands and before.in_hands):
                yield run.finding(
                    Kind.TWIN_ATTEMPT,
                    f"ledger: run {before.run_id} is attempt {before.id.number} ({before.state}), run {run.run_id} is"
                    f" attempt {run.id.number} ({run.state})",
                    f"in the web UI, terminate the one that has done less; if both have ended, in doubt process it"
                    f" again: {_again(run, 'two attempts')}",
                )


def stale_unknown(run: Known, now: float, place: Place) -> Finding | None:
    """Say that an attempt has been unknown for more than a day; None if it has not."""
    if run.state is not State.UNKNOWN or run.since is None or now - run.since < DAY:
        return None
    wms_id = min(run.wms_ids, default="")
    what = f"with workflow {wms_id}" if wms_id else "it is not certain whether anything was submitted"
    ask = place.bps("report", wms_id) if wms_id else "`cm doctor` says whether it answers"
    return run.finding(
        Kind.STALE_UNKNOWN,
        f"ledger: unknown, {what}",
        f"ask who runs the WMS ({ask}); to give it up: {run.verb('cancel', 'unknown')}",
        wms_id=wms_id,
    )


def stuck(run: Known, place: Place, *, queued: bool) -> Finding:
    """Say that an attempt has waited for more than a day though nothing holds it back.

    Parameters
    ----------
    run
        The attempt.
    place
        The site.
    queued
        Whether it is in the queue; else its launch was left behind half-way.
    """
    if queued:
        advice = f"it is to be submitted: {place.sensor('submit')}"
        return run.finding(Kind.STUCK, f"ledger: queued; {place.site} answers, and no limit holds it back", advice)
    advice = f"it is to be queued: {place.sensor('submit')}; else terminate run {run.run_id} in the web UI"
    return run.finding(Kind.STUCK, f"ledger: run {run.run_id} was created and never queued", advice)


def stuck_job(run_id: str, job: str, since: float, *, queued: bool) -> Finding:
    """Say that a run of ours that is no attempt has waited for more than a day.

    Parameters
    ----------
    run_id
        The run.
    job
        Its job.
    since
        Seconds since the epoch at which it was created.
    queued
        Whether it is in the queue; else its launch was left behind half-way.
    """
    seen = f"ledger: run {run_id} of job {job} {'is in the queue' if queued else 'was created and never queued'}"
    advice = f"see that the daemon lives: `cm doctor`; else terminate run {run_id} in the web UI, it is asked for again"
    return Finding(Kind.STUCK, "", seen, advice, run_id=run_id, since=since)
