"""Checks of a campaign file that look at more than one value; they take the file as it is, right or wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cm_dagster.plan.names import AttemptId, StepId, lane_name, site_output
from cm_dagster.spec.allotment import read_allotments
from cm_dagster.spec.bpscheck import bps_problems
from cm_dagster.spec.layout import Layout, StepPlace
from cm_dagster.spec.predicate import dimension_slip, parse_slip, predicate_slip
from cm_dagster.spec.problems import Path, Problem, list_of, nearest
from cm_dagster.spec.sites import Sites
from cm_dagster.spec.steps import graph_problems

__all__ = ["MAX_COLLECTION", "campaign_problems", "site_file_problems"]

MAX_COLLECTION = 64
"""Longest name of a collection that Butler's database takes, in characters (its COLLECTION_NAME_MAX_LENGTH)."""


def campaign_problems(data: Mapping[str, object], sites: Sites | None) -> Iterator[Problem]:
    """Find what is wrong between the values of a campaign file.

    Parameters
    ----------
    data
        The file's content.
    sites
        The known sites; None if they are not to be checked.
    """
    steps = _mapping(data.get("steps"))
    yield from _missing_steps(data)
    graph = list(graph_problems({name: _texts(_mapping(step).get("needs")) for name, step in steps.items()}))
    yield from graph or _layout(data, steps).problems()
    yield from _pipelines(data, steps)
    yield from _collections(data, steps)
    yield from _sites(data.get("sites"), sites)
    yield from _predicates(data, steps)
    yield from _dimensions(steps)
    yield from bps_problems(_bps_places(data, steps))


def site_file_problems(data: Mapping[str, object]) -> Iterator[Problem]:
    """Find what is wrong between the values of a site file."""
    sites = _mapping(data.get("sites"))
    for name, site in sites.items():
        yield from bps_problems({("sites", name, "bps"): _mapping(site).get("bps")})


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _texts(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _missing_steps(data: Mapping[str, object]) -> Iterator[Problem]:
    if not data.get("steps") and isinstance(data.get("steps", {}), dict | None):
        pipeline = data.get("pipeline")
        file = pipeline.partition("#")[0] if isinstance(pipeline, str) and pipeline else "FILE"
        draft = f"`cm campaign draft --pipeline '{file}'` writes those of the pipeline for you to edit"
        advice = f"the campaign's steps; {draft}"
        yield Problem(("steps",), "is empty" if "steps" in data else "is missing", advice)


def _pipelines(data: Mapping[str, object], steps: Mapping[str, object]) -> Iterator[Problem]:
    general = data.get("pipeline")
    for name, step in steps.items():
        own = _mapping(step).get("pipeline")
        if isinstance(own, str) and own.startswith("#") and isinstance(general, str) and "#" in general:
            path = ("steps", name, "pipeline")
            message = f"adds {own} to the campaign's pipeline, which has a # of its own ({general})"
            yield Problem(path, message, "a campaign's pipeline without #")


def _collections(data: Mapping[str, object], steps: Mapping[str, object]) -> Iterator[Problem]:
    """Check that the names which will be made fit into Butler's database, and that the output is not an input."""
    butler = _mapping(data.get("butler"))
    output = butler.get("output")
    if not isinstance(output, str):
        return
    if output in _texts(butler.get("input")):
        yield Problem(("butler", "output"), f"{output} is an input too", "a collection that is not read")
    names = [
        name
        for step in steps
        for place, site in enumerate(read_allotments(data.get("sites")))
        for name in (
            AttemptId(StepId("c", step, site), lane_name(0, 1, place), 99).run(output),
            site_output(output, StepId("c", step, site)),
        )
    ]
    longest = max(names, key=len, default="")
    if len(longest) > MAX_COLLECTION:
        shorter = len(output) - (len(longest) - MAX_COLLECTION)
        message = f"is too long: Butler takes collections of at most {MAX_COLLECTION} characters, and {longest} has "
        room = f"an output of at most {shorter} characters" if shorter > 0 else "shorter names of steps or sites"
        yield Problem(
            ("butler", "output"), f"{message}{len(longest)}", f"{room}{', or shorter names of steps' * (shorter > 0)}"
        )


def _layout(data: Mapping[str, object], steps: Mapping[str, object]) -> Layout:
    general = _mapping(data.get("defaults")).get("barrier")
    places = {}
    for name, content in steps.items():
        step = _mapping(content)
        by = _mapping(step.get("group_by"))
        sites = read_allotments(step["sites"]) if step.get("sites") else None
        barrier = str(step.get("barrier") or general or "all")
        by_data = "dataset" in by or "max_quanta" in by
        places[name] = StepPlace(_texts(step.get("needs")), sites, barrier, bool(by), by_data)
    return Layout(read_allotments(data.get("sites")), places)


def _sites(value: object, sites: Sites | None) -> Iterator[Problem]:
    if sites is None:
        return
    for place, name in enumerate(read_allotments(value)):
        if name not in sites.sites:
            path: Path = ("sites", place if isinstance(value, list) else name)
            near = nearest(name, sites.sites)
            known = f"one of {list_of(sites.sites)}"
            yield Problem(path[:1] if isinstance(value, str) else path, f"there is no site {name!r}", known, near)


def _predicates(data: Mapping[str, object], steps: Mapping[str, object]) -> Iterator[Problem]:
    places: dict[Path, object] = {("butler", "where"): _mapping(data.get("butler")).get("where")}
    places |= {("steps", name, "where"): _mapping(step).get("where") for name, step in steps.items()}
    places |= _site_predicates(("sites",), data.get("sites"))
    for name, step in steps.items():
        places |= _site_predicates(("steps", name, "sites"), _mapping(step).get("sites"))
    for path, text in places.items():
        if text == "":
            yield Problem(path, "is empty", "a predicate such as visit > 100, or no `where` at all")
        elif isinstance(text, str) and predicate_slip(text) is None and (found := parse_slip(text)):
            yield Problem(path, *found)


def _site_predicates(path: Path, sites: object) -> dict[Path, object]:
    return {(*path, name, "where"): _mapping(site).get("where") for name, site in _mapping(sites).items()}


def _dimensions(steps: Mapping[str, object]) -> Iterator[Problem]:
    for name, step in steps.items():
        dimension = _mapping(_mapping(step).get("group_by")).get("dimension")
        if isinstance(dimension, str) and (near := dimension_slip(dimension)):
            yield Problem(
                ("steps", name, "group_by", "dimension"), f"there is no dimension {dimension!r}", nearest=near
            )


def _bps_places(data: Mapping[str, object], steps: Mapping[str, object]) -> dict[Path, object]:
    places: dict[Path, object] = {
        ("bps",): data.get("bps"),
        ("defaults", "bps"): _mapping(data.get("defaults")).get("bps"),
    }
    places |= {("steps", name, "bps"): _mapping(step).get("bps") for name, step in steps.items()}
    return places
