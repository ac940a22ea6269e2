"""What a pilot does in a world, through the same calls as the web UI."""

from __future__ import annotations

import dagster as dg

from cm_dagster.control.site import current_site
from cm_dagster.control.submit import submit
from cm_dagster.control.verbs import Order, act
from cm_dagster.ledger.attempts import Attempt, index_of
from cm_dagster.plan.names import StepId
from cm_dagster.policy.states import State
from cm_dagster.policy.verbs import Verb
from cm_dagster_tests.faults.life import LOG, Life
from cm_dagster_tests.faults.scenario import GROUPS
from cm_dagster_tests.faults.world import CAMPAIGN, SITE
from cm_dagster_tests.integration.ledger_rig import Launcher

__all__ = ["decide", "launch", "release_all", "repair", "submit_again", "terminate"]

_STOPPED = (State.FAILED, State.CANCELLED)


def _latest(life: Life, group: str) -> Attempt | None:
    step, _, name = group.partition("/")
    return index_of(life.instance).of_step(StepId(CAMPAIGN, step, SITE)).get(name)


def _is_planned(life: Life, group: str) -> bool:
    step, _, name = group.partition("/")
    return life.instance.has_dynamic_partition(StepId(CAMPAIGN, step, SITE).tag, name)


def launch(life: Life, group: str) -> dg.DagsterRun | None:
    """Materialize a group, given as ``step/group``; None if it is not planned."""
    if not _is_planned(life, group):
        return None
    step, _, name = group.partition("/")
    launcher = Launcher(life.instance, life.context.create_request_context())
    return launcher.launch(name, assets=[(CAMPAIGN, step, SITE)])


def terminate(life: Life, group: str, *, force: bool) -> None:
    """Terminate the open attempt at a group, if there is one."""
    attempt = _latest(life, group)
    if attempt is None or not attempt.is_open:
        return
    life.instance.run_coordinator.cancel_run(attempt.run_id)
    now = life.instance.get_run_by_id(attempt.run_id)
    if force and now is not None and not now.is_finished:
        life.instance.report_run_canceled(now)


def decide(life: Life, group: str, verb: Verb) -> None:
    """Decide about a group as with ``cm group VERB``; what is refused changes nothing."""
    step, _, name = group.partition("/")
    if _is_planned(life, group):
        act(life.instance, current_site(), CAMPAIGN, step, [name], Order(verb, "pilot", "since I say so"))


def release_all(life: Life) -> None:
    """Release whatever is held."""
    for group in GROUPS:
        decide(life, group, Verb.RELEASE)


def submit_again(life: Life) -> None:
    """Hand all attempts that are being submitted to one more run of the submit job, as two daemons at once may."""
    attempts = [each.run_id for each in index_of(life.instance).open_at(SITE) if not each.wms_id]
    submit(life.instance, current_site(), attempts, "another", LOG)


def repair(life: Life) -> None:
    """Launch again what has failed or was cancelled, and re-execute what failed of the campaign's own runs."""
    index = index_of(life.instance)
    for step in ("step1", "step2", "step3"):
        for name, attempt in index.of_step(StepId(CAMPAIGN, step, SITE)).items():
            if attempt.state in _STOPPED and (attempt.swept or attempt.state is State.FAILED or not attempt.began):
                launch(life, f"{step}/{name}")
