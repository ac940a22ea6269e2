"""Files that are replaced whole, or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from cm_dagster.services import batch_submit
from cm_dagster.services.shell import unwritable, write_text


def full(_: int) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, record = tmp_path / "a.txt", tmp_path / "a.json"
    write_text(text, "old")
    batch_submit.write_json(str(record), {"is": "old"})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(text, "new")
    with pytest.raises(OSError, match="No space left"):
        batch_submit.write_json(str(record), {"is": "new"})
    assert text.read_text() == "old"
    assert batch_submit.read_json(str(record)) == {"is": "old"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.txt"]


def test_a_folder_that_cannot_be_written_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert unwritable(tmp_path) == ""
    assert "No such file" in unwritable(tmp_path / "absent")
    monkeypatch.setattr(os, "fsync", full)
    assert "No space left" in unwritable(tmp_path)
    assert list(tmp_path.iterdir()) == []
