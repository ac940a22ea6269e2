"""The campaign file as pydantic models.

A model can be built from a file (see ``loading``) or from its own ``model_dump(mode="json")``, which is how a campaign
is kept in Dagster's storage; both give equal objects. Nothing here imports more than pydantic.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from cm_dagster.spec.allotment import Allotment, Allotments, shares_of
from cm_dagster.spec.fields import (
    BpsSettings,
    Collection,
    DatasetType,
    DimensionName,
    Model,
    Name,
    OutputCollection,
    Pipeline,
    Predicate,
    Quanta,
    ShellLines,
    StepName,
    Value,
    Wanted,
    slip,
)
from cm_dagster.spec.layout import Layout, StepPlace
from cm_dagster.spec.limits import Brake, CampaignLimits
from cm_dagster.spec.problems import Problem
from cm_dagster.spec.rules import Rule, Rules, joined
from cm_dagster.spec.steps import ancestors, graph_problems, merge, topological

__all__ = [
    "Accept",
    "ButlerInputs",
    "CampaignSpec",
    "GroupBy",
    "ResolvedSettings",
    "Retry",
    "StackSpec",
    "StepSettings",
    "StepSpec",
]


def _unique[T](values: list[T]) -> list[T]:
    """Refuse a list that names something twice."""
    for place, value in enumerate(values):
        if value in values[:place]:
            raise slip(Problem((), f"names {value} twice", "each once"))
    return values


class ButlerInputs(Model):
    """The data that a campaign starts from, and where its outputs go."""

    repo: str | None = Field(default=None, min_length=1)
    """Label or URI of the Butler repository; by default each site's own (`butler` in sites.yaml)."""
    input: Annotated[list[Collection], AfterValidator(_unique)] = Field(min_length=1)
    """Collections that the first steps read, searched in this order."""
    output: OutputCollection
    """Collection that the campaign makes: a chain of its steps' outputs, and the prefix of all its collections."""
    where: Predicate = ""
    """Butler predicate that limits the data of all steps, e.g. `instrument='HSC'`; by default no limit."""


class StackSpec(Model):
    """The LSST software that runs `bps submit`; it need not be that of cm_dagster itself."""

    version: str = ""
    """Version of the stack, e.g. `w_2026_43`; by default none. `setup: eups` needs it."""
    setup: Literal["none", "eups", "script"] = "none"
    """How the stack is set up before `bps submit`: `none` (the site has it at hand; the default), `eups` (the site's
    EUPS installation of `version`), or `script` (the lines of `script`)."""
    script: ShellLines = ""
    """Lines of bash that set the stack up, for `setup: script`; by default none."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.setup == "script" and not self.script.strip():
            raise slip(Problem((), "has no `script`, which `setup: script` needs", "the lines that set the stack up"))
        if self.script and self.setup != "script":
            raise slip(Problem((), f"has a `script`, which `setup: {self.setup}` does not use", "setup: script"))
        if self.setup == "eups" and not self.version:
            raise slip(Problem((), "has no `version`, which `setup: eups` needs", "e.g. version: w_2026_43"))
        return self


def _task(value: str) -> str:
    """Check the label of a task, or a pattern of labels."""
    if not re.fullmatch(r"[\w:.*?!\[\]-]+", value, re.ASCII):
        raise slip(
            Problem((), f"{value!r} cannot be the label of a task", "a label, e.g. isr, or a pattern such as c*")
        )
    return value


class Accept(Model):
    """What makes a group good enough to be accepted without a pilot."""

    quanta: Quanta = 1.0
    """Least fraction of a group's quanta that must have succeeded, 0 to 1; by default all (1.0)."""
    per_task: dict[Annotated[str, AfterValidator(_task)], Quanta] = Field(default={})
    """Least fraction of the quanta of single tasks that must have succeeded, 0 to 1, by label or pattern of labels,
    e.g. `{isr: 1.0, "calibrate*": 0.9}`: a label goes before patterns, and of these the strictest counts; by default
    none."""


class Retry(Model):
    """What is done by itself when an attempt fails."""

    max: int = Field(default=0, ge=0)
    """Number of further attempts at a group before it waits for a pilot; by default 0."""


