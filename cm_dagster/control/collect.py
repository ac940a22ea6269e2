"""The whole output of a step, once all of its groups at all sites are accepted and at the home site."""

from __future__ import annotations

import dagster as dg

from cm_dagster.control.chain import one_writer
from cm_dagster.control.quanta import quanta_metadata, step_quanta
from cm_dagster.control.site import Site
from cm_dagster.control.steps import Document
from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import LedgerError
from cm_dagster.ledger.attempts import AttemptIndex, index_of
from cm_dagster.ledger.events import Metadata
from cm_dagster.ledger.plans import Plan, load_plan
from cm_dagster.plan.names import StepId, step_output
from cm_dagster.policy.states import State
from cm_dagster.services.butler import ButlerService
from cm_dagster.spec import CampaignSpec

__all__ = ["collect", "is_complete", "missing_groups", "step_runs"]


def missing_groups(
    instance: dg.DagsterInstance, plan: Plan, *, except_chains_of: str = "", index: AttemptIndex | None = None
) -> list[str]:
    """Name the groups of a step that are not both accepted and at the home site: chained there, or delivered.

    Parameters
    ----------
    instance
        The Dagster instance.
    plan
        The step's plan.
    except_chains_of
        Site whose groups need only be accepted.
    index
        All attempts, up to date; by default they are brought so.
    """
    index = index or index_of(instance)
    steps = [StepId(plan.campaign, plan.step, site) for site in plan.sites]
    there = {
        **Document.CHAINED.read(instance, [step for step in steps if step.site not in plan.remote]),
        **Document.DELIVERED.read(instance, [step for step in steps if step.site in plan.remote]),
    }
    done = {
        (step.site, group)
        for step in steps
        for group, number in index.accepted(step).items()
        if step.site == except_chains_of or there.get(step.tag, {}).get(group) == number
    }
    return [group.name for group in plan.groups if (group.site, group.name) not in done]


def is_complete(instance: dg.DagsterInstance, plan: Plan, index: AttemptIndex, *, except_chains_of: str) -> bool:
    """Whether `missing_groups` names none; as long as groups are not accepted, that is told by counting alone.

    Parameters
    ----------
    instance, plan, index, except_chains_of
        As of `missing_groups`.
    """
    steps = [StepId(plan.campaign, plan.step, site) for site in plan.sites]
    # Accepted may also be groups that are split or moved by now: so many more do not show that all others are.
    if any(len(index.accepted(step)) < len(plan.at(step.site)) for step in steps):
        return False
    return not missing_groups(instance, plan, except_chains_of=except_chains_of, index=index)


def step_runs(instance: dg.DagsterInstance, plan: Plan, output: str) -> list[str]:
    """Give the RUN collections that are a step's output: of each group its accepted one and what that has rescued.

    Parameters
    ----------
    instance
        The Dagster instance.
    plan
        The step's plan; groups that are not accepted are left out.
    output
        Output collection of the campaign.
    """
    index = index_of(instance)
    latest = {site: index.of_step(StepId(plan.campaign, plan.step, site)) for site in plan.sites}
    attempts = (latest[group.site].get(group.name) for group in plan.groups)
    return [run for each in attempts if each and each.state is State.ACCEPTED for run in each.outputs(output)]


def collect(instance: dg.DagsterInstance, home: Site, spec: CampaignSpec, step: str) -> Metadata:
    """Set the output chain of a step and that of the campaign; doing it twice changes nothing.

    Returns
    -------
    metadata
        What was collected, for the asset's page.

    Raises
    ------
    LedgerError
        If any group of the step is not accepted and at the home site.
    ButlerError
        If a chain can't be set.
    """
    plan = load_plan(instance, spec.campaign, step)
    if plan is None:
        raise LedgerError(f"{step} has no groups yet", advice=f"materialize the inputs of {step} first")
    if unplanned := [site for site in spec.sites_of(step) if spec.lanes(step) and site not in plan.lanes]:
        what = f"{', '.join(unplanned)} has not made its groups of {step}"
        raise LedgerError(what, advice="a step that each site plans by itself is collected when all of them have")
    if missing := missing_groups(instance, plan):
        shown = ", ".join(missing[:10]) + (" ..." if len(missing) > 10 else "")
        raise LedgerError(
            f"{len(missing)} of {len(plan.groups)} groups of {step} are not accepted and at the home site: {shown}",
            advice="a step is collected when all of its groups are",
        )
    runs = step_runs(instance, plan, spec.butler.output)
    butler = home.butler(spec)
    with one_writer(home.area, spec.campaign):
        changed = butler.set_chain(step_output(spec.butler.output, step), runs)
        crash_point("collect.step")
        children = _chain_campaign(butler, spec)
    crash_point("collect.campaign")
    return {
        "output collection": step_output(spec.butler.output, step),
        "groups": len(plan.groups),
        "run collections": runs[:100],
        "campaign collection": spec.butler.output,
        "its children": children,
        "changed": changed,
        **quanta_metadata(step_quanta(instance, plan)),
    }


def _chain_campaign(butler: ButlerService, spec: CampaignSpec) -> list[str]:
    """Set the campaign's output chain: the outputs of its collected steps, the last step first, then its inputs."""
    outputs = [step_output(spec.butler.output, step) for step in reversed(spec.order())]
    children = [name for name in outputs if butler.exists(name)] + list(spec.butler.input)
    butler.set_chain(spec.butler.output, children)
    return children
