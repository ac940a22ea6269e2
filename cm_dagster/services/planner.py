"""Plan a step: ask the Butler what there is, cut it into groups, and check that what the step requires is there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from cm_dagster.errors import NoInputsError, PlanError
from cm_dagster.plan.allocation import allocate
from cm_dagster.plan.division import REST, divide, in_turn, limits_of, site_predicates
from cm_dagster.plan.groups import Count, Group, Limits, expand, explicit_groups, found_groups, natural, whole_group
from cm_dagster.plan.names import lane_name, part_names
from cm_dagster.plan.predicates import Row, Value, joined, span
from cm_dagster.services.butler import ButlerService, PipelineShape, Shape
from cm_dagster.spec.models import CampaignSpec, GroupBy

__all__ = ["Requirement", "check_requirements", "plan_groups", "plan_lane", "split_group"]

_EXAMPLES = 5


@dataclass(frozen=True)
class Requirement:
    """What a step requires of a dataset type, and what there is."""

    dataset: str
    """Dataset type."""
    wanted: int
    """Least number of datasets; for ``all`` the number of values of the step's dimension that must have one."""
    found: int
    """Number of datasets, or of values that have one."""
    missing: tuple[str, ...] = ()
    """Some of the values that have none."""

    @property
    def met(self) -> bool:
        """Whether the requirement is met."""
        return self.found >= self.wanted

    def __str__(self) -> str:
        text = f"{self.dataset}: {self.found} of {self.wanted}"
        return f"{text}, none for {'; '.join(self.missing)}" if self.missing else text


def plan_groups(spec: CampaignSpec, step: str, butler: ButlerService, inputs: Sequence[str]) -> list[Group]:
    """Cut a step into groups and allot them to its sites.

    Sites with a ``where`` take the values that it selects, those with shares the others; a group never holds values of
    two. A step that is not cut goes to the site of the largest share.

    Parameters
    ----------
    spec
        The campaign.
    step
        Name of the step.
    butler
        The repository that holds the step's inputs.
    inputs
        The collections that the step will read, in order of search.

    Returns
    -------
    groups
        In order of submission, each with its site; the same data give the same groups.

    Raises
    ------
    NoInputsError
        If there is nothing to process, or not all of the values that the file lists, or values that no site takes.
    PlanError
        If the groups cannot be written as predicates, or those of sites divide a value.
    ButlerError
        If an input collection is not there, or the repository cannot be asked.
    """
    butler.check_inputs(inputs)
    by, shares = spec.steps[step].group_by, spec.shares_of(step)
    if by is None:
        (group,) = whole_group(_wheres(spec, step))
        return [replace(group, site=max(shares, key=lambda site: shares[site]))]
    plan = _plan(spec, step, by, butler, inputs)
    wheres = {site: one.where for site, one in spec.sites_of(step).items() if one.where}
    counts = plan.counted()
    if not wheres:
        return allocate(plan.cut(counts, plan.limits, _wheres(spec, step)), shares)
    predicates = site_predicates(wheres)
    taken = {site: plan.selected(where) for site, where in predicates.items()}
    parts = divide(plan.names, counts, taken, shared=bool(shares))
    made = []
    for site, part in parts.items():
        groups = plan.cut(part, limits_of(plan.limits, part, counts), [*_wheres(spec, step), predicates[site]])
        shared = site == REST and groups
        made.append(allocate(groups, shares) if shared else [replace(group, site=site) for group in groups])
    return in_turn(made)


def plan_lane(spec: CampaignSpec, step: str, site: str, butler: ButlerService, inputs: Sequence[str]) -> list[Group]:
    """Cut what a site has made of the steps before into groups of a step that it processes itself.

    Parameters
    ----------
    spec
        The campaign.
    step
        Name of the step, which is in lanes.
    site
        The site.
    butler
        The repository that holds the site's inputs of the step.
    inputs
        The collections that the site will read, in order of search.

    Returns
    -------
    groups
        In order of submission; no other site's groups of the step have any of their names, see
        `~cm_dagster.plan.names.lane_name`.

    Raises
    ------
    NoInputsError
        If there is nothing to process at the site.
    PlanError
        If the step is not cut, or the groups cannot be written as predicates.
    ButlerError
        If an input collection is not there, or the repository cannot be asked.
    """
    by = spec.steps[step].group_by
    if by is None:
        raise PlanError(f"{step} has no `group_by`, so that sites can't plan it each for itself")
    butler.check_inputs(inputs)
    plan = _plan(spec, step, by, butler, inputs)
    groups = plan.cut(plan.counted(), plan.limits, _wheres(spec, step))
    lane = list(spec.sites).index(site)
    return [replace(group, name=lane_name(at, len(groups), lane), site=site) for at, group in enumerate(groups)]


