"""Plan a step: ask the Butler what there is, cut it into groups, and check that what the step requires is there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from cm_dagster.errors import NoInputsError, PlanError
from cm_dagster.plan.groups import Count, Group, Limits, expand, explicit_groups, found_groups, natural, whole_group
from cm_dagster.plan.names import part_names
from cm_dagster.plan.predicates import Row, Value, joined, span
from cm_dagster.services.butler import ButlerService, PipelineShape, Shape
from cm_dagster.spec.models import CampaignSpec, GroupBy

__all__ = ["Requirement", "check_requirements", "plan_groups", "split_group"]

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
    """Cut a step into groups.

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
        In order of submission; the same data give the same groups.

    Raises
    ------
    NoInputsError
        If there is nothing to process, or not all of the values that the file lists.
    PlanError
        If the groups cannot be written as predicates.
    ButlerError
        If an input collection is not there, or the repository cannot be asked.
    """
    butler.check_inputs(inputs)
    wheres = [spec.butler.where, spec.steps[step].where]
    by = spec.steps[step].group_by
    if by is None:
        return whole_group(wheres)
    limits = Limits(size=by.size, count=by.count, max_quanta=by.max_quanta)
    plan = _plan(spec, step, by, butler, inputs)
    if by.values is None:
        return found_groups(plan.shape.columns, plan.shape.governors, plan.found(), limits, wheres)
    listed = expand(by.values, integers=plan.shape.integers)
    return explicit_groups(plan.columns, plan.shape.governors, plan.listed(listed), listed, limits, wheres)


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

    def require_all(self, dataset: str) -> Requirement:
        """Find the values that have no dataset of a type."""
        columns, where = self.shape.columns, self.where
        listed = None if self.by.values is None else expand(self.by.values, integers=self.shape.integers)
        if listed is not None:
            columns, where = self.columns, joined(where, span(self.by.dimension, listed))
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
