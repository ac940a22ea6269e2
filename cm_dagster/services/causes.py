"""Why a submission or a job failed: the one sentence that a pilot needs, found in the logs.

``bps submit`` ends with "Generating quantum graph failed" for every fault of a pipeline, a query or a repository; the
cause is an exception at the end of another file, or an INFO line in the middle of it. Here that is looked up and, where
it is a known one, put into words with what to do about it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cm_dagster.errors import EmptyGraphError, NothingToDoError, SubmitError

__all__ = ["LoggedError", "job_cause", "last_exception", "passing_cause", "setup_cause", "stop_cause", "submit_cause"]

_TAIL = 400_000
"""Characters read of the end of a log; the end is where the cause is."""
_LONGEST = 600
"""Characters of a cause."""

_TRACEBACK = "Traceback (most recent call last):"
_RAISED = re.compile(r"(?P<kind>[A-Za-z_][\w.]*)(?:: ?(?P<message>.*))?")
_RECORD = re.compile(r"(?:[A-Z]+ \d{4}-\d\d-\d\dT|[\w.]+ [A-Z]+: |lsst\.[\w.]+ )")
_WRAPPERS = ("MPGraphExecutorError", "BpsSubprocessError")
"""Exceptions that say only that something failed; its own exception stands before."""
_USAGE = re.compile(r"^(?:\S+ [A-Z]+: )?Error: (?P<message>.+)$", re.MULTILINE)

_EMPTY = re.compile(r"QuantumGraph was empty|QuantumGraph contains no quanta")
_CHECKS = re.compile(r", in run_submission_checks$", re.MULTILINE)
"""A frame of the plugin's own check, before anything is made, that its WMS can take a workflow."""
_DROPPED = re.compile(r"Dropping task (?P<task>\S+) because no quanta remain(?: \((?P<why>[^)]*)\))?\.")
_NO_ROWS = re.compile(r"so QuantumGraph will be empty\.\n(?P<why>.*?)(?:\n?To reproduce this query|\Z)", re.DOTALL)


@dataclass(frozen=True)
class LoggedError:
    """An exception as a log shows it."""

    kind: str
    """Its class, with modules where the log has them."""
    message: str
    """What it said; may have several lines."""

    def __str__(self) -> str:
        name = self.kind.rpartition(".")[2]
        text = f"{name}: {' '.join(self.message.split())}" if self.message else name
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


@dataclass(frozen=True)
class _Known:
    """A cause that operators have met before."""

    pattern: str
    """Found in ``kind: message`` of the exception."""
    cause: str
    """In words; ``{0}``, ``{1}``: groups of the pattern."""
    advice: str
    transient: bool = False


_RETRY = "retry the group: each attempt has collections and folders of its own"
_QUERY = "correct the predicate of the campaign, the step or the group"
_DATABASE = "nothing to do if it comes back by itself; else ask who runs the database"

