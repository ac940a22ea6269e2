"""The groups of a step, as planned: a document in the store, and Dagster's partitions of the step's assets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property

import dagster as dg

from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import LedgerError
from cm_dagster.ledger import store
from cm_dagster.ledger.locks import one_writer
from cm_dagster.plan.groups import Group
from cm_dagster.plan.names import StepId

__all__ = ["Change", "Plan", "changed_plan", "load_plan", "load_plans", "replace_group", "save_lane", "save_plan"]

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
    remote: tuple[str, ...] = ()
    """Sites of the campaign that have a Butler of their own: data travel from the home site to them, and back."""
    lanes: tuple[str, ...] = ()
    """Sites that have made their groups, of a step that each site plans by itself; empty of any other step."""

    def at(self, site: str) -> tuple[Group, ...]:
        """Groups that a site processes."""
        return self._by_site.get(site, ())

    @property
    def sites(self) -> list[str]:
        """Sites that process any of the groups."""
        return sorted(self._by_site)

    @cached_property
    def _by_site(self) -> dict[str, tuple[Group, ...]]:
        found: dict[str, list[Group]] = {}
        for group in self.groups:
            found.setdefault(group.site, []).append(group)
        return {site: tuple(groups) for site, groups in found.items()}

    @cached_property
    def _by_name(self) -> dict[str, Group]:
        return {group.name: group for group in self.groups}

    def group(self, name: str) -> Group:
        """Look up a group.

        Raises
        ------
        LedgerError
            If the step has no such group.
        """
        if (found := self._by_name.get(name)) is not None:
            return found
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
        # A row of an older release lacks the last fields, which then have their defaults.
        groups = tuple(Group(**dict(zip(names, row, strict=False))) for row in document["groups"])
        further = {name: tuple(document.get(name, ())) for name in ("inputs", "split", "remote", "lanes")}
        plans[document["step"]] = Plan(campaign, document["step"], groups, **further)
    return plans


def save_plan(instance: dg.DagsterInstance, plan: Plan, *, begun: bool, sites: Iterable[str] = ()) -> bool:
    """Write a step's plan and make its partitions.

    Parameters
    ----------
    instance
        The Dagster instance.
    plan
        The plan.
    begun
        Whether any group of the step has an attempt; then the plan may not change any more.
    sites
        Sites of the campaign; those that have no group of the step have no partition of it either.

    Returns
    -------
    changed : `bool`
        False if the same plan was there already, whether or not groups of it were split or moved since.

    Raises
    ------
    LedgerError
        If another plan is there and groups of it have attempts, or were split.
    """
    with one_writer(instance, _key(plan.campaign, plan.step)):
        before = load_plan(instance, plan.campaign, plan.step)
        if before is not None and _original(before, plan.groups) == _original(before, before.groups):
            if begun or before.split:
                return False
            plan = replace(before, inputs=plan.inputs, remote=plan.remote)
        elif before is not None and (begun or before.split):
            raise LedgerError(
                f"the data of {plan.campaign}/{plan.step} would now be cut into other groups"
                f" ({len(before.groups)} before, {len(plan.groups)} now), but its groups have been submitted",
                advice="the step keeps its groups; put new data into a new step or campaign",
            )
        _write(instance, plan, {*plan.sites, *sites, *(before.sites if before else ())})
        return before != plan


def save_lane(instance: dg.DagsterInstance, plan: Plan, site: str, *, begun: bool) -> bool:
    """Write the groups of one site of a step that each site plans by itself, and make their partitions.

    Parameters
    ----------
    instance
        The Dagster instance.
    plan
        The plan, with the groups of this site alone.
    site
        The site.
    begun
        Whether any of its groups has an attempt; then they may not change any more.

    Returns
    -------
    changed : `bool`
        False if the same groups were there already.

    Raises
    ------
    LedgerError
        If the site has other groups, which have attempts or were split.
    """
    with one_writer(instance, _key(plan.campaign, plan.step)):
        before = load_plan(instance, plan.campaign, plan.step) or replace(plan, groups=(), lanes=())
        own = replace(before, groups=before.at(site))
        if site in before.lanes and _original(own, plan.groups) == _original(own, own.groups):
            if not begun:  # who wrote it may have died before its partitions were made
                _write(instance, before, {site})
            return False
        if begun or set(own.split) & {group.name for group in plan.groups}:
            raise LedgerError(
                f"the data of {plan.campaign}/{plan.step} at {site} would now be cut into other groups, but its groups"
                " have been submitted",
                advice="the step keeps its groups; put new data into a new step or campaign",
            )
        others = [group for group in before.groups if group.site != site]
        groups = tuple(sorted([*others, *plan.groups], key=lambda group: group.name))
        lanes = tuple(sorted({*before.lanes, site}))
        _write(instance, replace(before, groups=groups, inputs=plan.inputs, lanes=lanes), {site})
        return True


@contextmanager
def changed_plan(instance: dg.DagsterInstance, campaign: str, step: str) -> Iterator[Change]:
    """Change the plan of a step while nobody else does.

    Yields
    ------
    change
        The plan as it is; what its ``write`` is given takes its place.

    Raises
    ------
    LedgerError
        If the step is not planned.
    """
    with one_writer(instance, _key(campaign, step)):
        plan = load_plan(instance, campaign, step)
        if plan is None:
            raise LedgerError(f"{campaign}/{step} is not planned", advice="its inputs are to be made first")
        yield Change(plan, lambda now: _write(instance, now, {*plan.sites, *now.sites}))


@dataclass(frozen=True)
class Change:
    """A plan that nobody else changes now."""

    plan: Plan
    write: Callable[[Plan], None]
    """Writes another plan in its place, and makes its partitions those of the groups."""


def replace_group(instance: dg.DagsterInstance, plan: Plan, name: str, parts: Sequence[Group]) -> Plan:
    """Put parts of a group in its place; whoever calls makes sure that nothing of the group runs or is accepted.

    Parameters
    ----------
    instance
        The Dagster instance.
    plan
        The step's plan as far as known; what is written is made of the latest.
    name
        Name of the group.
    parts
        The parts, in order.

    Returns
    -------
    plan
        The step's new plan; doing it twice changes nothing.
    """
    with changed_plan(instance, plan.campaign, plan.step) as change:
        if name in change.plan.split:
            return change.plan
        groups = tuple(each for group in change.plan.groups for each in (parts if group.name == name else (group,)))
        revised = replace(change.plan, groups=groups, split=(*change.plan.split, name))
        change.write(revised)
        return revised


def _original(plan: Plan, groups: Iterable[Group]) -> list[Group]:
    """Leave out of groups those that a plan has split, and their parts; a group that was moved counts as it was cut."""
    kept = [group for group in groups if group.name not in plan.split and not group.name[-1].isalpha()]
    moved = {group.name for group in plan.groups if group.moved}
    return [replace(group, site="", first=1, moved=False) if group.name in moved else group for group in kept]


def _write(instance: dg.DagsterInstance, plan: Plan, sites: Iterable[str]) -> None:
    rows = [list(asdict(group).values()) for group in plan.groups]
    document = {
        "step": plan.step,
        "groups": rows,
        "inputs": list(plan.inputs),
        "split": list(plan.split),
        "remote": list(plan.remote),
        "lanes": list(plan.lanes),
    }
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
