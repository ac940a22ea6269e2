"""The inputs of a step: checked, chained, and cut into groups."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import dagster as dg

from cm_dagster.control.site import Site, remote_sites
from cm_dagster.control.steps import load_boards
from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import LedgerError, NoInputsError
from cm_dagster.ledger.attempts import index_of
from cm_dagster.ledger.events import Metadata
from cm_dagster.ledger.plans import Plan, save_plan
from cm_dagster.plan.allocation import SiteTotal, site_totals
from cm_dagster.plan.groups import Group
from cm_dagster.plan.names import StepId, step_input, step_output
from cm_dagster.services.butler import ButlerService
from cm_dagster.services.input_report import GROUP_BY, InputRow, check_collections, check_datasets, first_missing
from cm_dagster.services.planner import plan_groups
from cm_dagster.services.space import check_room
from cm_dagster.spec import CampaignSpec

__all__ = [
    "CHECKED",
    "Look",
    "checked_table",
    "input_collections",
    "look_at",
    "look_at_inputs",
    "own_inputs",
    "prepare_inputs",
    "site_totals_of",
]

CHECKED = "checked"
"""Label of the table of all that was looked at."""
_COLUMNS = dg.TableSchema(
    [dg.TableColumn(name, "bool" if name == "met" else "string") for name in InputRow.SHOWN],
)
_SHOWN = 100


def input_collections(spec: CampaignSpec, step: str) -> list[str]:
    """Collections that a step reads, in order of search: what it needs of other steps, its own, the campaign's."""
    needed = [step_output(spec.butler.output, need) for need in reversed(spec.steps[step].needs)]
    return list(dict.fromkeys([*needed, *own_inputs(spec, step)]))


def own_inputs(spec: CampaignSpec, step: str) -> list[str]:
    """Collections that a step reads and no other step makes, in order of search: its own, the campaign's."""
    return list(dict.fromkeys([*spec.steps[step].input, *spec.butler.input]))


@dataclass(frozen=True)
class Look:
    """What a step's inputs are found to be; nothing was written."""

    rows: tuple[InputRow, ...]
    """All that was looked at."""
    groups: tuple[Group, ...] = ()
    """The groups that the present inputs give, allotted to sites; none where they can't be made."""

    def going_without(self, names: Collection[str]) -> Look:
        """Take some of what is missing for met, by order of a person; without groups nothing can be done."""
        met = [
            replace(row, met=True, note=f"a person goes on without it: {row.note}")
            if not row.met and row.what in names and self.groups
            else row
            for row in self.rows
        ]
        return replace(self, rows=tuple(met))

    def error(self, step: str) -> NoInputsError | None:
        """Say what is missing first, and what to do; None if nothing is."""
        missing, advice = first_missing(self.rows)
        if not missing:
            return None
        cause = f"the inputs of {step} are not complete: {missing}"
        return NoInputsError(cause, advice=advice, rows=[row.record() for row in self.rows])


def look_at_inputs(home: Site, spec: CampaignSpec, step: str) -> Look:
    """Check a step's inputs against what the step will ask of them, and cut them into groups; writes nothing.

    What is missing is a row of the answer that is not met. Where a collection is missing nothing else is looked at, for
    nothing could be said of it.

    Parameters
    ----------
    home
        The home site, where the inputs are.
    spec
        The campaign.
    step
        Name of the step.

    Raises
    ------
    ButlerError
        If the repository can't be asked, or a predicate is wrong.
    PlanError
        If the groups can't be written as predicates.
    """
    collections = input_collections(spec, step)
    return look_at(home, spec, step, collections, lambda butler: plan_groups(spec, step, butler, collections))


def look_at(
    site: Site, spec: CampaignSpec, step: str, collections: Sequence[str], make: Callable[[ButlerService], list[Group]]
) -> Look:
    """Check what a step reads at a site, and make its groups; as `look_at_inputs`.

    Parameters
    ----------
    site
        The site, where the inputs are.
    spec
        The campaign.
    step
        Name of the step.
    collections
        What it reads there, in order of search.
    make
        Cuts what is there into groups.
    """
    butler = site.butler(spec)
    rows = check_collections(butler, collections)
    if not all(row.met for row in rows):
        return Look(tuple(rows))
    report = check_datasets(butler, spec, step, collections)
    rows += report.rows
    if not all(row.met for row in rows if row.kind == GROUP_BY):
        return Look(tuple(rows))
    try:
        groups = tuple(make(butler))
    except NoInputsError as error:
        row = InputRow(step, "groups", ", ".join(collections), "at least 1", "0", False, error.cause, error.advice)
        return Look((*rows, row))
    for name in spec.sites_of(step):
        if here := [group for group in groups if group.site == name]:
            rows += check_room(site.area if name == site.name else None, here, report.tasks)
    return Look(tuple(rows), groups)


