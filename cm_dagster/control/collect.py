"""The whole output of a step, once all of its groups at all sites are accepted and chained."""

from __future__ import annotations

import dagster as dg

from cm_dagster.control.chain import one_writer
from cm_dagster.control.quanta import quanta_metadata, step_quanta
from cm_dagster.control.site import Site
from cm_dagster.control.steps import accepted, read_chained
from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import LedgerError
from cm_dagster.ledger.attempts import index_of
from cm_dagster.ledger.events import Metadata
from cm_dagster.ledger.plans import Plan, load_plan
from cm_dagster.plan.names import StepId, step_output
from cm_dagster.services.butler import ButlerService
from cm_dagster.spec import CampaignSpec

__all__ = ["collect", "missing_groups"]


def missing_groups(instance: dg.DagsterInstance, plan: Plan, *, except_chains_of: str = "") -> list[str]:
    """Name the groups of a step that are not both accepted and chained.

    Parameters
    ----------
    instance
        The Dagster instance.
    plan
        The step's plan.
    except_chains_of
        Site whose groups need only be accepted.
    """
    index = index_of(instance)
    steps = [StepId(plan.campaign, plan.step, site) for site in plan.sites]
    chained = read_chained(instance, steps)
    done = {
        (step.site, group)
        for step in steps
        for group, number in accepted(index, step).items()
        if step.site == except_chains_of or chained.get(step.tag, {}).get(group) == number
    }
    return [group.name for group in plan.groups if (group.site, group.name) not in done]


def collect(instance: dg.DagsterInstance, home: Site, spec: CampaignSpec, step: str) -> Metadata:
    """Set the output chain of a step and that of the campaign; doing it twice changes nothing.

    Returns
    -------
    metadata
        What was collected, for the asset's page.

    Raises
    ------
    LedgerError
        If any group of the step is not accepted and chained.
    ButlerError
        If a chain can't be set.
    """
    plan = load_plan(instance, spec.campaign, step)
    if plan is None:
        raise LedgerError(f"{step} has no groups yet", advice=f"materialize the inputs of {step} first")
    if missing := missing_groups(instance, plan):
        shown = ", ".join(missing[:10]) + (" ..." if len(missing) > 10 else "")
        raise LedgerError(
            f"{len(missing)} of {len(plan.groups)} groups of {step} are not accepted and chained: {shown}",
            advice="a step is collected when all of its groups are",
        )
    index = index_of(instance)
    latest = {site: index.of_step(StepId(spec.campaign, step, site)) for site in plan.sites}
    accepted_ones = (latest[group.site][group.name] for group in plan.groups)
    runs = [run for attempt in accepted_ones for run in attempt.outputs(spec.butler.output)]
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
