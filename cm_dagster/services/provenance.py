"""What the provenance graph of a workflow says of its quanta: how each ended, and what it cost.

A workflow's final job writes the graph; all of it is read at once, which takes 0.3 ms per quantum.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["TaskQuanta", "Usage", "first_texts", "read_tasks"]

_MESSAGES = 3
"""Messages of exceptions that are kept for each task."""
_ERRORS = 20
"""Exceptions that are kept for each task."""
_LONGEST = 300
"""Characters of such a message."""
_LOGS = 3
"""Failed quanta of a task whose logs are read."""
_LINES = 30
"""Messages that are kept of such a log, the last ones."""
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
    log: tuple[str, ...] = ()
    """What the first quanta that failed have logged, warnings and worse alone, each message once."""
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
    nothing = _Left()
    return {label: _task_quanta(number, done.get(label, nothing)) for label, number in expected.items()}


@dataclass(frozen=True)
class _Left:
    """What the quanta of a task have left in a provenance graph."""

    quanta: Sequence[Mapping[str, Any]] = ()
    log: tuple[str, ...] = ()


def _read(path: Path) -> dict[str, _Left] | None:
    """Read a provenance graph; None if there is none that can be read."""
    from lsst.pipe.base.quantum_graph import ProvenanceQuantumGraphReader

    if not path.exists():
        return None
    try:
        with ProvenanceQuantumGraphReader.open(path) as reader:
            reader.read_quanta()
            graph = reader.graph
            nodes = graph.quantum_only_xgraph.nodes
            return {
                label: _Left([nodes[key] for key in ids.values()], _log(reader, nodes, list(ids.values())))
                for label, ids in graph.quanta_by_task.items()
            }
    except Exception:
        # A final job that was killed leaves part of a file, which fails in as many ways as there are formats inside.
        # Without it the registry's counts decide, and the final job that is run again writes it anew.
        return None


def _log(reader: Any, nodes: Mapping[Any, Mapping[str, Any]], keys: Iterable[Any]) -> tuple[str, ...]:
    """Read what the first quanta that failed have logged in their last attempts."""
    failed = list(islice((key for key in keys if _fate(nodes[key]) == "failed"), _LOGS))
    if not failed:
        return ()
    logs = [attempts[-1] for attempts in reader.fetch_logs(failed).values() if attempts and attempts[-1]]
    bad = [[each.message for each in log if each.levelno >= logging.WARNING][-_LINES:] for log in logs]
    return first_texts(_LOGS * _LINES, chain.from_iterable(bad))


def _task_quanta(expected: int, left: _Left) -> TaskQuanta:
    known = left.quanta
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
        messages=first_texts(_MESSAGES, (str(error.message) for error in errors if error.message)),
        errors=first_texts(_ERRORS, (f"{_kind(error)}: {error.message or ''}" for error in errors)),
        log=left.log,
        caveats=_caveats(quantum for quantum in known if _fate(quantum) == "succeeded"),
        usage=_usage(quantum["resource_usage"] for quantum in known),
    )


def _kind(error: Any) -> str:
    return error.type_name.rpartition(".")[2] if error else "unknown"


def first_texts(number: int, texts: Iterable[str]) -> tuple[str, ...]:
    """Give the first of some texts, cut to a length that can be kept, each once.

    Parameters
    ----------
    number
        How many at most.
    texts
        The texts.
    """
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
