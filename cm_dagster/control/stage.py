"""Bringing the inputs of groups from the home site to the site that processes them, and chaining them there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import dagster as dg

from cm_dagster.control.astray import forget_astray
from cm_dagster.control.chain import one_writer
from cm_dagster.control.collect import step_runs
from cm_dagster.control.inputs import own_inputs
from cm_dagster.control.site import Site, home_repo
from cm_dagster.control.steps import Document
from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import CmError, LedgerError, NoInputsError, TransferError
from cm_dagster.ledger import campaigns, store
from cm_dagster.ledger.plans import Plan, load_plan, load_plans
from cm_dagster.plan.groups import Group
from cm_dagster.plan.names import StepId, step_input, step_output
from cm_dagster.services.butler import ButlerService
from cm_dagster.services.mover import Moved, Mover, Parcel, StageInputs
from cm_dagster.services.pipeline_inputs import types_read
from cm_dagster.spec import CampaignSpec

__all__ = ["chain_inputs", "remember", "stage"]


def stage(
    instance: dg.DagsterInstance,
    site: Site,
    mover: Mover,
    step: StepId,
    groups: Sequence[str],
    tell: Callable[[str, Moved], object],
) -> list[str]:
    """Bring the inputs of groups to their site; doing it twice brings nothing the second time.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        The site, which this process serves.
    mover
        How data travel.
    step
        The step at the site.
    groups
        Names of groups; those that are not at the site any more are left out.
    tell
        Is told of each group whose inputs are there.

    Returns
    -------
    groups
        Those whose inputs are there now.

    Raises
    ------
    LedgerError
        If the step is not planned.
    NoInputsError
        If the site lacks data that the groups read, and that do not travel: the campaign's own inputs.
    ButlerError, TransferError
        If the data can't be brought.
    """
    spec = campaigns.find(instance, step.campaign).spec
    plan = load_plan(instance, step.campaign, step.step)
    if plan is None:
        raise LedgerError(f"{step.tag} has no groups", advice="materialize its inputs first")
    chosen = [group for group in plan.at(site.name) if group.name in set(groups)]
    work = _Staging(instance, site, mover, spec, step)
    moved = []
    try:
        for group, arrived in work.bring(chosen):
            tell(group.name, arrived)
            crash_point("stage.logged")
            moved.append(group)
    finally:
        remember(instance, Document.STAGED, step, {group.name: group.first for group in moved})
    return [group.name for group in moved]


def remember(instance: dg.DagsterInstance, document: Document, step: StepId, numbers: dict[str, int]) -> None:
    """Add groups to a document of a step; of two writers at once one may forget, and does it again."""
    if numbers:
        before = document.read(instance, [step]).get(step.tag, {})
        store.put(instance, document.key(step), {**before, **numbers})
        crash_point("travel.remembered")
        forget_astray(instance, document, step, numbers)


@dataclass(frozen=True)
class _Staging:
    """One journey of inputs."""

    instance: dg.DagsterInstance
    site: Site
    mover: Mover
    spec: CampaignSpec
    step: StepId

    def bring(self, groups: Sequence[Group]) -> Iterator[tuple[Group, Moved]]:
        """Bring the inputs of groups, chain them, and check that all is there."""
        needs = tuple(step_output(self.spec.butler.output, need) for need in self.spec.steps[self.step.step].needs)
        home = ButlerService(home_repo(self.spec))
        try:
            arrived, error = self._fetch(home, needs, groups)
            crash_point("stage.moved")
            chain_inputs(self.instance, self.site, self.spec, self.step.step)
            crash_point("stage.chained")
            lacking: CmError | None = error
            for group in groups:
                if group.name in arrived:
                    try:
                        self._check(home, group)
                    except NoInputsError as found:  # of the one group; the others need not wait for it
                        lacking = lacking or found
                    else:
                        yield group, arrived[group.name]
            if lacking is not None:
                raise lacking
        finally:
            home.close()

    def _fetch(
        self, home: ButlerService, needs: Sequence[str], groups: Sequence[Group]
    ) -> tuple[dict[str, Moved], TransferError | None]:
        """Fetch what groups read of the outputs of other steps: what has come, and why the rest has not."""
        if not needs:  # it reads the campaign's own inputs alone, which do not travel
            return {group.name: Moved(group.name, 0, 0, ()) for group in groups}, None
        types = types_read(home, self.spec.pipeline_of(self.step.step))
        parcels = [Parcel(group.name, where=group.where) for group in groups]
        inputs = StageInputs(tuple(reversed(needs)), types)
        end = self.site.spec.transfer.timeout * 60.0
        arrived: dict[str, Moved] = {}
        try:
            for moved in self.mover.stage(home.repo, self.site.repo(self.spec), parcels, inputs, end):
                arrived[moved.name] = moved
        except TransferError as error:
            return arrived, error
        return arrived, None

    def _check(self, home: ButlerService, group: Group) -> None:
        """Compare what the group is cut by at both sites: the campaign's own inputs must be there already."""
        by = self.spec.steps[self.step.step].group_by
        if by is None or by.dataset is None:
            return
        chain = [step_input(self.spec.butler.output, self.step.step)]
        here = self.site.butler(self.spec).dataset_count(by.dataset, chain, group.where)
        there = home.dataset_count(by.dataset, chain, group.where)
        if here < there:
            raise NoInputsError(
                f"{self.site.name} has {here} of the {there} {by.dataset} that {group.name} of {self.step.step} reads",
                advice=f"bring them into {self.site.repo(self.spec)}; the outputs of other steps travel by themselves,"
                " the campaign's own inputs must be at each of its sites",
            )


def chain_inputs(instance: dg.DagsterInstance, site: Site, spec: CampaignSpec, step: str) -> list[str]:
    """Set the input chain of a step at a site that has its own Butler: what is there of the steps that it needs.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        The site.
    spec
        The campaign.
    step
        Name of the step.

    Returns
    -------
    children
        Collections in the chain, in order of search.

    Raises
    ------
    ButlerError
        If the campaign's own inputs are not at the site.
    """
    output = spec.butler.output
    butler = site.butler(spec)
    needs = spec.steps[step].needs
    plans = load_plans(instance, spec.campaign, needs)
    present = butler.below(output) if needs else {}
    runs = [run for need in reversed(needs) for run in _runs(instance, plans.get(need), output) if run in present]
    children = [*runs, *own_inputs(spec, step)]
    with one_writer(site.area, spec.campaign):
        butler.set_chain(step_input(output, step), children)
    return children


def _runs(instance: dg.DagsterInstance, plan: Plan | None, output: str) -> Iterable[str]:
    return step_runs(instance, plan, output) if plan else ()
