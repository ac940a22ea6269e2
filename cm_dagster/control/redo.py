"""What an ended attempt has left that can be used: RUN collections to rescue or accept, a workflow to restart."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import dagster as dg

from cm_dagster.control.history import end_message
from cm_dagster.control.lookback import lookback
from cm_dagster.control.site import Site
from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import LedgerError, WmsError
from cm_dagster.ledger import events, overrule
from cm_dagster.ledger.attempts import Attempt
from cm_dagster.ledger.claims import Claims
from cm_dagster.plan.names import AttemptId, group_folder
from cm_dagster.plan.recipe import Recipe
from cm_dagster.plan.render import PROVENANCE
from cm_dagster.policy.states import State
from cm_dagster.services.report import REPORT
from cm_dagster.services.wms import WmsState
from cm_dagster.spec import CampaignSpec

__all__ = ["check_rescued", "quanta_of", "rescue_recipe", "restart_again", "restart_ended", "restartable"]

_RUNS = (WmsState.PENDING, WmsState.RUNNING, WmsState.HELD)


def rescue_recipe(site: Site, spec: CampaignSpec, attempts: Sequence[Attempt]) -> Recipe:
    """Say what a rescue skips: what the newest attempt has left that left anything, and what that one had rescued.

    A RUN collection counts only if the registry has finished quanta of it: BPS ignores one that is absent in silence,
    and does everything again.

    Parameters
    ----------
    site
        The site.
    spec
        The campaign.
    attempts
        The attempts at the group, the first one first.

    Raises
    ------
    LedgerError
        If none of them has left anything.
    ButlerError
        If the registry can't be asked.
    """
    butler = site.butler(spec)
    for attempt in reversed(attempts):
        numbers = [*([attempt.id.number] if attempt.wms_id else []), *attempt.recipe.rescued]
        runs = {n: AttemptId(attempt.id.step, attempt.id.group, n).run(spec.butler.output) for n in numbers}
        found = {number: sum((butler.quanta_in(run) or {}).values()) for number, run in runs.items()}
        kept = tuple(number for number in numbers if found[number])
        if kept:
            return Recipe(kept, sum(found.values()), attempts[-1].recipe.memory)
    raise LedgerError(
        "no attempt at it has a RUN collection with finished quanta in the registry, so everything would be done again",
        advice="retry it, which does so on purpose",
    )


def check_rescued(site: Site, spec: CampaignSpec, attempt: Attempt) -> list[str]:
    """Give the RUN collections that an attempt rescues, after making sure that they are still there.

    Raises
    ------
    LedgerError
        If one is not.
    ButlerError
        If the registry can't be asked.
    """
    runs = attempt.rescued_runs(spec.butler.output)
    missing = [run for run in runs if not site.butler(spec).quanta_in(run)]
    if missing:
        raise LedgerError(
            f"the registry has no finished quanta in {', '.join(missing)}, which it was to rescue",
            advice="retry the group: everything is done again",
        )
    return runs


def quanta_of(site: Site, spec: CampaignSpec, attempt: Attempt) -> int:
    """Count the finished quanta that an attempt stands for in the registry.

    Raises
    ------
    LedgerError
        If a RUN collection of it is absent, or there are no quanta at all.
    ButlerError
        If the registry can't be asked.
    """
    butler = site.butler(spec)
    found = {run: butler.quanta_in(run) for run in attempt.outputs(spec.butler.output)}
    if missing := [run for run, counts in found.items() if counts is None]:
        raise LedgerError(
            f"the registry does not have {', '.join(missing)}: the final job of its workflow did not run",
            advice="restart the group, which runs that job too, or retry it",
        )
    total = sum(count for counts in found.values() for count in (counts or {}).values())
    if not total:
        where = ", ".join(found) or "any RUN collection"
        raise LedgerError(f"the registry has no finished quanta of it in {where}", advice="rescue or retry it")
    return total


# --------------------------------------------------------------------------------------------------------- restart


def restartable(site: Site, attempt: Attempt) -> str:
    """Make sure that the WMS knows the workflow of an attempt, and say what a restart does.

    Raises
    ------
    LedgerError
        If there is nothing to restart.
    WmsError
        If the WMS can't be asked.
    """
    report = site.wms.report_one(attempt.wms_id, lookback(site, [attempt]))
    if report is None:
        raise LedgerError(
            f"the WMS does not know its workflow {attempt.wms_id} any more", advice="rescue it, or retry it"
        )
    if report.state in _RUNS:
        return f"workflow {attempt.wms_id} runs already; it is followed again"
    return f"the failed jobs of workflow {attempt.wms_id} run again"


def restart_ended(instance: dg.DagsterInstance, site: Site, attempt: Attempt, why: str) -> str:
    """Restart the workflow of an attempt that failed or was cancelled; the attempt goes on.

    The attempt is opened first: should this process die before the WMS is asked, the watch sensor finds the workflow
    ended and judges it again, and nothing is lost. The caller holds the group's lock.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        The site.
    attempt
        The attempt.
    why
        Who restarts it, and why.

    Returns
    -------
    done
        What was done.

    Raises
    ------
    LedgerError
        If there is nothing to restart; the attempt is then as it was.
    WmsError
        If the WMS refuses, with the attempt as it was; or can't be asked.
    """
    restartable(site, attempt)
    cause = end_message(instance, attempt.run_id)
    overrule.reopen(instance, attempt, why)
    try:
        return restart_again(instance, site, attempt)
    except WmsError as error:
        if error.transient:
            return (
                f"it is not known whether the WMS has restarted workflow {attempt.wms_id} ({error.cause}); it is asked"
            )
        _close(instance, attempt, f"{cause} (A restart was refused: {error.cause}.)")
        raise


def _close(instance: dg.DagsterInstance, attempt: Attempt, message: str) -> None:
    """Put an attempt back to where it was before its workflow was not restarted."""
    if attempt.state is State.CANCELLED:
        events.cancelled(instance, attempt.run_id, message, swept=True)
    else:
        events.fail(instance, attempt, message)


def restart_again(instance: dg.DagsterInstance, site: Site, attempt: Attempt) -> str:
    """Restart the workflow of an attempt that is open, and record its id; the caller holds the group's lock.

    Raises
    ------
    WmsError
        If the WMS refuses; or, transient, if nobody can tell whether it did.
    """
    running = [
        wms_id
        for wms_id, report in site.wms.report_all(lookback(site, [attempt])).items()
        if report.name == attempt.id.workflow and report.state in _RUNS
    ]
    if running:  # restarted before, by a person or by a process that died before it could say so
        wms_id, how = attempt.wms_id if attempt.wms_id in running else running[-1], "had been restarted"
    else:
        _set_aside(Path(attempt.submit_dir), attempt.restarts + 1)
        wms_id, how = site.wms.restart(attempt.wms_id), "was restarted"
        crash_point("restart.asked")
    claims = Claims(group_folder(site.area, attempt.id.step, attempt.id.group))
    record = {"wms_id": wms_id, "submit_dir": attempt.submit_dir, "run": attempt.run_id}
    with suppress(OSError):  # no space; the run has it too
        claims.record(attempt.id.number, record)
    crash_point("restart.recorded")
    overrule.restarted(instance, attempt, wms_id, time.time())
    new = f" as {wms_id}" if wms_id != attempt.wms_id else ""
    return f"workflow {attempt.wms_id} {how}{new}"


def _set_aside(submit_dir: Path, number: int) -> None:
    """Keep what tells of the quanta of the former end from being taken for that of the next."""
    for name in (PROVENANCE, REPORT):
        if (submit_dir / name).exists():
            (submit_dir / name).rename(submit_dir / f"{name}.{number}")