_KNOWN = (
    _Known(
        r"No space left on device|Disk quota exceeded",
        "no space is left on the disk of the submit area",
        "make room; it goes on by itself",
        transient=True,
    ),
    _Known(
        r"Config location \S+ does not exist\. \(given '([^']+)'",
        "the Butler repository {0!r} does not exist",
        "check the site's butler; a label needs DAF_BUTLER_REPOSITORIES in the site's env",
    ),
    _Known(
        r"FileNotFoundError: .*?'?([^\s']+\.ya?ml)'?",
        "the pipeline file {0} does not exist",
        "check the step's pipeline, and the package variables that the stack sets",
    ),
    _Known(
        r"Not all supplied labels .* extra labels: \{(.*)\}",
        "the pipeline has no task or subset {0}",
        "`pipetask build -p FILE --show subsets` lists what it has",
    ),
    _Known(r"InvalidQueryError: (.*)", "the Butler refuses the group's predicate: {0}", _QUERY),
    _Known(
        r"MissingCollectionError: No collection with name '([^']*)'",
        "the collection {0!r} does not exist",
        "materialize the step's inputs, or correct the campaign's input collections",
    ),
    _Known(
        r"MissingDatasetTypeError: (.*)",
        "the repository lacks a dataset type: {0}",
        "check the step's inputs: what makes this dataset type has not run, or its final job has not",
    ),
    _Known(r"Output run '([^']*)' already exists", "the RUN collection {0!r} exists already", _RETRY),
    _Known(
        r"Output CHAINED collection '([^']*)' exists and does not include",
        "the output chain {0!r} exists, with other inputs than the step's",
        _RETRY,
    ),
    _Known(
        r"cannot create directory '([^']*)': directory already exists",
        "the submit directory {0} exists already: an earlier try has left it",
        "submit again through cm, which gives each try its own",
    ),
    _Known(
        r"cannot create directory '([^']*)': (.*)",
        "the submit directory {0} cannot be made: {1}",
        "check the site's submit_area",
    ),
    _Known(
        r"No such option '?:? ?([^'\s]+)",
        "pipetask does not know the option {0}",
        "check the extra options in the bps sections, and the stack's version",
    ),
    _Known(
        r"A BpsConfig could not be loaded from other: (\S+)",
        "BPS cannot read the configuration {0}",
        "check the bps sections of the site and the campaign, and their includeConfigs",
    ),
    _Known(r"PermissionError: (.*)", "permission denied: {0}", "check the rights of the site's folders"),
    _Known(r"MemoryError", "the submitting process had too little memory", "make the groups smaller"),
    _Known(
        r"requires the btree_gist extension",
        "the repository's PostgreSQL database lacks the extension btree_gist",
        "have its administrator run CREATE EXTENSION btree_gist",
    ),
    _Known(r"database is locked", "the repository's database is locked by another process", _DATABASE, transient=True),
    _Known(
        r"OperationalError: (.*(?:no such table|unable to open|authentication failed|does not exist|readonly).*)",
        "the repository's database cannot be used: {0}",
        "check the repository's registry.db and the credentials of who submits",
    ),
    _Known(
        r"(?:OperationalError|InterfaceError|DBAPIError): (.*)",
        "the connection to the repository's database failed: {0}",
        _DATABASE,
        transient=True,
    ),
    _Known(
        r"(?:Connection\w*Error|ConnectTimeout|ReadTimeout|TimeoutError|BrokenPipeError|gaierror): ?(.*)",
        "a service could not be reached: {0}",
        "nothing to do if it comes back by itself",
        transient=True,
    ),
)
_IMPORT = r"Unable to import '([^']*)' \((.*)\)"
_NO_WMS = _Known(
    _IMPORT,
    "the WMS service class {0} cannot be imported in the stack: {1}",
    "check the site's wms.service; the stack must hold that plugin",
)
_NO_TASK = _Known(
    _IMPORT,
    "the pipeline names {0}, which cannot be imported in the stack: {1}",
    "check the pipeline, and the packages that the stack sets up",
)
_NO_MODULE = _Known(
    r"No module named '?([^'\s]+)'?", "the stack lacks the Python module {0}", "set up a stack that has it"
)

_SETUP = (
    _Known(r"RUBIN_EUPS_PATH", "RUBIN_EUPS_PATH is not set", "set it in the site's env: the folder with loadLSST.bash"),
    _Known(
        r"(\S*loadLSST\.bash): No such file or directory",
        "the stack is not there: no {0}",
        "check RUBIN_EUPS_PATH in the site's env, and that the file system is mounted",
    ),
    _Known(
        r"(?:setup: )?(?:Failed to setup|Product \S+ .*not found|No such tag)(.*)",
        "EUPS has not set up the campaign's stack:{0}",
        "check the campaign's stack.version: it must be installed at the site",
    ),
    _Known(
        r"(?:exec: )?([\w./-]+): (?:command )?not found",
        "{0} is not there after the stack was set up",
        "check the campaign's stack and the site's env",
    ),
)

_ENDS = {
    "TimeLimit": (
        "building the quantum graph took too long: {0}",
        "make the groups smaller, or raise the site's submit.timeout",
        False,
    ),
    "Stopped": ("the submission was stopped before anything was sent: {0}", "it can be submitted again", True),
    "NoRecord": ("the submit area cannot be written: {0}", "make room; it goes on by itself", True),
    "Killed": (
        "the submission died before anything was sent: {0}",
        "look for the out-of-memory killer on the submit host; fewer groups at once (submit.parallel) need less memory",
        False,
    ),
}


def last_exception(text: str) -> LoggedError | None:
    """Find the last exception whose traceback a log shows, and which is not just the news of another.

    Parameters
    ----------
    text
        The log.
    """
    found = _exceptions(text)
    telling = [error for error in found if error.kind.rpartition(".")[2] not in _WRAPPERS]
    return next(reversed(telling or found), None)


def _exceptions(text: str) -> list[LoggedError]:
    lines = text.splitlines()
    found: list[LoggedError] = []
    in_traceback = False
    for number, line in enumerate(lines):
        if line.endswith(_TRACEBACK):
            in_traceback = True
        elif in_traceback and line and not line[0].isspace():
            in_traceback = False
            if raised := _RAISED.fullmatch(line):
                more = _continuation(lines[number + 1 :])
                message = "\n".join([raised["message"] or "", *more]).strip()
                found.append(LoggedError(raised["kind"], message))
    return found


def _continuation(lines: list[str]) -> list[str]:
    """Lines that still belong to an exception's message: up to a blank one, a log record or another traceback."""
    more: list[str] = []
    for line in lines[:20]:
        if not line.strip() or _RECORD.match(line) or line.endswith(_TRACEBACK):
            break
        more.append(line)
    return more


