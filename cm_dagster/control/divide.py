"""Splitting a group: parts of its data, which take its place in the step's plan."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from cm_dagster.control.inputs import input_collections
from cm_dagster.control.site import Site
from cm_dagster.control.steps import Board, tell_of_plan
from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import LedgerError
from cm_dagster.ledger.events import Metadata
from cm_dagster.ledger.plans import replace_group
from cm_dagster.plan.groups import Group
from cm_dagster.plan.names import AttemptId, StepId
from cm_dagster.services.planner import split_group
from cm_dagster.spec.checks import MAX_COLLECTION

__all__ = ["divide", "replace_by"]


def divide(site: Site, board: Board, step: StepId, group: Group, parts: int) -> list[Group]:
    """Cut a group into parts; nothing is written.

    Parameters
    ----------
    site
        The site.
    board
        Where the campaign stands.
    step
        The step.
    group
        The group.
    parts
        Number of parts.

    Raises
    ------
    LedgerError
        If the parts' collections would have names that are too long.
    PlanError
        If the group's data can't be cut so.
    ButlerError
        If the Butler can't be asked.
    """
    spec = board.campaign.spec
    collections = input_collections(spec, step.step)
    made = split_group(spec, step.step, site.butler(spec), collections, group, parts)
    longest = max((AttemptId(step, part.name, 99).run(spec.butler.output) for part in made), key=len)
    if len(longest) > MAX_COLLECTION:
        what = f"its parts would have collections such as {longest}, of more than {MAX_COLLECTION} characters"
        raise LedgerError(what, advice="retry the group with more memory or time instead")
    return made


def replace_by(
    instance: dg.DagsterInstance, board: Board, step: StepId, group: str, parts: Sequence[Group], why: str
) -> None:
    """Put parts of a group in its place; doing it twice changes nothing.

    Parameters
    ----------
    instance
        The Dagster instance.
    board
        Where the campaign stands.
    step
        The step.
    group
        Name of the group; the caller holds its lock, and nothing of it runs or is accepted.
    parts
        The parts, in order.
    why
        Who splits it, and why.
    """
    plan = replace_group(instance, board.plans[step.step], group, parts)
    crash_point("divide.replaced")
    names = ", ".join(part.name for part in parts)
    metadata: Metadata = {"groups": len(plan.groups), "split": f"{group} -> {names}", "why": why}
    tell_of_plan(instance, step.campaign, step.step, f"{group} is replaced by {names}, {why}", metadata)
