"""Read the steps of a pipeline, for drafts of campaign files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cm_dagster.errors import ServiceError
from cm_dagster.plan.names import NAME
from cm_dagster.spec.draft import DraftInput, DraftStep
from cm_dagster.spec.steps import ancestors, graph_problems, topological

__all__ = ["read_steps"]


def read_steps(pipeline: str, *, repo: str | None = None, subsets: Sequence[str] = ()) -> list[DraftStep]:
    """Read the steps that a pipeline declares, or those of its subsets that can be steps.

    Parameters
    ----------
    pipeline
        Path or URI of the pipeline, without ``#``.
    repo
        Butler repository whose dimensions and dataset types hold; None for the Butler's defaults, which are enough
        for a draft.
    subsets
        Subsets to make steps of, in place of what the pipeline declares.

    Returns
    -------
    steps
        The steps, each after those that it needs. A pipeline without steps and subsets is one step, called ``all``.

    Raises
    ------
    ServiceError
        If the pipeline or the repository cannot be read, or nothing tells which of its subsets are steps.
    """
    graph = _resolved_graph(pipeline, repo)
    labels = _labels(graph, pipeline, subsets)
    tasks = {label: sorted(graph.task_subsets[label]) for label in labels} or {"all": sorted(graph.tasks)}
    needs = _reduced(_needs(graph, tasks), pipeline)
    return [_step(graph, label, tasks[label], needs[label], "" if labels else pipeline) for label in topological(needs)]


def _resolved_graph(pipeline: str, repo: str | None) -> Any:
    """Read and resolve the pipeline graph; steps are known to be consistent after that."""
    from lsst.daf.butler import Butler, DimensionUniverse
    from lsst.pipe.base import Pipeline

    try:
        graph = Pipeline.fromFile(pipeline).to_graph()
    except Exception as error:  # tasks are imported and configured: anything may be raised
        advice = "is the path right, and are the pipeline's packages set up in this environment?"
        raise ServiceError(f"pipeline {pipeline} cannot be read: {_reason(error)}", advice=advice) from error
    try:
        if repo is None:
            graph.resolve(dimensions=DimensionUniverse(), dataset_types={})
        else:
            with Butler.from_config(repo, writeable=False) as butler:
                graph.resolve(butler.registry)
    except Exception as error:  # from configuration, database, dimensions, dataset types
        where = f" with the Butler repository {repo}" if repo else ""
        cause = f"pipeline {pipeline} does not fit together{where}: {_reason(error)}"
        raise ServiceError(cause, advice="try it without, or with another, repository") from error
    return graph


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def _labels(graph: Any, pipeline: str, subsets: Sequence[str]) -> list[str]:
    """Choose the subsets that are steps."""
    known = sorted(graph.task_subsets)
    if unknown := [label for label in subsets if label not in known]:
        cause = f"pipeline {pipeline} has no subset {', '.join(unknown)}"
        raise ServiceError(cause, advice=f"its subsets: {', '.join(known) or 'none'}")
    labels = list(subsets) or list(graph.steps)
    # Before steps could be declared, names told them from other subsets.
    labels = labels or [label for label in known if re.match(r"(step|stage)[-_]?\d", label)]
    labels = labels or (known if _disjoint(graph, known) else [])
    if known and not labels:
        cause = f"pipeline {pipeline} declares no steps, and its subsets overlap"
        raise ServiceError(cause, advice=f"name the subsets that are to be steps, of: {', '.join(known)}")
    return labels


def _disjoint(graph: Any, labels: Iterable[str]) -> bool:
    tasks = [task for label in labels for task in graph.task_subsets[label]]
    return len(tasks) == len(set(tasks))


def _needs(graph: Any, tasks: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Find for each step the other steps that make what it reads."""
    made = {label: {edge.parent_dataset_type_name for edge in _outputs(graph, tasks[label])} for label in tasks}
    needs: dict[str, list[str]] = {}
    for label in tasks:
        read = {edge.parent_dataset_type_name for edge in _inputs(graph, tasks[label])} - made[label]
        needs[label] = [other for other in tasks if other != label and made[other] & read]
    return needs


def _inputs(graph: Any, tasks: Sequence[str]) -> list[Any]:
    return [edge for task in tasks for edge in graph.tasks[task].iter_all_inputs()]


def _outputs(graph: Any, tasks: Sequence[str]) -> list[Any]:
    return [edge for task in tasks for edge in graph.tasks[task].iter_all_outputs()]


def _reduced(needs: Mapping[str, list[str]], pipeline: str) -> dict[str, list[str]]:
    """Leave out the steps that others of the needed ones need anyway."""
    if circles := [problem.message for problem in graph_problems(needs)]:
        cause = f"subsets of pipeline {pipeline} cannot all be steps: {'; '.join(circles)}"
        raise ServiceError(cause, advice="name other subsets as steps")
    before = {label: set(ancestors(needs, label)) for label in needs}
    return {
        label: [name for name in wanted if not any(name in before[other] for other in wanted)]
        for label, wanted in needs.items()
    }


def _step(graph: Any, label: str, tasks: Sequence[str], needs: Sequence[str], whole: str) -> DraftStep:
    made = {edge.parent_dataset_type_name for edge in _outputs(graph, tasks)}
    names = {edge.parent_dataset_type_name for edge in _inputs(graph, tasks) if not edge.is_prerequisite} - made
    return DraftStep(
        name=_name(label),
        pipeline=whole or f"#{label}",
        description="" if whole else graph.task_subsets[label].description or "",
        needs=tuple(map(_name, needs)),
        dimensions=_dimensions(graph, label, tasks, bool(whole)),
        inputs=tuple(DraftInput(one, frozenset(graph.dataset_types[one].dimensions.required)) for one in sorted(names)),
    )


def _name(label: str) -> str:
    """Turn a subset's label into a step's name."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", label).strip("_")
    return name if NAME.fullmatch(name) else f"step_{name}"[:60]


def _dimensions(graph: Any, label: str, tasks: Sequence[str], whole: bool) -> tuple[str, ...]:
    """Give the declared dimensions of a step, else those that all its tasks have in common."""
    if not whole and label in graph.steps:
        return tuple(graph.steps.get_dimensions(label).required)
    common = set.intersection(*(set(graph.tasks[task].dimensions.required) for task in tasks)) if tasks else set()
    return tuple(sorted(common))
