"""The inputs of a step: checked, chained, and cut into groups."""

from __future__ import annotations

from dataclasses import replace

import dagster as dg

from cm_dagster.control.site import Site
from cm_dagster.control.steps import load_boards
from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import LedgerError, NoInputsError
from cm_dagster.ledger.attempts import index_of
from cm_dagster.ledger.events import Metadata
from cm_dagster.ledger.plans import Plan, save_plan
from cm_dagster.plan.groups import Group
from cm_dagster.plan.names import StepId, step_input, step_output
from cm_dagster.services.butler import ButlerService
from cm_dagster.services.planner import check_requirements, plan_groups
from cm_dagster.spec import CampaignSpec

__all__ = ["input_collections", "make_groups", "prepare_inputs"]

_SHOWN = 100


def input_collections(spec: CampaignSpec, step: str) -> list[str]:
    """Collections that a step reads, in order of search: what it needs of other steps, its own, the campaign's."""
    needed = [step_output(spec.butler.output, need) for need in reversed(spec.steps[step].needs)]
    names = [*needed, *spec.steps[step].input, *spec.butler.input]
    return list(dict.fromkeys(names))


def make_groups(butler: ButlerService, spec: CampaignSpec, step: str) -> list[Group]:
    """Cut a step's present inputs into groups and allot them to sites; writes nothing.

    Raises
    ------
    ButlerError
        If an input collection is missing.
    NoInputsError
        If there is no data to process, or less than the step requires.
    """
    collections = input_collections(spec, step)
    butler.check_inputs(collections)
    short = [row for row in check_requirements(spec, step, butler, collections) if not row.met]
    if short:
        raise NoInputsError(
            f"{step} requires data that its inputs lack: " + "; ".join(str(row) for row in short),
            advice=f"put it into {', '.join(collections)}, or change the step's requirements",
        )
    site = next(iter(spec.sites))
    return [replace(group, site=site) for group in plan_groups(spec, step, butler, collections)]


def prepare_inputs(instance: dg.DagsterInstance, home: Site, spec: CampaignSpec, step: str) -> Metadata:
    """Check a step's inputs, set its input chain, make its groups; doing it twice changes nothing.

    Returns
    -------
    metadata
        What the inputs hold, for the asset's page.

    Raises
    ------
    LedgerError
        If a step that this one needs is not collected, or its gate is closed.
    ButlerError, NoInputsError
        As `make_groups`.
    """
    board = load_boards(instance, [spec.campaign])[0]
    if waiting := [need for need in spec.steps[step].needs if need not in board.collected]:
        raise LedgerError(f"{step} needs {', '.join(waiting)}, not collected yet", advice="wait, or collect first")
    if not board.signed_off(step):
        raise LedgerError(
            f"the gate of {step} is closed", advice=f"cm campaign sign-off {spec.campaign} {step} --reason ..."
        )
    butler = home.butler(spec)
    chain = step_input(spec.butler.output, step)
    groups = make_groups(butler, spec, step)
    crash_point("inputs.grouped")
    butler.set_chain(chain, input_collections(spec, step))
    crash_point("inputs.chained")
    index = index_of(instance)
    begun = any(index.of_step(StepId(spec.campaign, step, site)) for site in spec.sites)
    plan = Plan(spec.campaign, step, tuple(groups), tuple(input_collections(spec, step)))
    save_plan(instance, plan, begun=begun)
    return {
        "input collection": chain,
        "searched in order": list(plan.inputs),
        "groups": len(groups),
        "datasets": sum(group.datasets for group in groups),
        "groups in order": dg.MetadataValue.table([_row(group) for group in groups[:_SHOWN]]),
    }


def _row(group: Group) -> dg.TableRecord:
    return dg.TableRecord(
        {
            "group": group.name,
            "site": group.site,
            "values": group.size,
            "datasets": group.datasets,
            "where": group.where,
        }
    )
