"""What ``pipetask report`` says of the quanta of a workflow: the other source, where a stack makes no provenance graph.

It reads the registry, and the logs of quanta that failed; so it knows nothing of memory and time, and of a workflow
whose final job did not run nothing at all.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from cm_dagster.services.provenance import TaskQuanta, first_texts

__all__ = ["REPORT", "read_report", "report_command"]

REPORT = "quanta-report.json"
"""Name of the report in a submit directory."""
_MESSAGES = 3
"""Messages of exceptions that are kept for each task."""
_ERRORS = 20
"""Exceptions, and other messages, that are kept for each task."""
_EXCEPTION = re.compile(r" failed\. Exception (?P<error>(?:\w+\.)*(?P<kind>\w+): ?(?P<message>.*))", re.DOTALL)
"""How the executor of a quantum logs the exception that ended it."""


def report_command(butler: str, graph: Path, report: Path) -> list[str]:
    """Give the command that makes a report; it changes nothing in the repository.

    Parameters
    ----------
    butler
        The repository, as the workflow's configuration has it.
    graph
        The workflow's predicted quantum graph.
    report
        The file that it writes.
    """
    return ["pipetask", "report", butler, str(graph), "--force-v2", "--full-output-filename", str(report)]


def read_report(path: Path, expected: Mapping[str, int]) -> dict[str, TaskQuanta] | None:
    """Read what became of the quanta of each task.

    Parameters
    ----------
    path
        The report.
    expected
        Number of quanta in the predicted graph, by task label.

    Returns
    -------
    tasks
        What became of them, by task label; None if there is no report, or none that can be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["tasks"]
        return {label: _task_quanta(number, found.get(label, {})) for label, number in expected.items()}
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
        # Part of a file, or that of a stack with another format: the registry's counts decide.
        return None


def _task_quanta(expected: int, found: Mapping[str, Any]) -> TaskQuanta:
    failures = found.get("failed_quanta", [])
    succeeded, blocked = int(found.get("n_successful", 0)), int(found.get("n_blocked", 0))
    told = list(chain.from_iterable(failure["messages"] for failure in failures))
    errors = [match for text in told if (match := _EXCEPTION.search(text))]
    return TaskQuanta(
        expected,
        succeeded=succeeded,
        failed=len(failures),
        blocked=blocked,
        # Never started, killed, or in a state that contradicts itself (wonky).
        no_record=expected - succeeded - len(failures) - blocked,
        exceptions=dict(Counter(_kinds(failures)).most_common()),
        messages=first_texts(_MESSAGES, (match["message"] for match in errors)),
        errors=first_texts(_ERRORS, (match["error"] for match in errors)),
        log=first_texts(_ERRORS, told),
        caveats=_caveats(found.get("caveats", {})),
    )


def _kinds(failures: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Give the type of the exception that ended each failed quantum."""
    for failure in failures:
        found = (match for text in failure["messages"] if (match := _EXCEPTION.search(text)))
        yield next((match["kind"] for match in found), "unknown")


def _caveats(found: Mapping[str, list[Any]]) -> dict[str, int]:
    """Count caveats by name; the report has them by a code of a letter for each."""
    from lsst.pipe.base import QuantumSuccessCaveats

    names = {flag.concise(): str(flag.name) for flag in QuantumSuccessCaveats if flag.concise()}
    counts: Counter[str] = Counter()
    for code, quanta in found.items():
        for letter in code:
            counts[names.get(letter, letter)] += len(quanta)
    return dict(counts.most_common())
