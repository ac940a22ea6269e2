"""Running the final jobs of workflows again whose outputs are not all in the registry."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from cm_dagster.control.queue import hold_life_line
from cm_dagster.control.site import Site
from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import CmError
from cm_dagster.ledger import campaigns, events, tags
from cm_dagster.ledger.attempts import Attempt, read_attempt
from cm_dagster.ledger.claims import BusyError, Claims
from cm_dagster.plan.names import group_folder
from cm_dagster.policy.states import State
from cm_dagster.services.quanta import run_final_job

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
    hold_life_line(site, own_run)
    for run_id in run_ids:
        attempt = read_attempt(instance, run_id)
        if attempt is None or attempt.state is not State.FINALIZING:
            log.info("run %s: nothing to do", run_id)
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
    try:
        result = run_final_job(Path(attempt.submit_dir), spec.stack, site.spec, pass_fds=[lock])
        message = f"in {result.wall:.1f} s" if result.ok else str(result.error)
    except CmError as error:
        message = str(error)
    crash_point("finalize.ran")
    log.info("%s: final job: %s", attempt.id.workflow, message)
    events.note(instance, attempt.run, f"The final job was run again: {message}.")
    # However it ended, it counts: the judgement that follows looks at the registry alone.
    events.set_state(instance, attempt, State.ENDED, {tags.FINALIZED: str(attempt.finalized + 1)})