def _wheres(spec: CampaignSpec, step: str) -> list[str]:
    return [spec.butler.where, spec.steps[step].where]


def split_group(
    spec: CampaignSpec, step: str, butler: ButlerService, inputs: Sequence[str], group: Group, parts: int
) -> list[Group]:
    """Cut a group into parts of equal weight; together they select what the group does, and each selects its own.

    Parameters
    ----------
    spec
        The campaign.
    step
        Name of the step.
    butler
        The repository that holds the step's inputs.
    inputs
        The collections that the step reads, in order of search.
    group
        The group.
    parts
        Number of parts, at most 26.

    Raises
    ------
    NoInputsError
        If the group's data are not there any more.
    PlanError
        If there are not as many values as parts, or a part cannot be written as a predicate.
    ButlerError
        If an input collection is not there, or the repository cannot be asked.
    """
    by = spec.steps[step].group_by
    if by is None:
        raise PlanError(f"{group.name} can't be split: {step} has no `group_by`")
    butler.check_inputs(inputs)
    free = by.model_copy(update={"values": None})  # the group's predicate selects those of them that are meant
    plan = replace(_plan(spec, step, free, butler, inputs), where=group.where)
    counts = plan.found()
    if len(counts) < parts:
        what = f"{group.name} holds {len(counts)} values of {by.dimension}, which can't make {parts} parts"
        raise PlanError(what, advice="split it in fewer parts")
    made = found_groups(plan.shape.columns, plan.shape.governors, counts, Limits(count=parts), [group.where])
    names = part_names(group.name, len(made))
    return [replace(part, name=name, site=group.site) for part, name in zip(made, names, strict=True)]


def check_requirements(
    spec: CampaignSpec, step: str, butler: ButlerService, inputs: Sequence[str], unknown: Collection[str] = ()
) -> list[Requirement]:
    """Look up what a step requires of its inputs; the caller judges.

    Parameters
    ----------
    spec
        The campaign.
    step
        Name of the step.
    butler
        The repository that holds the step's inputs.
    inputs
        The collections that the step will read, in order of search.
    unknown
        Dataset types that the repository does not have: there are no datasets of them.

    Returns
    -------
    requirements
        One for each dataset type required, in the order of the file. ``all`` asks for at least one dataset for every
        value that the step is cut by; if it is cut by the very dataset type, for every value that the predicates
        select; in a step that is not cut, for one dataset.

    Raises
    ------
    ButlerError
        If an input collection or a dataset type is not there, or the repository cannot be asked.
    """
    required, by = spec.settings(step).requirements, spec.steps[step].group_by
    plan = _plan(spec, step, by, butler, inputs) if by is not None and "all" in required.values() else None
    result = []
    for dataset, wanted in required.items():
        if dataset in unknown or (wanted == "all" and plan is not None and plan.dataset in unknown):
            result.append(Requirement(dataset, 1 if wanted == "all" else wanted, 0))
        elif wanted == "all" and plan is not None:
            result.append(plan.require_all(dataset))
        else:
            found = butler.dataset_count(dataset, inputs, spec.where_of(step))
            result.append(Requirement(dataset, 1 if wanted == "all" else wanted, found))
    return result


def _plan(spec: CampaignSpec, step: str, by: GroupBy, butler: ButlerService, inputs: Sequence[str]) -> _Plan:
    work = None if by.max_quanta is None else butler.pipeline(spec.pipeline_of(step))
    return _Plan(by, butler, inputs, spec.where_of(step), butler.shape(by.dimension), work)


