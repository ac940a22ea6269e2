"""The groups of a step, as planned: a document in the store, and Dagster's partitions of the step's assets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace

import dagster as dg

from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import LedgerError
from cm_dagster.ledger import store
from cm_dagster.plan.groups import Group
from cm_dagster.plan.names import StepId

__all__ = ["Plan", "load_plan", "load_plans", "replace_group", "save_plan"]

_CHUNK = 5000  # older SQLite versions take only so many values in one statement


@dataclass(frozen=True)
class Plan:
    """The groups of a step, in the order of submission."""

    campaign: str
    step: str
    groups: tuple[Group, ...]
    inputs: tuple[str, ...] = ()
    """The collections whose data was grouped."""
    split: tuple[str, ...] = ()
    """Names of the groups that were replaced by parts of theirs."""

    def at(self, site: str) -> tuple[Group, ...]:
        """Groups that a site processes."""
        return tuple(group for group in self.groups if group.site == site)

    @property
    def sites(self) -> list[str]:
        """Sites that process any of the groups."""
        return sorted({group.site for group in self.groups})

    def group(self, name: str) -> Group:
        """Look up a group.

        Raises
        ------
        LedgerError
            If the step has no such group.
        """
        for group in self.groups:
            if group.name == name:
                return group
        last = self.groups[-1].name if self.groups else "none"
        raise LedgerError(f"{self.campaign}/{self.step} has no group {name!r}", advice=f"its last group is {last}")


def _key(campaign: str, step: str) -> str:
    return f"plan/{campaign}/{step}"


def load_plan(instance: dg.DagsterInstance, campaign: str, step: str) -> Plan | None:
    """Read the plan of a step; None if it is not planned."""
    return load_plans(instance, campaign, [step]).get(step)


def load_plans(instance: dg.DagsterInstance, campaign: str, steps: Iterable[str]) -> dict[str, Plan]:
    """Read the plans of those steps of a campaign that are planned, in one query."""
    documents = store.get_many(instance, [_key(campaign, step) for step in steps])
    names = [field.name for field in fields(Group)]
    plans = {}
    for document in documents.values():
        groups = tuple(Group(**dict(zip(names, row, strict=True))) for row in document["groups"])
        split = tuple(document.get("split", ()))
        plans[document["step"]] = Plan(campaign, document["step"], groups, tuple(document["inputs"]), split)
    return plans


def save_plan(instance: dg.DagsterInstance, plan: Plan, *, begun: bool) -> bool:
    """Write a step's plan and make its partitions.

    Parameters
    ----------
    instance
        The Dagster instance.
    plan
        The plan.
    begun
        Whether any group of the step has an attempt; then the plan may not change any more.

    Returns
    -------
    changed : `bool`
        False if the same plan was there already, whether or not groups of it were split since.

    Raises
    ------
    LedgerError
        If another plan is there and groups of it have attempts, or were split.
    """
    before = load_plan(instance, plan.campaign, plan.step)
    if before is not None and before.split and _unsplit(before, plan.groups) == _unsplit(before, before.groups):
        return False
    if before is not None and before.groups != plan.groups and (begun or before.split):
        raise LedgerError(
            f"the data of {plan.campaign}/{plan.step} would now be cut into other groups"
            f" ({len(before.groups)} before, {len(plan.groups)} now), but its groups have been submitted",
            advice="the step keeps its groups; put new data into a new step or campaign",
        )
    _write(instance, plan, {*plan.sites, *(before.sites if before else ())})
    return before != plan


def replace_group(instance: dg.DagsterInstance, plan: Plan, name: str, parts: Sequence[Group]) -> Plan:
    """Put parts of a group in its place; whoever calls makes sure that nothing of the group runs or is accepted.

    Parameters
    ----------
    instance
        The Dagster instance.
    plan
        The step's plan.
    name
        Name of the group.
    parts
        The parts, in order.

    Returns
    -------
    plan
        The step's new plan.
    """
    groups = tuple(each for group in plan.groups for each in (parts if group.name == name else (group,)))
    revised = replace(plan, groups=groups, split=(*plan.split, name))
    _write(instance, revised, set(plan.sites))
    return revised


def _unsplit(plan: Plan, groups: Iterable[Group]) -> list[Group]:
    """Leave out the groups of a plan that were split, and their parts."""
    return [group for group in groups if group.name not in plan.split and not group.name[-1].isalpha()]


def _write(instance: dg.DagsterInstance, plan: Plan, sites: Iterable[str]) -> None:
    rows = [list(asdict(group).values()) for group in plan.groups]
    document = {"step": plan.step, "groups": rows, "inputs": list(plan.inputs), "split": list(plan.split)}
    store.put(instance, _key(plan.campaign, plan.step), document)
    crash_point("plan.written")
    for site in sorted(sites):
        _set_partitions(instance, StepId(plan.campaign, plan.step, site), [group.name for group in plan.at(site)])
    crash_point("plan.partitions")


def _set_partitions(instance: dg.DagsterInstance, step: StepId, names: Sequence[str]) -> None:
    existing = set(instance.get_dynamic_partitions(step.tag))
    new = [name for name in names if name not in existing]
    for i in range(0, len(new), _CHUNK):
        instance.add_dynamic_partitions(step.tag, new[i : i + _CHUNK])
    for name in sorted(existing - set(names)):
        instance.delete_dynamic_partition(step.tag, name)
