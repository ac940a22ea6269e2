"""Claims hold between real processes, whatever becomes of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import pytest

from cm_dagster.ledger.claims import BusyError, Claims, all_claims
from cm_dagster.services.shell import write_text

_ROUNDS = 200
_RACER = """
import sys
from pathlib import Path
from cm_dagster.ledger.claims import BusyError, Claims
claims = Claims(Path(sys.argv[1]))
print("ready", flush=True)
for line in sys.stdin:
    number = int(line)
    try:
        won = claims.claim(number, sys.argv[2])
    except BusyError as error:
        won = False
    print(number, won, flush=True)
"""
_HOLDER = """
import subprocess, sys, time
from pathlib import Path
from cm_dagster.ledger.claims import Claims
with Claims(Path(sys.argv[1])).locked() as lock:
    if sys.argv[2] == "child":
        child = subprocess.Popen(["sleep", "60"], pass_fds=[lock], stdout=subprocess.DEVNULL)
        print(child.pid, flush=True)
    else:
        print("alone", flush=True)
    time.sleep(60)
"""


@contextmanager
def started(script: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", script, *args]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def stdin(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdin is not None
    return process.stdin


def race(racers: Sequence[subprocess.Popen[str]], number: int) -> list[str]:
    """Have all claim a number at once."""
    for racer in racers:
        stdin(racer).write(f"{number}\n")
    for racer in racers:
        stdin(racer).flush()
    return [line(racer).split()[1] for racer in racers]


def test_of_several_processes_that_claim_a_number_one_wins(tmp_path: Path) -> None:
    with ExitStack() as stack:
        racers = [stack.enter_context(started(_RACER, str(tmp_path), name)) for name in ("x", "y", "z")]
        assert [line(racer) for racer in racers] == ["ready"] * 3
        for number in range(1, _ROUNDS + 1):
            won = race(racers, number)
            assert won.count("True") == 1
            assert Claims(tmp_path).owners()[number] == "xyz"[won.index("True")]
    assert set(Claims(tmp_path).owners()) == set(range(1, _ROUNDS + 1))
    assert not [path for path in (tmp_path / "claims").iterdir() if path.name.startswith(".")]


def test_a_claim_belongs_to_its_run_for_ever(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    assert claims.claim(1, "mine")
    assert not claims.claim(1, "mine")
    with pytest.raises(BusyError, match="attempt 1 belongs to run mine"):
        Claims(tmp_path).claim(1, "yours")
    assert Claims(tmp_path).claim(2, "yours")
    assert claims.owners() == {1: "mine", 2: "yours"}
    assert 0 <= claims.age(1) < 60


def test_the_lock_is_freed_by_sigkill(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    with started(_HOLDER, str(tmp_path), "alone") as holder:
        assert line(holder) == "alone"
        with pytest.raises(BusyError, match="another process works on"), claims.locked():
            pass
        holder.kill()
        holder.wait()
        with claims.locked():
            pass


def test_a_child_that_inherited_the_lock_keeps_it(tmp_path: Path) -> None:
    """The process that talks to the WMS goes on when the one that started it is killed."""
    claims = Claims(tmp_path)
    with started(_HOLDER, str(tmp_path), "child") as holder:
        child = int(line(holder))
        holder.kill()
        holder.wait()
        try:
            with pytest.raises(BusyError), claims.locked():
                pass
        finally:
            subprocess.run(["kill", "-9", str(child)], check=True)
        for _ in range(500):
            if not Path(f"/proc/{child}/fd").exists() or not any(Path(f"/proc/{child}/fd").iterdir()):
                break
        with claims.locked():
            pass


def test_the_lock_excludes_within_a_process_too(tmp_path: Path) -> None:
    with Claims(tmp_path).locked(), pytest.raises(BusyError), Claims(tmp_path).locked():
        pass
    with Claims(tmp_path).locked():
        pass


def test_records(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    claims.claim(1, "mine")
    assert claims.recorded(1) is None
    claims.record(1, {"wms_id": "7"})
    claims.record(1, {"wms_id": "8"})
    assert Claims(tmp_path).recorded(1) == {"wms_id": "8"}
    assert claims.owners() == {1: "mine"}


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_text(path, "new")
    assert path.read_text() == "old"


def test_all_claims_of_a_step_are_read_and_nothing_is_made(tmp_path: Path) -> None:
    for group, number, owner in [("g0001", 2, "b"), ("g0000", 1, "a"), ("g0001", 10, "c"), ("g10000", 100, "d")]:
        claims = Claims(tmp_path / group)
        claims.claim(number, owner)
        claims.record(number, {"wms_id": "1"})
    (tmp_path / "g0002").mkdir()
    (tmp_path / "g0000/claims/.draft").write_text("x")
    (tmp_path / "chains.lock").touch()
    Claims(tmp_path / "not a group").claim(1, "e")
    before = sorted(tmp_path.rglob("*"))
    assert sorted(all_claims(tmp_path)) == [
        ("g0000", 1, "a"),
        ("g0001", 2, "b"),
        ("g0001", 10, "c"),
        ("g10000", 100, "d"),
    ]
    assert list(all_claims(tmp_path / "absent")) == []
    assert sorted(tmp_path.rglob("*")) == before