def prepare_inputs(
    instance: dg.DagsterInstance, home: Site, spec: CampaignSpec, step: str, without: Sequence[str] = ()
) -> Metadata:
    """Check a step's inputs, set its input chain, make its groups; doing it twice changes nothing.

    Parameters
    ----------
    instance
        The Dagster instance.
    home
        The home site, where the inputs are.
    spec
        The campaign.
    step
        Name of the step.
    without
        What a person wants to go on without, as it is called in the table.

    Returns
    -------
    metadata
        What the inputs hold, for the asset's page; what was checked under `CHECKED`.

    Raises
    ------
    LedgerError
        If a step that this one needs is not collected, or its gate is closed.
    NoInputsError
        If something is missing: it has the rows of all that was looked at. Nothing was written.
    ButlerError, PlanError
        As `look_at_inputs`.
    """
    board = load_boards(instance, [spec.campaign])[0]
    if spec.lanes(step):
        keys = ", ".join(f"{spec.campaign}/{step}/{site}/inputs" for site in spec.sites_of(step))
        raise LedgerError(f"each site plans {step} by itself", advice=f"materialize {keys}")
    if waiting := [need for need in spec.steps[step].needs if need not in board.collected]:
        raise LedgerError(f"{step} needs {', '.join(waiting)}, not collected yet", advice="wait, or collect first")
    if not board.signed_off(step):
        raise LedgerError(
            f"the gate of {step} is closed", advice=f"cm campaign sign-off {spec.campaign} {step} --reason ..."
        )
    chain = step_input(spec.butler.output, step)
    look = look_at_inputs(home, spec, step).going_without(without)
    if missing := look.error(step):
        raise missing
    groups = look.groups
    crash_point("inputs.grouped")
    home.butler(spec).set_chain(chain, input_collections(spec, step))
    crash_point("inputs.chained")
    index = index_of(instance)
    begun = any(index.of_step(StepId(spec.campaign, step, site)) for site in spec.sites)
    remote = remote_sites(spec) if len(spec.sites) > 1 or home.name not in spec.sites else ()
    plan = Plan(spec.campaign, step, groups, tuple(input_collections(spec, step)), remote=remote)
    save_plan(instance, plan, begun=begun, sites=spec.sites)
    return {
        "input collection": chain,
        "searched in order": list(plan.inputs),
        "groups": len(groups),
        "datasets": sum(group.datasets for group in groups),
        "sites": dg.MetadataValue.table([_site_row(total) for total in site_totals_of(spec, step, groups)]),
        CHECKED: checked_table([row.record() for row in look.rows]),
        "groups in order": dg.MetadataValue.table([_row(group) for group in groups[:_SHOWN]]),
    }


def checked_table(rows: Sequence[Mapping[str, str | bool]]) -> dg.TableMetadataValue:
    """Draw what was looked at in a step's inputs, for the UI."""
    return dg.MetadataValue.table([dg.TableRecord(dict(row)) for row in rows], _COLUMNS)


def site_totals_of(spec: CampaignSpec, step: str, groups: Sequence[Group]) -> list[SiteTotal]:
    """Add up what each site of a step has of its groups; where each plans for itself nothing is wanted of any."""
    shares = {} if spec.lanes(step) else spec.shares_of(step)
    return site_totals(groups, list(spec.sites_of(step)), shares)


def _site_row(total: SiteTotal) -> dg.TableRecord:
    fractions = {"share wanted": total.wanted, "share got": total.got}
    return dg.TableRecord(
        {
            "site": total.site,
            "groups": total.groups,
            "amount": f"{total.amount} {total.unit}",
            **{label: "" if value is None else f"{value:.1%}" for label, value in fractions.items()},
        }
    )


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