def submit_cause(log: Path, submit_dir: Path) -> SubmitError:
    """Say why a ``bps submit`` failed.

    Parameters
    ----------
    log
        Its output.
    submit_dir
        Its submit directory, with ``quantumGraphGeneration.out`` if it came that far.

    Returns
    -------
    error
        `EmptyGraphError` or `NothingToDoError` where the quantum graph was empty, else `SubmitError`.
    """
    output, graph = _tail(log), _tail(submit_dir / "quantumGraphGeneration.out")
    if _EMPTY.search(graph):
        return _empty_graph(graph)
    raised = last_exception(graph)
    if raised is None and "Completed reading quantum graph" not in output:
        raised = _usage_error(graph)
    if raised is not None:
        return _explain(str(raised), (_NO_TASK, *_KNOWN, _NO_MODULE)) or SubmitError(
            f"building the quantum graph failed: {raised}", advice=f"see {submit_dir / 'quantumGraphGeneration.out'}"
        )
    raised = last_exception(output) or _usage_error(output)
    if raised is not None:
        if (known := _explain(str(raised), (_NO_WMS, *_KNOWN, _NO_MODULE))) is not None:
            return known
        if _CHECKS.search(output.rpartition(_TRACEBACK)[2]):  # the same group is sent once the WMS is well
            advice = "nothing to do if the WMS comes back by itself; else ask who runs it"
            return SubmitError(f"the WMS takes no workflows: {raised}", advice=advice, transient=True)
        return SubmitError(f"bps submit failed: {raised}", advice=f"see {log}")
    last = next((line for line in reversed(output.splitlines()) if line.strip()), "")
    what = f"its last line is {last.strip()[:_LONGEST]!r}" if last else "its log is empty or absent"
    return SubmitError(f"bps submit failed and did not say why: {what}", advice=f"see {log}")


def setup_cause(output: str) -> SubmitError:
    """Say why the set-up of a stack failed.

    Parameters
    ----------
    output
        Standard error of the script that sets it up.
    """
    if (raised := last_exception(output)) is not None:
        return _explain(str(raised), (_NO_MODULE,)) or SubmitError(
            f"BPS does not start in the campaign's stack: {raised}", advice="check the campaign's stack"
        )
    if (known := _explain(output, _SETUP)) is not None:
        return known
    last = next((line for line in reversed(output.splitlines()) if line.strip()), "no output")
    return SubmitError(
        f"the campaign's stack could not be set up: {last.strip()[:_LONGEST]}", advice="check the campaign's stack"
    )


def stop_cause(error: Mapping[str, str]) -> SubmitError | None:
    """Say why the batch submitter ended a group; None where the group's own log tells.

    Parameters
    ----------
    error
        ``type`` and ``message`` of the group's result.
    """
    if (known := _ENDS.get(error.get("type", ""))) is None:
        return None
    cause, advice, transient = known
    return SubmitError(cause.format(error.get("message", "")), advice=advice, transient=transient)


def passing_cause(cause: str) -> SubmitError | None:
    """Recognize a cause that passes by itself: a database or a service that is away, a full disk; None if it is none.

    Parameters
    ----------
    cause
        ``kind: message`` of an exception, as `job_cause` gives it.
    """
    known = _explain(cause, _KNOWN)
    return known if known is not None and known.transient else None


def job_cause(log: Path) -> str:
    """Say in one sentence why a job failed.

    Parameters
    ----------
    log
        The job's log; for WMSs with two, its standard error.
    """
    text = _tail(log)
    if (raised := last_exception(text) or _usage_error(text)) is not None:
        return str(raised)
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    return last.strip()[:_LONGEST] or "its log is empty or absent"


def _empty_graph(graph: str) -> SubmitError:
    """Tell a query that matches nothing from a group that is done."""
    drops = {drop["task"]: drop["why"] or "" for drop in _DROPPED.finditer(graph)}
    done = [task for task, why in drops.items() if "previously succeeded" in why]
    if done and all("previously succeeded" in why or "had no work" in why for why in drops.values()):
        return NothingToDoError(
            f"everything was done before: all quanta of {', '.join(sorted(done))} have succeeded",
            advice="accept the group with what exists",
        )
    rows = _NO_ROWS.search(graph)
    why = " ".join(rows["why"].split()) if rows else ""
    return EmptyGraphError(
        f"the quantum graph is empty: {why or 'the query matches nothing'}"[:_LONGEST],
        advice="check the group's predicate and the step's input collections",
    )


def _usage_error(text: str) -> LoggedError | None:
    """Find what a command said about its own command line."""
    found = [match["message"] for match in _USAGE.finditer(text)]
    return LoggedError("UsageError", found[-1]) if found else None


def _explain(text: str, table: tuple[_Known, ...]) -> SubmitError | None:
    for known in table:
        if found := re.search(known.pattern, text):
            cause = known.cause.format(*found.groups(default=""))
            return SubmitError(cause[:_LONGEST], advice=known.advice, transient=known.transient)
    return None


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - _TAIL))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""
