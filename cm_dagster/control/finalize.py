"""Running the final jobs of workflows again whose outputs are not all in the registry."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from cm_dagster.control.lifeline import hold_life_line
from cm_dagster.control.site import Site
from cm_dagster.control.waiting import put_off
from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import CmError, ServiceError
from cm_dagster.ledger import campaigns, events, tags
from cm_dagster.ledger.attempts import Attempt, read_attempt
from cm_dagster.ledger.claims import BusyError, Claims
from cm_dagster.plan.names import group_folder
from cm_dagster.policy.states import State
from cm_dagster.services.quanta import run_final_job
from cm_dagster.spec import CampaignSpec

__all__ = ["finalize"]


def finalize(
    instance: dg.DagsterInstance, site: Site, run_ids: Sequence[str], own_run: str, log: logging.Logger
) -> None:
    """Run final jobs again, one after the other; the watch sensor judges the attempts afterwards.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        The site that this process serves.
    run_ids
        Runs of the attempts.
    own_run
        Run that does this.
    log
        Where to say what is done.
    """
    full: OSError | None = None
    try:
        hold_life_line(site, own_run)
    except OSError as error:  # without it this run would be taken for dead
        full = error
    for run_id in run_ids:
        attempt = read_attempt(instance, run_id)
        if attempt is None or attempt.state is not State.FINALIZING:
            log.info("run %s: nothing to do", run_id)
            continue
        if full is not None:
            put_off(instance, site, attempt, f"the final job can't be run: {full}")
            continue
        claims = Claims(group_folder(site.area, attempt.id.step, attempt.id.group))
        try:
            with claims.locked() as lock:
                _finalize_one(instance, site, attempt, lock, log)
        except BusyError as error:
            log.info("%s: %s", attempt.id.workflow, error)


def _finalize_one(instance: dg.DagsterInstance, site: Site, attempt: Attempt, lock: int, log: logging.Logger) -> None:
    crash_point("finalize.begun")
    spec = campaigns.find(instance, attempt.id.step.campaign).spec
    error = _run(site, attempt, spec, lock)
    crash_point("finalize.ran")
    log.info("%s: final job: %s", attempt.id.workflow, error or "done")
    if error is not None and error.transient:
        # It says nothing about the workflow, whose output is there: it waits, however long, and nothing is counted.
        put_off(instance, site, attempt, str(error))
        return
    events.note(instance, attempt.run, f"The final job was run again: {error or 'done'}.")
    # However it ended, it counts: the judgement that follows looks at the registry alone.
    count = {tags.FINALIZED: str(attempt.finalized + 1)}
    waited = {tags.WAIT: ""} if attempt.tags.get(tags.WAIT) else {}
    events.set_state(instance, attempt, State.ENDED, {**count, **waited})


def _run(site: Site, attempt: Attempt, spec: CampaignSpec, lock: int) -> CmError | None:
    """Run the final job of an attempt's workflow; gives what went wrong."""
    try:
        return run_final_job(Path(attempt.submit_dir), spec.stack, site.spec, pass_fds=[lock]).error
    except CmError as error:
        return error
    except OSError as error:  # a full disk, or no process to be had
        return ServiceError(f"the final job can't be run: {error}", transient=True)
