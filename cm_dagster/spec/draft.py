"""Write a campaign file for a pipeline, to be edited by a pilot."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import yaml

__all__ = ["DraftInput", "DraftStep", "draft_campaign", "group_by_line"]

_SIZES = {
    "tract": 1,
    "visit": 100,
    "exposure": 100,
    "group": 100,
    "day_obs": 1,
    "physical_filter": 1,
    "band": 1,
    "detector": 10,
}
"""Dimensions to group by, the best first, with the number of values in a group."""

_HEALPIX_SIZE = 100


@dataclass(frozen=True)
class DraftInput:
    """A dataset type that a step reads from outside of it."""

    name: str
    dimensions: frozenset[str]


@dataclass(frozen=True)
class DraftStep:
    """What a pipeline says about one of its steps."""

    name: str
    pipeline: str
    """``#subset``, or the path of a pipeline that is one step as a whole."""
    description: str = ""
    needs: tuple[str, ...] = ()
    dimensions: tuple[str, ...] = ()
    """Dimensions by which the step can be cut into groups."""
    inputs: tuple[DraftInput, ...] = ()
    """What it reads, without prerequisites such as calibrations."""


def draft_campaign(
    name: str,
    pipeline: str,
    steps: Sequence[DraftStep],
    *,
    repo: str | None,
    inputs: Sequence[str],
    output: str,
    site: str = "local",
) -> str:
    """Write a campaign file with all steps of a pipeline, and comments on what to look at.

    Parameters
    ----------
    name
        Name of the campaign.
    pipeline
        Path or URI of the pipeline, without ``#``.
    steps
        Its steps, each after those that it needs.
    repo
        Label or URI of the Butler repository; None for the site's own.
    inputs
        Input collections.
    output
        Output collection.
    site
        Site that runs the campaign.

    Returns
    -------
    text
        A file that `~cm_dagster.spec.load_campaign` takes as it is, where the names given are valid.
    """
    repository = f"  repo: {_yaml(repo)}" if repo else "  # repo: /repo/main   # by default the site's own"
    lines = [
        f"# Draft of a campaign, made from the steps of {' '.join(pipeline.split())}.",
        "# Look at each line, then: cm campaign validate FILE; cm plan CAMPAIGN shows the groups before anything runs.",
        f"campaign: {_yaml(name)}",
        'description: ""   # what the campaign is for',
        'ticket: ""   # e.g. DM-12345',
        "butler:",
        repository,
        f"  input: {_yaml(list(inputs))}",
        f"  output: {_yaml(output)}",
        "  # where: \"instrument='HSC' AND skymap='hsc_rings_v1'\"   # limits the data of all steps",
        f"pipeline: {_yaml(pipeline)}",
        f"sites: {_yaml(site)}",
        "defaults:",
        "  accept: {quanta: 1.0}   # least fraction of quanta that must succeed",
        "  retry: {max: 0}   # further attempts at a group by itself",
        "steps:",
    ]
    for step in steps:
        lines += _step_lines(step)
    return "\n".join(lines) + "\n"


def _step_lines(step: DraftStep) -> Iterable[str]:
    if step.description:
        yield f"  # {' '.join(step.description.split())}"
    yield f"  {_yaml(step.name)}:"
    yield f"    pipeline: {_yaml(step.pipeline)}"
    if step.needs:
        yield f"    needs: {_yaml(list(step.needs))}"
    yield f"    {group_by_line(step)}"


def group_by_line(step: DraftStep) -> str:
    """Choose how a step is cut into groups, as a line of the file; a comment if it is one group."""
    dimension, size = _dimension(step.dimensions)
    if not dimension:
        return "# one group: the step has no dimension to cut it by"
    fields: dict[str, object] = {"dimension": dimension}
    if dataset := _dataset(dimension, step.inputs):
        fields["dataset"] = dataset
    return f"group_by: {_yaml({**fields, 'size': size})}"


def _dimension(dimensions: Sequence[str]) -> tuple[str, int]:
    for name, size in _SIZES.items():
        if name in dimensions:
            return name, size
    pixels = [name for name in dimensions if re.fullmatch(r"(healpix|htm)\d+", name)]
    return (pixels[0], _HEALPIX_SIZE) if pixels else ("", 0)


def _dataset(dimension: str, inputs: Sequence[DraftInput]) -> str:
    """Choose the input whose data IDs say what there is to do, by preference ``raw``; empty if none does."""
    same = {"visit": {"visit", "exposure"}, "exposure": {"visit", "exposure"}}.get(dimension, {dimension})
    fitting = sorted(one.name for one in inputs if one.dimensions & same)
    return "raw" if "raw" in fitting else fitting[0] if fitting else ""


def _yaml(value: object) -> str:
    """Write a value as YAML in one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
