"""Room in a submit area."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from cm_dagster.plan.groups import Group
from cm_dagster.services.space import check_room, free_room, wanted_room

GROUPS = [Group(f"g{n}", "", 1, None, "", "here", datasets=1000) for n in range(10)]
MIB = 2**20


def disk(patch: pytest.MonkeyPatch, free: int, files: int = 10**9, *, limited: bool = True) -> None:
    told = SimpleNamespace(f_bavail=free // 4096, f_frsize=4096, f_files=10**9 * limited, f_favail=files * limited)
    patch.setattr(os, "statvfs", lambda _: told)


def test_a_full_disk_stops_the_step_and_says_how_much_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk(monkeypatch, 50 * MIB)
    room, inodes = check_room(tmp_path, GROUPS, 2)
    assert (room.met, inodes.met) == (False, True)
    assert room.note == "50 MiB free, and the step needs about 393 MiB"
    assert str(tmp_path) in room.advice


def test_a_disk_that_is_nearly_full_is_said_and_stops_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    disk(monkeypatch, 600 * MIB)
    (room, _) = check_room(tmp_path, GROUPS, 2)
    assert room.met
    assert room.note.startswith("little is left: 600 MiB free")
    disk(monkeypatch, 900 * MIB)
    assert check_room(tmp_path, GROUPS, 2)[0].note == ""


def test_files_run_out_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    disk(monkeypatch, 10**12, files=500)
    room, inodes = check_room(tmp_path, GROUPS[:1], 1)
    assert (room.met, inodes.met, inodes.kind) == (True, False, "inodes")
    disk(monkeypatch, 10**12, limited=False)  # a file system that makes inodes as it needs them
    assert [row.kind for row in check_room(tmp_path, GROUPS, 1)] == ["disk space"]


def test_a_small_step_needs_little(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    disk(monkeypatch, 250 * MIB, files=5000)
    assert [(row.met, row.note) for row in check_room(tmp_path, [Group("g", "", 0, 8, "")], 1)] == [(True, "")] * 2


def test_an_estimate_of_quanta_is_taken_before_a_guess() -> None:
    guessed, estimated = Group("g", "", 1, None, "", datasets=10_000), Group("g", "", 1, 100_000, "", datasets=10_000)
    assert wanted_room([estimated]).bytes > 9 * wanted_room([guessed]).bytes
    assert wanted_room([guessed], 10) == wanted_room([estimated])


def test_an_area_that_is_not_made_yet_is_looked_at_where_it_will_be(tmp_path: Path) -> None:
    assert free_room(tmp_path / "not" / "yet").bytes > 0


def test_what_cannot_be_looked_at_stops_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def away(_: object) -> None:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(os, "statvfs", away)
    (row,) = check_room(tmp_path, GROUPS, 1)
    assert row.met
    assert row.note == "not checked: [Errno 116] Stale file handle"
    (row,) = check_room(None, GROUPS, 1)
    assert (row.what, row.met) == ("submit area of here", True)
