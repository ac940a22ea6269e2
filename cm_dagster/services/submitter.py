"""Hand attempts to BPS at one site: write their files, run the submission in the campaign's stack, tell how each ended.

Every attempt ends with exactly one `SubmitResult`, whatever dies on the way. ``failed`` is said only where nothing was
sent to the WMS; where that is not certain it is ``unknown``, and the caller asks the WMS for the workflow's name.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import selectors
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from cm_dagster.errors import SubmitError
from cm_dagster.plan.names import AttemptId
from cm_dagster.plan.render import READY_LINE, TryPaths, submit_script
from cm_dagster.services.causes import passing_cause, setup_cause, stop_cause, submit_cause
from cm_dagster.services.shell import kill, spawn, unwritable, write_text
from cm_dagster.spec.models import StackSpec
from cm_dagster.spec.sites import SiteSpec

__all__ = ["Prepared", "SubmitOutcome", "SubmitResult", "Submitter", "next_try", "read_result"]

_BATCH_SCRIPT = Path(__file__).with_name("batch_submit.py")
_GRACE = 30.0
"""Seconds between asking a batch to stop and killing it; it needs 20 to let groups finish their talk with the WMS."""
_SET_UP = 600.0
"""Seconds that a stack may take to be set up and imported (CVMFS, cold)."""
_DUMPER: type[yaml.SafeDumper] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""That of libyaml, if PyYAML was built with it: it takes a tenth of the time."""
_WIDE = 2**20
"""Columns of a line: no value goes on in the next one."""
_TRY = re.compile(r"submit-(\d+)(?:\.log|\.json)?")


class SubmitOutcome(StrEnum):
    """How a submission ended."""

    SUBMITTED = "submitted"
    """The WMS gave an id."""
    FAILED = "failed"
    """Nothing was sent to the WMS."""
    UNKNOWN = "unknown"
    """Only a look-up at the WMS tells whether there is a workflow."""


@dataclass(frozen=True)
class SubmitResult:
    """How the submission of one attempt ended."""

    attempt: AttemptId
    outcome: SubmitOutcome
    wms_id: str | None = None
    """Id at the WMS, if submitted."""
    submit_dir: Path | None = None
    """BPS's submit directory of the try."""
    quanta: int | None = None
    """Quanta of the quantum graph, where known."""
    error: SubmitError | None = None
    """Why it failed; of an unknown one, what to report if the look-up finds no workflow."""
    cpu: float = 0.0
    """CPU seconds of this attempt alone; without its share of a batch's imports."""
    wall: float = 0.0
    """Seconds."""


@dataclass(frozen=True)
class Prepared:
    """An attempt whose files are written."""

    attempt: AttemptId
    paths: TryPaths
    stack: StackSpec
    pipeline: str
    """Imported once per batch."""


def _tries(folder: Path) -> list[int]:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted({int(match[1]) for name in names if (match := _TRY.fullmatch(name))})


def next_try(folder: Path) -> TryPaths:
    """Name the files of the next try of an attempt.

    Parameters
    ----------
    folder
        Folder of the attempt; need not exist.
    """
    return TryPaths(folder, max(_tries(folder), default=0) + 1)


