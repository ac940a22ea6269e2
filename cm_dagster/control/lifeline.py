"""Life lines: locks by which it shows that the process of a run lives, or is gone; and clearing away what is over.

Dagster's default launcher does not notice when a worker dies together with its code server; the kernel does.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

import dagster as dg

from cm_dagster.control.site import Site
from cm_dagster.crashpoints import crash_point

__all__ = ["hold_life_line", "living", "tidy"]

_START = 60.0
"""Seconds within which the worker of a started run must hold its life line."""
_TIDY = 3600.0
"""Seconds between two times that a process clears away."""
_KEEP = 30 * 86400.0
"""Seconds for which the files of a batch are kept."""
_MOST = 500
"""Life lines, and batches, that are cleared away at one time: it keeps ticks short."""

_LOG = logging.getLogger(__name__)
_held: dict[Path, TextIO] = {}
_tidied: dict[Path, float] = {}
"""When this process has cleared a submit area; only a cache."""


def _life_line(site: Site, run_id: str) -> Path:
    return site.area / "_runs" / run_id


def hold_life_line(site: Site, run_id: str) -> None:
    """Hold a lock until this process ends, by which others see that it lives.

    Raises
    ------
    OSError
        If the submit area can't be written.
    """
    path = _life_line(site, run_id)
    if path in _held:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{run_id}")
    file = draft.open("a")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    draft.rename(path)  # now: nobody must meet it unlocked
    _held[path] = file


def _is_free(path: Path) -> bool:
    """Whether nobody holds a lock; raises `FileNotFoundError` if there is none."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_dead(site: Site, record: dg.RunRecord) -> bool:
    """Whether the worker of a started run is gone."""
    if record.dagster_run.status is not dg.DagsterRunStatus.STARTED:
        return False
    try:
        return _is_free(_life_line(site, record.dagster_run.run_id))
    except FileNotFoundError:
        return time.time() - (record.start_time or time.time()) > _START


def living(instance: dg.DagsterInstance, site: Site, records: Iterable[dg.RunRecord]) -> list[dg.RunRecord]:
    """Report runs whose worker died as failed, and give the others.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        The site whose workers they have.
    records
        Runs that are not over, of ops that hold a life line.
    """
    found = []
    for record in records:
        if not _is_dead(site, record):
            found.append(record)
            continue
        now = instance.get_run_by_id(record.dagster_run.run_id)
        if now and not now.is_finished:
            instance.report_run_failed(now, "Its process is gone. What it had to do is taken up by another run.")
            crash_point("queue.dead-reported")
    return found


def tidy(instance: dg.DagsterInstance, site: Site) -> None:
    """Remove the life lines of runs that are over, and the files of old batches; once an hour in each process."""
    now = time.time()
    if 0 <= now - _tidied.get(site.area, 0.0) < _TIDY:
        return
    _tidied[site.area] = now
    try:
        _clear_life_lines(instance, site.area / "_runs", now)
        _clear_batches(site.area / "_batches", now)
    except OSError as error:  # nothing depends on it
        _LOG.warning("the submit area is not cleared: %s", error)


def _is_draft(path: Path, now: float) -> bool:
    """Whether it is about to become a life line: whoever makes it must find it unlocked."""
    return path.name.startswith(".") and 0 <= now - path.stat().st_mtime < _START


def _clear_life_lines(instance: dg.DagsterInstance, folder: Path, now: float) -> None:
    if not folder.is_dir():
        return
    files = [path for path in sorted(folder.iterdir())[:_MOST] if not _is_draft(path, now) and _is_free(path)]
    ids = [path.name.removeprefix(".") for path in files]
    runs = instance.get_runs(dg.RunsFilter(run_ids=ids)) if ids else []
    going = {run.run_id for run in runs if not run.is_finished}
    for path, run_id in zip(files, ids, strict=True):
        if run_id not in going:
            path.unlink(missing_ok=True)
            crash_point("tidy.removed")


def _clear_batches(folder: Path, now: float) -> None:
    if not folder.is_dir():
        return
    # Their names begin with the time at which they were made.
    before = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now - _KEEP))
    for path in sorted(path for path in folder.iterdir() if path.name < before)[:_MOST]:
        shutil.rmtree(path, ignore_errors=True)
