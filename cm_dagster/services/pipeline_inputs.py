"""What a step's pipeline reads and does not make itself, as far as our own Python can read the pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cm_dagster.services.butler import ButlerService

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetType

__all__ = ["Reads", "UnreadablePipeline", "read_inputs", "types_read"]

_LONGEST = 300
"""Characters of a cause that are shown: importing tasks can fail with a page of text."""


class UnreadablePipeline(Exception):  # noqa: N818
    """The pipeline can't be read here: it is missing, or it is of a software stack that this Python lacks."""


@dataclass(frozen=True)
class Reads:
    """A dataset type that a pipeline reads from its inputs."""

    name: str
    dataset_type: DatasetType | None
    """As the pipeline and the repository see it; None where nothing tells its dimensions."""
    prerequisite: bool
    """Whether it is looked up for what is processed (calibrations, catalogues), and does not say what is."""
    optional: bool
    """Whether every task does without it."""


@dataclass(frozen=True)
class PipelineInputs:
    """What a pipeline reads from outside."""

    tasks: int
    """Number of tasks."""
    reads: tuple[Reads, ...]
    """By kind, then by name."""


def read_inputs(butler: Butler, uri: str) -> PipelineInputs:
    """Read what a pipeline reads from outside; this imports its tasks.

    Parameters
    ----------
    butler
        The repository, whose dataset types count.
    uri
        Path or URI, with ``#subset`` where only a part is meant.

    Raises
    ------
    UnreadablePipeline
        If it can't be read here. What Butler, its database or the network raise passes.
    """
    from lsst.daf.butler import MissingDatasetTypeError
    from lsst.resources import ResourcePath
    from sqlalchemy.exc import SQLAlchemyError

    try:
        # Looked for first: what reads pipelines takes a second to be imported.
        if not ResourcePath(uri.partition("#")[0]).exists():
            raise UnreadablePipeline("there is no such file where cm_dagster runs")
        graph = _graph(uri)
        try:
            graph.resolve(butler.registry)
        except MissingDatasetTypeError:  # a reference catalogue whose pixels only the repository could tell
            graph = _graph(uri)
            graph.resolve(butler.registry, visualization_only=True)
    except (SQLAlchemyError, UnreadablePipeline):
        raise
    except Exception as error:  # the tasks' own code runs here, and may raise anything
        text = " ".join(str(error).split())[:_LONGEST]
        raise UnreadablePipeline(f"{type(error).__name__}: {text}") from error
    reads = [_reads(graph, name, node) for name, node in graph.iter_overall_inputs()]
    return PipelineInputs(len(graph.tasks), tuple(sorted(reads, key=lambda one: (one.prerequisite, one.name))))


def types_read(butler: ButlerService, uri: str) -> tuple[str, ...] | None:
    """Name the dataset types that a pipeline reads from outside, prerequisites and what tasks are set up with too.

    Parameters
    ----------
    butler
        The repository, whose dataset types count.
    uri
        Path or URI, with ``#subset`` where only a part is meant.

    Returns
    -------
    types
        Names of whole dataset types, also where only a component is read; None if the pipeline can't be read here.

    Raises
    ------
    ButlerError
        If the repository can't be asked.
    """
    with butler.session(f"looking up what {uri} reads") as session:
        try:
            found = read_inputs(session, uri)
        except UnreadablePipeline:
            return None
    # The graph's nodes are whole types: a component that is read is told by the edge alone.
    return tuple(sorted(one.name for one in found.reads))


def _graph(uri: str) -> Any:
    from lsst.pipe.base import Pipeline

    return Pipeline.from_uri(uri).to_graph()


def _reads(graph: Any, name: str, node: Any) -> Reads:
    edges = graph.consuming_edges_of(name)
    tasks = [graph.tasks.get(edge.task_label) for edge in edges]
    least = [
        getattr(task.get_connections().allConnections.get(edge.connection_name), "minimum", 1)
        for task, edge in zip(tasks, edges, strict=True)
        if task is not None
    ]
    return Reads(
        name,
        None if node is None else node.dataset_type,
        prerequisite=bool(edges) and all(edge.is_prerequisite for edge in edges),
        optional=bool(least) and not any(least),
    )
