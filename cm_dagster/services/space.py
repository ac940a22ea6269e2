"""Room on the disk of a submit area: what is free, and what a step will need, roughly.

The estimate is for one attempt at each group. Measured on `bps submit` of step 1 of the mini pipeline to the embedded
WMS, all jobs done, with the provenance graph, on ext4: 8 quanta took 0.16 MB and 39 files, 384 quanta 3.6 MB and 885
files, which is 9 kB and 2.3 files per quantum. A quantum of a real pipeline logs more, and HTCondor writes up to four
files for each job, so about twice that is taken: it is to tell a disk that is nearly full from one that is not, no
more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cm_dagster.plan.groups import Group
from cm_dagster.services.input_report import InputRow

__all__ = ["Room", "check_room", "free_room", "wanted_room"]

_KIND = "disk space"
BYTES_PER_GROUP = 2**18
BYTES_PER_QUANTUM = 20 * 2**10
FILES_PER_GROUP = 50
FILES_PER_QUANTUM = 6
LEAST_BYTES = 100 * 2**20
"""Less than this free is a full disk, however small the step is."""
LEAST_FILES = 1000
ENOUGH = 2.0
"""Where less than so many times the estimate is free, it is said, and nothing is stopped."""


@dataclass(frozen=True)
class Room:
    """An amount of disk."""

    bytes: int
    files: int | None
    """Number of files (inodes); None where the file system has no limit of them."""


def free_room(folder: Path) -> Room:
    """Ask what is free where a folder is, or will be.

    Raises
    ------
    OSError
        If the file system does not answer.
    """
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    told = os.statvfs(place)
    return Room(told.f_bavail * told.f_frsize, told.f_favail if told.f_files else None)


def wanted_room(groups: Iterable[Group], quanta_per_dataset: int = 1) -> Room:
    """Estimate what one attempt at each of some groups leaves in the submit area.

    Parameters
    ----------
    groups
        The groups.
    quanta_per_dataset
        Number of quanta that a dataset of a group leads to, where the group's quanta were not estimated; the number of
        tasks is a fair guess.
    """
    size = files = 0
    for group in groups:
        quanta = group.datasets * quanta_per_dataset if group.quanta is None else group.quanta
        size += BYTES_PER_GROUP + quanta * BYTES_PER_QUANTUM
        files += FILES_PER_GROUP + quanta * FILES_PER_QUANTUM
    return Room(max(size, LEAST_BYTES), max(files, LEAST_FILES))


def check_room(folder: Path | None, groups: Sequence[Group], tasks: int) -> list[InputRow]:
    """Hold what is free in a submit area against what some groups will need there.

    Parameters
    ----------
    folder
        The submit area; None if it is that of another site, which can't be looked at from here.
    groups
        The groups.
    tasks
        Number of tasks of their pipeline: as many quanta as a dataset leads to.
    """
    if folder is None:
        site = groups[0].site if groups else "another site"
        return [InputRow(f"submit area of {site}", _KIND, "", "", "", note="not checked: it is at that site")]
    try:
        free = free_room(folder)
    except OSError as error:
        return [InputRow(str(folder), _KIND, "", "", "", note=f"not checked: {error}")]
    wanted = wanted_room(groups, tasks)
    rows = [_row(str(folder), _KIND, free.bytes, wanted.bytes, _size)]
    if free.files is not None:
        rows.append(_row(str(folder), "inodes", free.files, wanted.files or 0, str))
    return rows


def _row(folder: str, kind: str, free: int, wanted: int, words: Callable[[int], str]) -> InputRow:
    note = advice = ""
    if free < wanted:
        note = f"{words(free)} free, and the step needs about {words(wanted)}"
        advice = f"remove what is not needed any more below {folder}, or enlarge its disk"
    elif free < ENOUGH * wanted:
        note = f"little is left: {words(free)} free, and the step needs about {words(wanted)}"
    return InputRow(folder, kind, "", words(wanted), words(free), free >= wanted, note, advice)


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if number >= 10 or unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"
