"""What the provenance graph of a workflow says of its quanta: how each ended, and what it cost.

A workflow's final job writes the graph; all of it is read at once, which takes 0.3 ms per quantum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["TaskQuanta", "Usage", "read_tasks"]

_MESSAGES = 3
"""Messages of exceptions that are kept for each task."""
_ERRORS = 20
"""Exceptions that are kept for each task."""
_LONGEST = 300
"""Characters of such a message."""
_MB = 1e6
"""Bytes of a megabyte."""


@dataclass(frozen=True)
class Usage:
    """What the quanta of a task have used; those that left no record do not count."""

    memory_max: float = 0.0
    """Largest memory of a process that ran one, in MB; with several quanta to a process, of all of them."""
    memory_median: float = 0.0
    """Median of the same, in MB."""
    time_max: float = 0.0
    """Longest time that one took, start of process and imports left out, in seconds."""
    time_median: float = 0.0
    """Median of the same, in seconds."""
    time_total: float = 0.0
    """Sum of the same, in seconds."""
    cpu_total: float = 0.0
    """CPU time of all, in seconds."""


@dataclass(frozen=True)
class TaskQuanta:
    """What became of the quanta of one task."""

    expected: int
    """Quanta in the predicted graph."""
    succeeded: int = 0
    failed: int = 0
    """Quanta that ran and failed."""
    blocked: int = 0
    """Quanta that could not run, because one that they need failed."""
    no_record: int = 0
    """Quanta that left nothing: never started, or killed. Their jobs are the WMS's affair, not the payload's."""
    exceptions: Mapping[str, int] = field(default_factory=dict)
    """Number of failed quanta by type of exception."""
    messages: tuple[str, ...] = ()
    """The first messages of exceptions, each once."""
    errors: tuple[str, ...] = ()
    """The first exceptions with their messages, e.g. ``ValueError: no stars``, each once."""
    caveats: Mapping[str, int] = field(default_factory=dict)
    """Number of quanta that succeeded with a caveat, by its name, e.g. ``NO_WORK``; a quantum may have several."""
    usage: Usage | None = None
    """What they used; None if no quantum left a record of it."""


def read_tasks(path: Path, expected: Mapping[str, int]) -> dict[str, TaskQuanta] | None:
    """Read what became of the quanta of each task.

    Parameters
    ----------
    path
        The provenance graph.
    expected
        Number of quanta in the predicted graph, by task label.

    Returns
    -------
    tasks
        What became of them, by task label; None if there is no graph, or none that can be read.
    """
    done = _read(path)
    if done is None:
        return None
    return {label: _task_quanta(number, done.get(label, ())) for label, number in expected.items()}


def _read(path: Path) -> dict[str, list[Mapping[str, Any]]] | None:
    """Read a provenance graph: for each task the information on its quanta; None if there is none that can be read."""
    from lsst.pipe.base.quantum_graph import ProvenanceQuantumGraphReader

    if not path.exists():
        return None
    try:
        with ProvenanceQuantumGraphReader.open(path) as reader:
            reader.read_quanta()
            graph = reader.graph
            nodes = graph.quantum_only_xgraph.nodes
            return {label: [nodes[key] for key in ids.values()] for label, ids in graph.quanta_by_task.items()}
    except Exception:
        # A final job that was killed leaves part of a file, which fails in as many ways as there are formats inside.
        # Without it the registry's counts decide, and the final job that is run again writes it anew.
        return None


def _task_quanta(expected: int, quanta: Iterable[Mapping[str, Any]]) -> TaskQuanta:
    known = list(quanta)
    states = Counter(_fate(quantum) for quantum in known)
    failures = [quantum["exception"] for quantum in known if _fate(quantum) == "failed"]
    errors = [error for error in failures if error]
    lost = expected - states.total()
    return TaskQuanta(
        expected,
        succeeded=states["succeeded"],
        failed=states["failed"],
        blocked=states["blocked"],
        no_record=states["no_record"] + lost,
        exceptions=dict(Counter(map(_kind, failures)).most_common()),
        messages=_first(_MESSAGES, (str(error.message) for error in errors if error.message)),
        errors=_first(_ERRORS, (f"{_kind(error)}: {error.message or ''}" for error in errors)),
        caveats=_caveats(quantum for quantum in known if _fate(quantum) == "succeeded"),
        usage=_usage(quantum["resource_usage"] for quantum in known),
    )


def _kind(error: Any) -> str:
    return error.type_name.rpartition(".")[2] if error else "unknown"


def _first(number: int, texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text[:_LONGEST] for text in texts))[:number]


def _caveats(quanta: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    found = (quantum["caveats"] for quantum in quanta)
    return dict(Counter(flag.name for flags in found if flags is not None for flag in flags).most_common())


def _usage(found: Iterable[Any]) -> Usage | None:
    usages = [usage for usage in found if usage is not None]
    if not usages:
        return None
    memory = [usage.memory / _MB for usage in usages]
    times = [usage.prep_time + usage.init_time + usage.run_time for usage in usages]
    return Usage(
        memory_max=max(memory),
        memory_median=median(memory),
        time_max=max(times),
        time_median=median(times),
        time_total=sum(times),
        cpu_total=sum(usage.run_time_cpu for usage in usages),
    )


def _fate(quantum: Mapping[str, Any]) -> str:
    """Tell what became of a quantum; one that never started is a failure without exception and resources there."""
    match quantum["status"].name:
        case "SUCCESSFUL" | "ABORTED_SUCCESS":
            return "succeeded"
        case "BLOCKED":
            return "blocked"
        case "FAILED" | "ABORTED" if quantum["exception"] is not None or quantum["resource_usage"] is not None:
            return "failed"
        case _:
            return "no_record"