class GroupBy(Model):
    """How a step's data are cut into groups; each group is one workflow."""

    dimension: DimensionName
    """Butler dimension whose values are shared out to groups, e.g. `visit` or `tract`."""
    dataset: DatasetType | None = None
    """Dataset type in the step's inputs whose data IDs count, e.g. `raw`; by default the dimension's own records."""
    values: Annotated[list[Value], AfterValidator(_unique)] | None = Field(default=None, min_length=1)
    """Values of the dimension: numbers, text, closed ranges such as `1..99`; by default those that the Butler holds."""
    size: int | None = Field(default=None, ge=1)
    """Most values in a group; by default no limit. Without size, count and max_quanta each value is a group."""
    count: int | None = Field(default=None, ge=1)
    """Number of groups; by default as many as the limits ask for. Not together with `size`."""
    max_quanta: int | None = Field(default=None, ge=1)
    """Most quanta in a group, as estimated from the number of datasets; by default no limit."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.size is not None and self.count is not None:
            raise slip(Problem((), "has both `size` and `count`", "one of them"))
        if self.values is not None and self.dataset is not None:
            raise slip(Problem((), "has both `values` and `dataset`", "`values`, or a query for `dataset`"))
        return self


class StepSettings(Model):
    """Settings of a step, or of all steps where they stand in `defaults`; a step's own come first."""

    accept: Accept | None = None
    """When a group is accepted; by default when all its quanta have succeeded."""
    retry: Retry | None = None
    """What is done by itself when an attempt fails; by default nothing."""
    requirements: dict[DatasetType, Wanted] | None = None
    """Datasets that the inputs must hold before the step starts, by dataset type: `all` (one for each data ID of the
    step's dimension), or a least number; by default none are required."""
    scouts: int | None = Field(default=None, ge=0)
    """Number of groups that go first and must be accepted before the others start; by default 0."""
    brake: Brake | None = None
    """When the step stops by itself at a site; by default as `brake: {}`."""
    rules: Rules | None = None
    """What is done by itself when an attempt fails in a known way, in order; by default only what cm_dagster ships. A
    step's own rules come before those in `defaults`, and all of these before those shipped (docs/recovery.md)."""
    bps: BpsSettings | None = None
    """BPS settings for the step's workflows, over those of the campaign; by default none."""
    barrier: Literal["all", "site"] | None = None
    """What the steps that need this one wait for: `all`, for every site (the default), or `site`: each site goes on to
    them with its own groups."""


class StepSpec(StepSettings):
    """A step: one pipeline on all its groups."""

    pipeline: Pipeline
    """Pipeline of the step: `#step1` is a subset of the campaign's pipeline, anything else a path or URI of its own."""
    needs: list[str] = Field(default=[])
    """Steps that must be complete before this one starts. It reads their outputs, and those of the steps that they
    need; by default none."""
    group_by: GroupBy | None = None
    """How the step is cut into groups; by default it is one group."""
    where: Predicate = ""
    """Butler predicate of this step, in addition to that of the campaign; by default no limit."""
    input: Annotated[list[Collection], AfterValidator(_unique)] = Field(default=[])
    """Collections that the step reads before all others; by default none."""
    sites: Allotments | None = None
    """Sites that process the step, in the same forms as those of the campaign, which they must be among, e.g.
    `sites: usdf` to pin it to a site; by default those of the campaign, with what each takes there."""
    gate: Literal["sign-off"] | None = None
    """`sign-off`: the step does not start before a pilot has said so; by default it starts when its `needs` are met."""


class ResolvedSettings(Model):
    """The settings that hold for a step, nothing left open."""

    accept: Accept = Accept()
    """When a group is accepted."""
    retry: Retry = Retry()
    """What is done by itself when an attempt fails."""
    rules: tuple[Rule, ...] = ()
    """Error rules: the step's own, then those of the campaign."""
    requirements: dict[str, int | Literal["all"]] = Field(default={})
    """Datasets that the inputs must hold before the step starts, by dataset type."""
    scouts: int = 0
    """Number of groups that go first."""
    brake: Brake = Brake()
    """When the step stops by itself at a site."""
    barrier: Literal["all", "site"] = "all"
    """Whether the steps that need it wait for all sites, or each site goes on to them with its own groups."""
    bps: dict[str, Any] = Field(default={})
    """BPS settings: those of the campaign, of its `defaults` and of the step, later ones over earlier ones."""