def read_result(attempt: AttemptId, folder: Path) -> SubmitResult | None:
    """Say what the files of an attempt's latest try tell, after whoever ran it is gone.

    Call it only when no submission of the attempt runs any more (the lock that it inherited is free).

    Parameters
    ----------
    attempt
        The attempt.
    folder
        Its folder.

    Returns
    -------
    result
        None if no submission was ever begun.
    """
    tries = _tries(folder)
    if not tries:
        return None
    paths = TryPaths(folder, tries[-1])
    try:
        data = json.loads(paths.result.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return _read_log(attempt, paths, code=None)
    except ValueError as error:  # never by our writers, which replace it whole
        return SubmitResult(
            attempt,
            SubmitOutcome.UNKNOWN,
            submit_dir=paths.submit_dir,
            error=SubmitError(f"the result file {paths.result} is not JSON: {error}"),
        )
    return _from_record(attempt, paths, data)


def _from_record(attempt: AttemptId, paths: TryPaths, data: Mapping[str, Any]) -> SubmitResult:
    """Read a result of the batch submitter."""
    outcome = {True: SubmitOutcome.SUBMITTED, False: SubmitOutcome.FAILED}.get(data["ok"], SubmitOutcome.UNKNOWN)
    error: SubmitError | None = None
    if outcome is not SubmitOutcome.SUBMITTED:
        logged: Mapping[str, str] = data.get("error") or {}
        error = _logged_cause(logged, paths) if logged else _interrupted(data)
    return SubmitResult(
        attempt,
        outcome,
        wms_id=data.get("wms_id"),
        submit_dir=paths.submit_dir,
        quanta=data.get("quanta"),
        error=error,
        cpu=data.get("cpu", 0.0),
        wall=data.get("ended", data["started"]) - data["started"],
    )


def _logged_cause(logged: Mapping[str, str], paths: TryPaths) -> SubmitError:
    """Say why a group failed; on a full disk its log may be cut off, and only its last words tell."""
    if (stopped := stop_cause(logged)) is not None:
        return stopped
    found = submit_cause(paths.log, paths.submit_dir)
    last_words = f"{logged.get('type', '')}: {logged.get('message', '')}"
    return found if found.transient else passing_cause(last_words) or found


def _interrupted(data: Mapping[str, Any]) -> SubmitError:
    return SubmitError(
        f"the submission was interrupted while {data['phase']}",
        advice="it can be submitted again once the WMS is known not to have it",
        transient=True,
    )


def _read_log(attempt: AttemptId, paths: TryPaths, *, code: int | None, wall: float = 0.0) -> SubmitResult:
    """Read the log of a plain ``bps submit``; an unknown exit code means that it was interrupted."""
    text = paths.log.read_text(encoding="utf-8", errors="replace") if paths.log.exists() else ""
    wms_id = re.findall(r"^Run Id: (\S+)$", text, re.MULTILINE)
    if wms_id and wms_id[-1] != "None":
        return SubmitResult(attempt, SubmitOutcome.SUBMITTED, wms_id=wms_id[-1], submit_dir=paths.submit_dir, wall=wall)
    outcome = SubmitOutcome.UNKNOWN
    if READY_LINE not in text:
        error = setup_cause(text)
        outcome = SubmitOutcome.FAILED if code is not None else outcome
    else:
        error = submit_cause(paths.log, paths.submit_dir)
        # BPS says both lines itself, at its default log level. Without the first, no conclusion from the second.
        sent = "Starting submission process" not in text or "Starting submit stage" in text
        if code is not None and not sent:
            outcome = SubmitOutcome.FAILED
    return SubmitResult(attempt, outcome, submit_dir=paths.submit_dir, error=error, wall=wall)


class Submitter:
    """Submits attempts at one site.

    Parameters
    ----------
    site
        The site's settings.
    preload
        Modules that the batch submitter imports once for all groups, beside the WMS plugin and the pipelines' tasks.
    """

    def __init__(self, site: SiteSpec, preload: Sequence[str] = ()) -> None:
        self.site = site
        self.preload = [site.wms.service.rpartition(".")[0], *preload]
        self.timeout = site.submit.timeout * 60.0
        self.parallel = site.submit.parallel

    def prepare(self, attempt: AttemptId, config: Mapping[str, Any], paths: TryPaths, stack: StackSpec) -> Prepared:
        """Write the configuration and the script of a try.

        Parameters
        ----------
        attempt
            The attempt.
        config
            BPS configuration, see `cm_dagster.plan.render.bps_config`.
        paths
            Files of the try, see `next_try`.
        stack
            The campaign's stack.
        """
        paths.folder.mkdir(parents=True, exist_ok=True)
        write_text(paths.config, yaml.dump(dict(config), Dumper=_DUMPER, sort_keys=False, width=_WIDE))
        write_text(paths.script, self.script(stack, ["bps", "submit", str(paths.config)]))
        return Prepared(attempt, paths, stack, str(config["pipelineYaml"]))

    def submit(
        self,
        batch: Sequence[Prepared],
        *,
        pass_fds: Sequence[int] = (),
        meanwhile: Callable[[], object] = lambda: None,
    ) -> Iterator[SubmitResult]:
        """Submit attempts and yield how each ended, as it ends; each attempt exactly once.

        Parameters
        ----------
        batch
            What `prepare` gave.
        pass_fds
            File descriptors (locks) that the submitting processes keep open as long as one of them lives.
        meanwhile
            Is called about once a second while attempts are being submitted.

        Yields
        ------
        result
            Of one attempt, in the order in which they end.

        Raises
        ------
        OSError
            If files can't be written or no process can be started; of attempts without a result, their files tell.
        """
        with contextlib.closing(self._submit(batch, pass_fds, meanwhile)) as results:
            for result in results:
                yield self._unless_full(result)

    def _submit(
        self, batch: Sequence[Prepared], pass_fds: Sequence[int], meanwhile: Callable[[], object]
    ) -> Generator[SubmitResult]:
        if self.site.submit.method == "plain":
            yield from self._submit_plain(batch, pass_fds, meanwhile)
            return
        for _, same in itertools.groupby(sorted(batch, key=_stack_key), key=_stack_key):
            yield from self._submit_batch(list(same), pass_fds, meanwhile)

    def _unless_full(self, result: SubmitResult) -> SubmitResult:
        """Blame no attempt for what fails in as many ways as there are programs: a disk that can't be written."""
        passes = result.error is not None and result.error.transient
        if result.outcome is not SubmitOutcome.FAILED or passes or not (why := unwritable(self.site.submit_area)):
            return result
        advice = "make room, or mount it again; it goes on by itself"
        return replace(
            result, error=SubmitError(f"the submit area cannot be written: {why}", advice=advice, transient=True)
        )

    def script(self, stack: StackSpec, command: Sequence[str]) -> str:
        """Write a script that sets a stack up and runs a command in it."""
        # A stack that needs no set-up is the one that runs us.
        return submit_script(stack, self.site, command, path=[str(Path(sys.executable).parent)])

    # ------------------------------------------------------------------------------------------------ one by one

    def _submit_plain(
        self, batch: Sequence[Prepared], pass_fds: Sequence[int], meanwhile: Callable[[], object]
    ) -> Iterator[SubmitResult]:
        """Run ``bps submit`` for each attempt, some at a time."""
        waiting = list(reversed(batch))
        running: dict[int, tuple[Prepared, subprocess.Popen[bytes], float]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.parallel:
                    one = waiting.pop()
                    with one.paths.log.open("wb") as log:
                        process = spawn(one.paths.script, stdout=log, stderr=log, pass_fds=pass_fds)
                    running[process.pid] = (one, process, time.monotonic())
                for pid, (one, process, started) in list(running.items()):
                    wall = time.monotonic() - started
                    late = process.poll() is None and wall > self.timeout
                    if late:
                        kill(process)
                    if process.poll() is not None:
                        del running[pid]
                        result = _read_log(one.attempt, one.paths, code=process.returncode, wall=wall)
                        yield self._too_late(result) if late else result
                meanwhile()
                time.sleep(0.05)
        finally:
            for _, process, _ in running.values():
                kill(process)

    def _too_late(self, result: SubmitResult) -> SubmitResult:
        if result.outcome is SubmitOutcome.SUBMITTED:
            return result
        error = {"type": "TimeLimit", "message": f"not done after {self.timeout:.0f} s, and killed"}
        return replace(result, error=stop_cause(error))

    # ---------------------------------------------------------------------------------------------- as one batch

    def _submit_batch(
        self, batch: Sequence[Prepared], pass_fds: Sequence[int], meanwhile: Callable[[], object]
    ) -> Iterator[SubmitResult]:
        """Run the batch submitter for attempts of one stack."""
        folder = self._write_batch(batch)
        left = {one.attempt.workflow: one for one in batch}
        errors = folder / "batch.log"
        ready = False
        with errors.open("wb") as stderr:
            process = spawn(folder / "batch.sh", stdout=subprocess.PIPE, stderr=stderr, pass_fds=pass_fds)
        try:
            for event in _lines(process, time.monotonic() + self._deadline(len(batch)), meanwhile):
                ready = True
                if event["event"] == "group":
                    one = left.pop(event["name"])
                    yield _from_record(one.attempt, one.paths, event)
        finally:
            _stop(process)
        for one in left.values():
            yield self._left_over(one, errors, ready)

    def _write_batch(self, batch: Sequence[Prepared]) -> Path:
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        folder = self.site.submit_area / "_batches" / f"{stamp}-{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        manifest = {
            "parallel": self.parallel,
            "timeout": self.timeout,
            "preload": self.preload,
            "pipelines": sorted({one.pipeline for one in batch}),
            "groups": [
                {
                    "name": one.attempt.workflow,
                    "config": str(one.paths.config),
                    "log": str(one.paths.log),
                    "result": str(one.paths.result),
                }
                for one in batch
            ],
        }
        write_text(folder / "manifest.json", json.dumps(manifest, indent=1))
        command = ["python", str(_BATCH_SCRIPT), str(folder / "manifest.json")]
        write_text(folder / "batch.sh", self.script(batch[0].stack, command))
        return folder

    def _deadline(self, groups: int) -> float:
        """Seconds that a batch may take in all: no more than if each of its groups used its time."""
        return _SET_UP + self.timeout * -(-groups // self.parallel) + _GRACE

    def _left_over(self, one: Prepared, errors: Path, ready: bool) -> SubmitResult:
        """Judge an attempt of which the batch, which is dead, said nothing."""
        if one.paths.result.exists():
            found = read_result(one.attempt, one.paths.folder)
            if found is not None:
                return found
        if ready:
            error = SubmitError(
                "the batch submitter died before it began this group",
                advice=f"it can be submitted again; see {errors}",
                transient=True,
            )
        else:
            error = setup_cause(errors.read_text(encoding="utf-8", errors="replace"))
        return SubmitResult(one.attempt, SubmitOutcome.FAILED, error=error)


def _stack_key(one: Prepared) -> str:
    return one.stack.model_dump_json()


def _lines(
    process: subprocess.Popen[bytes], deadline: float, meanwhile: Callable[[], object]
) -> Iterator[dict[str, Any]]:
    """Yield the JSON lines that a process prints, until it closes its output or the deadline passes."""
    assert process.stdout is not None
    buffer = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if not selector.select(min(left, 1.0)):
                meanwhile()
                continue
            if not (chunk := os.read(process.stdout.fileno(), 65536)):
                return
            *lines, buffer = (buffer + chunk).split(b"\n")
            yield from (json.loads(line) for line in lines if line.startswith(b"{"))


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a batch to stop, and make sure that nothing of it goes on."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        if process.poll() is None and process.stdout is not None and not process.stdout.closed:
            process.terminate()
        process.wait(_GRACE)
    kill(process)
    if process.stdout is not None:
        process.stdout.close()
