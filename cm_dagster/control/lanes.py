"""Steps that each site plans by itself, of what it has made of the steps before: no site waits for another one.

A step is in lanes if all that it needs have `barrier: site`. Its input chain at a site holds the site's own outputs of
these steps, and its groups there are cut from them; at home the step is collected like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import dagster as dg

from cm_dagster.control.advance import Move
from cm_dagster.control.again import look_at_last
from cm_dagster.control.chain import one_writer
from cm_dagster.control.inputs import CHECKED, checked_table, look_at, own_inputs
from cm_dagster.control.site import Site, remote_sites
from cm_dagster.control.steps import Board, Document, accepted, lane_key, load_boards, tell_of_plan
from cm_dagster.control.travel import trip_tag
from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import LedgerError
from cm_dagster.ledger import tags
from cm_dagster.ledger.attempts import index_of
from cm_dagster.ledger.events import Metadata
from cm_dagster.ledger.plans import Plan, save_lane
from cm_dagster.plan.groups import Group
from cm_dagster.plan.names import StepId, site_output, step_input
from cm_dagster.services.planner import plan_lane
from cm_dagster.spec import CampaignSpec

__all__ = ["LANE", "lane_waits", "lanes_due", "lanes_text", "prepare_lane"]

LANE = "lane"
"""Value of ``cm/kind`` on the runs that make a site's own groups of a step."""


def lane_waits(instance: dg.DagsterInstance, board: Board, step: StepId) -> list[str]:
    """Say which steps that a step needs are not complete at a site; nothing if it may be planned there.

    Parameters
    ----------
    instance
        The Dagster instance.
    board
        Where the campaign stands.
    step
        The step at the site; it is in lanes.
    """
    index = index_of(instance)
    needs = [StepId(step.campaign, need, step.site) for need in board.campaign.spec.steps[step.step].needs]
    chained = Document.CHAINED.read(instance, needs)
    found = []
    for need in needs:
        plan = board.plans.get(need.step)
        if plan is None or (board.campaign.spec.lanes(need.step) and step.site not in plan.lanes):
            found.append(f"{need.step} (not planned at {step.site})")
            continue
        numbers, there, groups = accepted(index, need), chained.get(need.tag, {}), plan.at(step.site)
        left = sum(each.name not in numbers or there.get(each.name) != numbers[each.name] for each in groups)
        if left:
            found.append(f"{need.step} ({left} of {len(groups)} groups left at {step.site})")
    return found


def lanes_text(instance: dg.DagsterInstance, board: Board, step: str) -> list[str]:
    """Say which sites have not made their groups of a step that is in lanes, and what each of them waits for."""
    found = []
    for site in board.lanes_left(step) if step in board.plans else ():
        waits = lane_waits(instance, board, StepId(board.name, step, site))
        found.append(f"{site} makes its groups when it has {', '.join(waits)}" if waits else f"{site} makes its groups")
    return found


def lanes_due(instance: dg.DagsterInstance, site: Site) -> list[Move]:
    """Choose the steps whose groups a site makes now."""
    moves = []
    for board in load_boards(instance):
        for step in board.campaign.spec.order() if board.campaign.started else ():
            id_ = StepId(board.name, step, site.name)
            if (
                site.name not in board.lanes_left(step)
                or not board.signed_off(step)
                or lane_waits(instance, board, id_)
            ):
                continue
            trip = trip_tag(LANE, id_)
            records = instance.get_run_records(dg.RunsFilter(tags={tags.TRIP: trip}), limit=1)
            look = look_at_last(instance, site, board.campaign, records[0] if records else None, lane_key(id_))
            if look.is_due:
                own = {tags.TRIP: trip, **tags.place_at(LANE, site.name), **look.tags(site, board.campaign, trip)}
                moves.append(Move(board.name, (lane_key(id_),), f"{trip} {board.campaign.revision}{look.key}", own))
    return moves


def prepare_lane(
    instance: dg.DagsterInstance, site: Site, spec: CampaignSpec, step: str, without: Sequence[str] = ()
) -> Metadata:
    """Check a site's own inputs of a step, chain them, and make its groups; doing it twice changes nothing.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        The site.
    spec
        The campaign.
    step
        Name of the step, which is in lanes.
    without
        What a person wants to go on without, as it is called in the table.

    Returns
    -------
    metadata
        What the inputs hold, for the asset's page.

    Raises
    ------
    LedgerError
        If a step that this one needs is not complete at the site, or its gate is closed.
    NoInputsError, ButlerError, PlanError
        As `cm_dagster.control.inputs.prepare_inputs`.
    """
    board = load_boards(instance, [spec.campaign])[0]
    id_ = StepId(spec.campaign, step, site.name)
    if waiting := lane_waits(instance, board, id_):
        raise LedgerError(f"{step} needs {', '.join(waiting)}", advice="wait until they are accepted and chained")
    if not board.signed_off(step):
        advice = f"cm campaign sign-off {spec.campaign} {step} --reason ..."
        raise LedgerError(f"the gate of {step} is closed", advice=advice)
    needs = [need for need in reversed(spec.steps[step].needs) if board.plans[need].at(site.name)]
    outputs = [site_output(spec.butler.output, StepId(spec.campaign, need, site.name)) for need in needs]
    collections = [*outputs, *own_inputs(spec, step)]
    look = look_at(site, spec, step, collections, lambda butler: plan_lane(spec, step, site.name, butler, collections))
    look = (look if outputs else replace(look, groups=())).going_without(without)
    if outputs and (missing := look.error(step)):
        raise missing
    groups: tuple[Group, ...] = look.groups  # none where the site has had nothing of the steps before
    crash_point("lane.grouped")
    chain = step_input(spec.butler.output, step)
    with one_writer(site.area, spec.campaign):
        site.butler(spec).set_chain(chain, collections)
    crash_point("lane.chained")
    plan = Plan(spec.campaign, step, groups, tuple(collections), remote=remote_sites(spec), lanes=(site.name,))
    save_lane(instance, plan, site.name, begun=bool(index_of(instance).of_step(id_)))
    text = f"{site.name} has made its groups"
    tell_of_plan(instance, spec.campaign, step, text, {"site": site.name, "groups": len(groups)})
    return {
        "input collection": chain,
        "searched in order": collections,
        "groups": len(groups),
        "datasets": sum(group.datasets for group in groups),
        CHECKED: checked_table([row.record() for row in look.rows]),
    }