class CampaignSpec(Model):
    """A campaign: what is to be processed, with what, where and in which steps."""

    campaign: Name
    """Name of the campaign: a letter, then letters, digits and single underscores, at most 60."""
    description: str = ""
    """What the campaign is for, in a line; by default empty."""
    ticket: str = ""
    """Ticket that the campaign belongs to, e.g. `DM-12345`; by default none."""
    butler: ButlerInputs
    """The data that the campaign starts from, and where its outputs go."""
    stack: StackSpec = StackSpec()
    """The LSST software that runs `bps submit`; by default what the site has at hand."""
    pipeline: Pipeline
    """Path or URI of the pipeline, e.g. `${DRP_PIPE_DIR}/pipelines/HSC/DRP-RC2.yaml`."""
    sites: Allotments
    """Sites that process the campaign, with what each takes of every step: one name, a list for equal shares, or for
    each a share (any positive number, of which only the ratios count) or `{where: "tract < 100"}`: that site takes the
    values that its predicate selects, the first site of the file that does, and the others share the rest."""
    priority: int = 0
    """Campaigns of higher priority go first wherever there is not room for all; equals share it evenly; by default
    0."""
    limits: CampaignLimits = CampaignLimits()
    """How much of the campaign goes at the same time."""
    bps: BpsSettings = Field(default={})
    """BPS settings for all workflows, as in a BPS submit file; by default none."""
    defaults: StepSettings = StepSettings()
    """Settings of all steps that do not have their own."""
    steps: dict[StepName, StepSpec] = Field(min_length=1, max_length=500)
    """The steps by name, in the order in which they are shown."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        graph = list(graph_problems({name: step.needs for name, step in self.steps.items()}))
        for problem in graph or self._layout().problems():
            context = {"where": ".".join(map(str, problem.path)), "message": problem.message}
            raise PydanticCustomError("cm_graph", "{where}: {message}", context)
        return self

    def settings(self, step: str) -> ResolvedSettings:
        """Resolve the settings of a step: its own, else the campaign's defaults, else those of cm_dagster.

        A step's ``accept``, ``retry`` or ``brake`` takes the place of that in ``defaults``; ``requirements`` are
        merged key by key, ``bps`` at all depths.
        """
        own, general = self.steps[step], self.defaults
        return ResolvedSettings(
            accept=own.accept or general.accept or Accept(),
            retry=own.retry or general.retry or Retry(),
            rules=joined(own.rules or (), general.rules or ()),
            requirements={**(general.requirements or {}), **(own.requirements or {})},
            scouts=next((value for value in (own.scouts, general.scouts) if value is not None), 0),
            brake=own.brake or general.brake or Brake(),
            barrier=self._barrier(step),
            bps=merge(self.bps, general.bps or {}, own.bps or {}),
        )

    def pipeline_of(self, step: str) -> str:
        """Give the pipeline of a step as BPS takes it: path or URI, with ``#subset`` where it has one."""
        own = self.steps[step].pipeline
        return self.pipeline + own if own.startswith("#") else own

    def ancestors(self, step: str) -> list[str]:
        """List all steps that a step needs, directly or through others, in the order of `order`."""
        return ancestors(self._needs(), step)

    def order(self) -> list[str]:
        """List the steps so that each comes after those that it needs; otherwise as in the file."""
        return topological(self._needs())

    def where_of(self, step: str) -> str:
        """Give the predicate of a step: that of the campaign and its own, ``(a) AND (b)`` where there are both."""
        both = [where for where in (self.butler.where, self.steps[step].where) if where]
        return both[0] if len(both) == 1 else " AND ".join(f"({where})" for where in both)

    def sites_of(self, step: str) -> Mapping[str, Allotment]:
        """Give the sites of a step with what each takes: its own, else those of the campaign.

        A step in lanes has those of the steps that it needs; what each takes is then what it has made of these.
        """
        return self._layout().sites_of(step)

    def shares_of(self, step: str) -> dict[str, float]:
        """Give the shares of the sites of a step, without those that take what a predicate selects."""
        return shares_of(self.sites_of(step))

    def lanes(self, step: str) -> bool:
        """Say whether each site plans a step from its own outputs of the steps that it needs, without the others'.

        It does where all those steps have ``barrier: site``, and the campaign has more than one site.
        """
        return self._layout().lanes(step)

    def _barrier(self, step: str) -> Literal["all", "site"]:
        return self.steps[step].barrier or self.defaults.barrier or "all"

    def _layout(self) -> Layout:
        places = {}
        for name, step in self.steps.items():
            by = step.group_by
            by_data = by is not None and (by.dataset is not None or by.max_quanta is not None)
            places[name] = StepPlace(step.needs, step.sites, self._barrier(name), by is not None, by_data)
        return Layout(self.sites, places)

    def _needs(self) -> Mapping[str, list[str]]:
        return {name: step.needs for name, step in self.steps.items()}