@dataclass(frozen=True)
class _Plan:
    """What is asked of a Butler to plan one step."""

    by: GroupBy
    butler: ButlerService
    inputs: Sequence[str]
    where: str
    shape: Shape
    work: PipelineShape | None
    """The step's pipeline, if quanta are to be estimated."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of listed values: a listed patch is meant in every tract."""
        return (*self.shape.columns[: self.shape.governors], self.by.dimension)

    @property
    def dataset(self) -> str | None:
        """Dataset type that says where there is work: the one named, else the pipeline's input of finest data IDs."""
        if self.by.dataset is not None or self.work is None:
            return self.by.dataset
        inputs = self.work.inputs
        return min(inputs, key=lambda name: (-len(inputs[name]), name), default=None)

    @property
    def limits(self) -> Limits:
        """How large groups may be."""
        return Limits(size=self.by.size, count=self.by.count, max_quanta=self.by.max_quanta)

    @property
    def values(self) -> list[Value] | None:
        """The values that the campaign file lists; None if they are to be found."""
        return None if self.by.values is None else expand(self.by.values, integers=self.shape.integers)

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of what `counted` gives."""
        return self.shape.columns if self.by.values is None else self.columns

    def counted(self) -> list[Count]:
        """Count what there is, for the values that are listed or found."""
        values = self.values
        return self.found() if values is None else self.listed(values)

    def selected(self, where: str) -> dict[Row, int]:
        """Count the datasets of each value that a predicate selects, beside those of campaign and step."""
        if self.by.values is not None and not self.shape.recorded and self.work is None:
            raise PlanError(
                f"the repository has no records of {self.by.dimension} that the `where` of a site could select",
                advice="give the step `sites` of its own with shares, or a `dataset` in place of `values`",
            )
        values = self.values
        listed = "" if values is None else span(self.by.dimension, values)
        found = self.butler.counts(self.names, self.dataset, self.inputs, joined(self.where, listed, where))
        return dict(found)

    def cut(self, counts: Sequence[Count], limits: Limits, wheres: Sequence[str]) -> list[Group]:
        """Cut what was counted into groups."""
        governors, values = self.shape.governors, self.values
        if values is None:
            return found_groups(self.names, governors, counts, limits, wheres)
        return explicit_groups(self.names, governors, counts, values, limits, wheres)

    def require_all(self, dataset: str) -> Requirement:
        """Find the values that have no dataset of a type."""
        columns, where, listed = self.names, self.where, self.values
        if listed is not None:
            where = joined(where, span(self.by.dimension, listed))
        reference = None if self.dataset == dataset else self.dataset
        wanted = {row for row, _ in self.butler.counts(columns, reference, self.inputs, where)}
        if listed is not None:
            wanted = {row for row in wanted if row[-1] in set(listed)}
        missing = wanted.difference(row for row, _ in self.butler.counts(columns, dataset, self.inputs, where))
        examples = tuple(_words(columns, row) for row in sorted(missing, key=natural)[:_EXAMPLES])
        return Requirement(dataset, len(wanted), len(wanted) - len(missing), examples)

    def found(self) -> list[Count]:
        """Find the values that have data."""
        counts = self._counts(self.shape.columns, self.where)
        if not counts:
            raise NoInputsError(f"nothing to process: {self._asked(self.where)} gives nothing", advice=self._advice())
        return counts

    def listed(self, values: Sequence[Value]) -> list[Count]:
        """Look up listed values; all must exist."""
        if not self.shape.recorded and self.work is None:
            return [Count((value,), 1) for value in values]
        # Asked for as one range where that is possible: SQLite takes at most 1000 listed values.
        wanted = dict.fromkeys(values)
        where = joined(self.where, span(self.by.dimension, values))
        counts = [count for count in self._counts(self.columns, where) if count.row[-1] in wanted]
        there = {count.row[-1] for count in counts}
        if absent := [value for value in values if value not in there]:
            names = ", ".join(map(str, absent[:_EXAMPLES])) + (", ..." if len(absent) > _EXAMPLES else "")
            raise NoInputsError(
                f"{len(absent)} of {len(values)} listed values of {self.by.dimension} are not there: {names};"
                f" asked for {self._asked(self.where)}",
                advice="correct `values` in `group_by`, or the predicates that exclude them",
            )
        return counts

    def _counts(self, columns: Sequence[str], where: str) -> list[Count]:
        counts = self.butler.counts(columns, self.dataset, self.inputs, where)
        if self.work is None:
            return [Count(row, datasets) for row, datasets in counts]
        quanta = self._quanta(columns, where, self.work.tasks)
        return [Count(row, datasets, quanta.get(row, 0)) for row, datasets in counts]

    def _quanta(self, columns: Sequence[str], where: str, tasks: Mapping[str, frozenset[str]]) -> dict[Row, int]:
        """Estimate quanta: each task has one for each of its data IDs that the inputs can lead to."""
        total: dict[Row, int] = {}
        dimensions = list(tasks.values())
        for own in sorted(set(dimensions), key=sorted):
            for row, number in self.butler.counts(columns, self.dataset, self.inputs, where, own or columns):
                total[row] = total.get(row, 0) + number * dimensions.count(own)
        return total

    def _asked(self, where: str) -> str:
        what = f"{self.by.dimension} with {self.dataset}" if self.dataset else self.by.dimension
        return f"{what} in {', '.join(self.inputs)} of {self.butler.repo} where {where or 'anything'}"

    def _advice(self) -> str:
        if self.dataset is None:
            return "check the predicates of the campaign and the step, and that the dimension has records"
        return (
            f"check that {self.dataset} is in these collections (`butler query-datasets`), the predicates of the"
            " campaign and the step, and, if a step before makes it, what that step gave"
        )


def _words(columns: Sequence[str], row: Row) -> str:
    return ", ".join(f"{column} {value}" for column, value in zip(columns, row, strict=True))
