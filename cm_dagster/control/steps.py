"""Where each campaign stands: its plans, what is collected, what may begin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import dagster as dg

from cm_dagster.ledger import campaigns, store
from cm_dagster.ledger.attempts import AttemptIndex
from cm_dagster.ledger.campaigns import Campaign
from cm_dagster.ledger.events import Metadata
from cm_dagster.ledger.plans import Plan, load_plan
from cm_dagster.plan.names import StepId

__all__ = [
    "Board",
    "Document",
    "accepted",
    "chained_key",
    "collected_key",
    "delivered_key",
    "inputs_key",
    "lane_key",
    "load_boards",
    "staged_key",
    "tell_of_plan",
]


@dataclass(frozen=True)
class Board:
    """Where a campaign stands."""

    campaign: Campaign
    plans: Mapping[str, Plan] = field(default_factory=dict)
    """Plans of the steps whose inputs are ready."""
    collected: frozenset[str] = frozenset()
    last_runs: Mapping[dg.AssetKey, str] = field(default_factory=dict)
    """The latest run that was to make the inputs of a step, or to collect it."""

    @property
    def name(self) -> str:
        """Name of the campaign."""
        return self.campaign.spec.campaign

    @property
    def active(self) -> list[str]:
        """Steps that are planned and not collected."""
        return [step for step in self.plans if step not in self.collected]

    def may_plan(self, also_collected: Iterable[str] = ()) -> list[str]:
        """Steps of which all that they need is collected, that are signed off, and not planned yet.

        Parameters
        ----------
        also_collected
            Steps to be taken for collected.
        """
        done = self.collected | set(also_collected)
        steps = self.campaign.spec.steps
        waiting = (name for name in self.campaign.spec.order() if name not in self.plans)
        waiting = (name for name in waiting if not self.campaign.spec.lanes(name))  # each site plans these by itself
        return [name for name in waiting if done.issuperset(steps[name].needs) and self.signed_off(name)]

    def lanes_left(self, step: str) -> list[str]:
        """Sites that have not made their groups of a step that each site plans by itself; none of any other step."""
        spec = self.campaign.spec
        if not spec.lanes(step) or step in self.collected:
            return []
        planned = self.plans[step].lanes if step in self.plans else ()
        return [site for site in spec.sites_of(step) if site not in planned]

    def signed_off(self, step: str) -> bool:
        """Whether a step has no gate, or a person has opened it."""
        return self.campaign.spec.steps[step].gate is None or step in self.campaign.signed


def inputs_key(campaign: str, step: str) -> dg.AssetKey:
    """Asset that stands for the checked inputs and the groups of a step."""
    return dg.AssetKey([campaign, step, "inputs"])


def collected_key(campaign: str, step: str) -> dg.AssetKey:
    """Asset that stands for the whole output of a step."""
    return dg.AssetKey([campaign, step, "collected"])


def chained_key(step: StepId) -> dg.AssetKey:
    """Asset that stands for a site's accepted groups being in the step's chain at the site."""
    return dg.AssetKey([*step.asset, "chained"])


def delivered_key(step: StepId) -> dg.AssetKey:
    """Asset that stands for a site's accepted groups being at the home site."""
    return dg.AssetKey([*step.asset, "delivered"])


def staged_key(step: StepId) -> dg.AssetKey:
    """Asset that stands for the inputs of a site's groups being at the site."""
    return dg.AssetKey([*step.asset, "staged"])


def lane_key(step: StepId) -> dg.AssetKey:
    """Asset that stands for the checked inputs and the groups of a step that each site plans by itself."""
    return dg.AssetKey([*step.asset, "inputs"])


def tell_of_plan(instance: dg.DagsterInstance, campaign: str, step: str, said: str, metadata: Metadata) -> None:
    """Have all processes read the plan of a step again, whose version is that of the step's inputs.

    Parameters
    ----------
    instance
        The Dagster instance.
    campaign, step
        The step.
    said
        What has changed, and why, for the page of the inputs.
    metadata
        More of that.
    """
    made = dg.AssetMaterialization(inputs_key(campaign, step), description=said, metadata=metadata)
    instance.report_runless_asset_event(made)


_PLANS: dict[tuple[str, str, str], tuple[int, Plan]] = {}
"""The latest plans, with when they were made: one is read again only when its ``inputs`` asset was made again."""


def load_boards(instance: dg.DagsterInstance, names: Iterable[str] | None = None) -> list[Board]:
    """Read where campaigns stand, all of them by default, in a few queries."""
    known = campaigns.load_all(instance)
    wanted = [campaigns.pick(known, name) for name in (known if names is None else names)]
    keys = {
        (each.spec.campaign, step, make): make(each.spec.campaign, step)
        for each in wanted
        for step in each.spec.steps
        for make in (inputs_key, collected_key)
    }
    records = instance.get_asset_records(list(keys.values())) if keys else []
    made = {r.asset_entry.asset_key: r.asset_entry.last_materialization_storage_id for r in records}
    runs = {r.asset_entry.asset_key: r.asset_entry.last_run_id for r in records if r.asset_entry.last_run_id}
    return [_board(instance, each, made, runs) for each in wanted]


def _board(
    instance: dg.DagsterInstance,
    campaign: Campaign,
    made: Mapping[dg.AssetKey, int | None],
    runs: Mapping[dg.AssetKey, str],
) -> Board:
    name = campaign.spec.campaign
    plans = {}
    for step in campaign.spec.order():
        version = made.get(inputs_key(name, step))
        plan = _plan(instance, name, step, version) if version else None
        if plan:
            plans[step] = plan
    collected = (step for step in campaign.spec.steps if made.get(collected_key(name, step)))
    own = {key: run_id for key, run_id in runs.items() if key.path[0] == name}
    return Board(campaign, plans, frozenset(collected), own)


def _plan(instance: dg.DagsterInstance, campaign: str, step: str, version: int) -> Plan | None:
    key = (instance.root_directory, campaign, step)
    known = _PLANS.get(key)
    if known is not None and known[0] == version:
        return known[1]
    plan = load_plan(instance, campaign, step)
    if plan is not None:
        _PLANS[key] = version, plan
    return plan


def accepted(index: AttemptIndex, step: StepId) -> dict[str, int]:
    """Number of the accepted attempt of each group of a step that has one, in group order."""
    return dict(sorted(index.accepted(step).items()))


class Document(StrEnum):
    """Documents that say of a step at a site what was done last; number of the attempt by group."""

    CHAINED = "chained"
    """Which accepted attempts are in the chain of the step at the site."""
    DELIVERED = "delivered"
    """Which of them are at the home site."""
    STAGED = "staged"
    """Of which groups the inputs are at the site; the number is that of the first attempt that reads them."""

    def key(self, step: StepId) -> str:
        """Key of the document of a step in the store."""
        return f"{self}/{step.tag}"

    def read(self, instance: dg.DagsterInstance, steps: Iterable[StepId]) -> dict[str, dict[str, int]]:
        """Read the documents of steps, by tag of the step; of which there is none are left out."""
        wanted = {self.key(step): step.tag for step in steps}
        return {wanted[key]: document for key, document in store.get_many(instance, wanted).items()}
