"""The guard against CPython bug gh-127847 (`cm_dagster.zipguard`)."""

import subprocess
import sys
from pathlib import Path

import pytest

import cm_dagster
from cm_dagster import zipguard

ROOT = Path(cm_dagster.__file__).parents[1]

# As a quantum graph is read: two members of an uncompressed zip in turn, with relative seeks.
READ_IN_TURN = """
import io, zipfile
buffer = io.BytesIO()
with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
    archive.writestr("a", b"a" * 100_000)
    archive.writestr("b", b"b" * 100_000)
with zipfile.ZipFile(buffer) as archive, archive.open("a") as a, archive.open("b") as b:
    a.read(10)
    b.read(10)
    a.seek(20_000, 1)
    print(a.read(10).decode())
"""


def run_bare(code: str) -> str:
    """Run code in this interpreter without the environment's ``.pth`` files, hence without the guard."""
    command = [sys.executable, "-I", "-S", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ((3, 11, 9), False),
        ((3, 12, 0), True),
        ((3, 12, 8), True),
        ((3, 12, 9), False),
        ((3, 13, 0), True),
        ((3, 13, 1), True),
        ((3, 13, 2), False),
        ((3, 14, 0), False),
    ],
)
def test_affected_releases(release: tuple[int, int, int], expected: bool) -> None:
    assert zipguard.affected((*release, "final", 0)) is expected


def test_the_bug_is_where_affected_says() -> None:
    assert (run_bare(READ_IN_TURN) != "a" * 10) is zipguard.affected()


def test_install_cures_the_interpreter() -> None:
    install = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from cm_dagster.zipguard import install"
    assert run_bare(f"{install}\ninstall()\ninstall()\n{READ_IN_TURN}") == "a" * 10


def test_install_leaves_a_sound_interpreter_alone() -> None:
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from cm_dagster import zipguard
zipguard.install.__globals__["affected"] = lambda: False
zipguard.install()
print("zipfile" in sys.modules, zipguard.installed())
"""
    assert run_bare(code) == "False False"


def test_guarded_seek_refuses_while_a_member_is_written() -> None:
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from cm_dagster import zipguard
zipguard.install()
import io, zipfile
with zipfile.ZipFile(io.BytesIO(), "w") as archive:
    archive.writestr("a", "a")
    member = archive.open("a")
    with archive.open("b", "w"):
        try:
            member.seek(0)
            member.read(1)
        except ValueError as error:
            print(error)
"""
    assert "open writing handle" in run_bare(code)


def test_every_process_of_the_environment_has_it() -> None:
    code = "from cm_dagster.zipguard import affected, installed; print(installed() is affected())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert (done.stdout.strip(), done.stderr) == ("True", "")


def test_environment_reads_in_turn() -> None:
    done = subprocess.run([sys.executable, "-c", READ_IN_TURN], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == "a" * 10
