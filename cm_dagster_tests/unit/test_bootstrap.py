"""Which interpreter `tools/bootstrap` chooses, and what it does with what it finds."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import cm_dagster

ROOT = Path(cm_dagster.__file__).parents[1]


class Machine:
    """A machine with nothing but bash, and the fake interpreters that a test puts on it."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "a home"
        self.path = folder / "bin"
        self.project = folder / "a project"
        self.path.mkdir()
        self.home.mkdir()
        for tool in ("bash", "env", "dirname", "cat", "cksum", "sed", "mkdir", "rm", "mv", "grep"):
            (self.path / tool).symlink_to(shutil.which(tool) or pytest.fail(f"no {tool}"))
        shutil.copytree(ROOT / "tools", self.project / "tools", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "requirements", self.project / "requirements")
        shutil.copy(ROOT / "pyproject.toml", self.project)

    def python(self, where: Path, version: str) -> Path:
        """Put a command that answers as an interpreter of this version does."""
        return self.command(where, f'echo "{version} $0"')

    def command(self, where: Path, line: str) -> Path:
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(f"#!/bin/sh\n{line}\n")
        where.chmod(0o755)
        return where

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        variables = {"HOME": str(self.home), "PATH": str(self.path), **environment}
        command = [str(self.project / "tools/bootstrap"), *arguments]
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=60)

    def choice(self, **environment: str) -> str:
        return self.run("--which", **environment).stdout.strip()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_python_on_path(machine: Machine) -> None:
    python = machine.python(machine.path / "python3", "3.12.9")
    assert machine.choice() == f"3.12.9 {python}"


def test_old_python3_does_not_hide_a_newer_one(machine: Machine) -> None:
    machine.python(machine.path / "python3", "3.11.7")
    newer = machine.python(machine.path / "python3.13", "3.13.5")
    assert machine.choice() == f"3.13.5 {newer}"


def test_sound_release_is_preferred_to_one_with_the_zip_bug(machine: Machine) -> None:
    machine.python(machine.path / "python3.12", "3.12.8")
    sound = machine.python(machine.path / "python3.13", "3.13.2")
    assert machine.choice() == f"3.13.2 {sound}"


def test_release_with_wheels_is_preferred_to_a_newer_one(machine: Machine) -> None:
    machine.python(machine.path / "python3.14", "3.14.0")
    affected = machine.python(machine.path / "python3.12", "3.12.1")
    assert machine.choice() == f"3.12.1 {affected}"


def test_newer_release_is_used_if_it_is_the_only_one(machine: Machine) -> None:
    newer = machine.python(machine.path / "python3.14", "3.14.0")
    assert machine.choice() == f"3.14.0 {newer}"


def test_latest_patch_is_preferred(machine: Machine) -> None:
    machine.python(machine.home / ".pyenv/versions/3.12.9/bin/python3", "3.12.9")
    latest = machine.python(machine.home / ".pyenv/versions/3.12.11/bin/python3", "3.12.11")
    assert machine.choice() == f"3.12.11 {latest}"


def test_pyenv_folder_behind_shims_that_fail(machine: Machine) -> None:
    machine.command(machine.path / "python3.12", "echo 'pyenv: python3.12: command not found' >&2; exit 127")
    machine.python(machine.path / "python3", "3.11.7")
    python = machine.python(machine.home / ".pyenv/versions/3.12.1/bin/python3", "3.12.1")
    assert machine.choice() == f"3.12.1 {python}"


def test_second_command_of_a_name_is_tried_when_the_first_fails(machine: Machine, tmp_path: Path) -> None:
    machine.command(tmp_path / "shims/python3.12", "exit 127")
    python = machine.python(machine.path / "python3.12", "3.12.9")
    assert machine.choice(PATH=f"{tmp_path / 'shims'}:{machine.path}") == f"3.12.9 {python}"


def test_interpreter_that_uv_installed(machine: Machine) -> None:
    python = machine.python(machine.home / ".local/share/uv/python/cpython-3.12.9-linux/bin/python3", "3.12.9")
    assert machine.choice() == f"3.12.9 {python}"


def test_given_python_wins(machine: Machine, tmp_path: Path) -> None:
    machine.python(machine.path / "python3.12", "3.12.9")
    given = machine.python(tmp_path / "else where/python", "3.13.5")
    assert machine.choice(PYTHON=str(given)) == f"3.13.5 {given}"


@pytest.mark.parametrize(
    ("line", "words"),
    [("echo 3.11.7 /x", "is Python 3.11.7; 3.12 or newer is needed"), ("exit 1", "does not run")],
)
def test_unfit_given_python_is_refused(machine: Machine, tmp_path: Path, line: str, words: str) -> None:
    machine.python(machine.path / "python3.12", "3.12.9")
    given = machine.command(tmp_path / "given", line)
    done = machine.run(PYTHON=str(given))
    assert done.returncode == 1
    assert words in done.stderr
    assert not (machine.project / ".venv").exists()


def test_without_any_python_the_message_says_what_to_do(machine: Machine) -> None:
    machine.python(machine.path / "python3", "3.11.7")
    machine.command(machine.path / "uv", '[ "$1" = --version ] || { echo "no download" >&2; exit 1; }')
    done = machine.run()
    assert done.returncode == 1
    assert f"too old: 3.11.7 {machine.path / 'python3'}" in done.stderr
    assert "install Python 3.12 or 3.13" in done.stderr


def test_without_uv_and_pip_the_message_says_what_to_do(machine: Machine) -> None:
    machine.command(machine.path / "python3.12", '[ "$5" ] || exit 1; echo "3.12.9 $0"')
    machine.command(machine.path / "python3", 'case "$*" in *-m*) exit 1;; esac; echo "3.12.9 $0"')
    done = machine.run()
    assert done.returncode == 1
    assert "uv is needed" in done.stderr


# A uv that makes an environment of fakes and counts what it is asked.
FAKE_UV = """
echo "$*" >>"$HOME/uv.log"
case "$1 $2" in
"venv "*)
    for folder; do :; done
    mkdir -p "$folder/bin"
    printf '#!/bin/sh\\necho "3.12.9 /usr/bin/python3.12"\\n' >"$folder/bin/python"
    chmod +x "$folder/bin/python"
    ;;
"pip sync") [ ! -f "$HOME/killed" ] || kill -9 $PPID ;;
esac
"""


@pytest.fixture
def built(machine: Machine) -> Machine:
    machine.python(machine.path / "python3.12", "3.12.9")
    (machine.path / "chmod").symlink_to(shutil.which("chmod") or pytest.fail("no chmod"))
    machine.command(machine.path / "uv", FAKE_UV)
    assert machine.run().returncode == 0
    return machine


def calls(machine: Machine) -> list[str]:
    """What uv was asked since the last time."""
    log = machine.home / "uv.log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [" ".join(line.split()[:2]) for line in lines if line != "--version"]


def test_built_once(built: Machine) -> None:
    assert calls(built) == ["venv --quiet", "pip sync", "pip install"]
    assert built.run().returncode == 0
    assert calls(built) == []


def test_changed_requirements_are_installed_into_the_same_environment(built: Machine) -> None:
    calls(built)
    with (built.project / "requirements/dev.txt").open("a") as file:
        file.write("# another\n")
    assert built.run().returncode == 0
    assert calls(built) == ["pip sync", "pip install"]
    built.run()
    assert calls(built) == []


def test_killed_build_is_done_again_from_nothing(built: Machine) -> None:
    shutil.rmtree(built.project / ".venv")
    calls(built)
    (built.home / "killed").touch()
    assert built.run().returncode == -9
    (built.home / "killed").unlink()
    (built.project / ".venv/half").touch()
    calls(built)
    assert built.run().returncode == 0
    assert calls(built) == ["venv --quiet", "pip sync", "pip install"]
    assert not (built.project / ".venv/half").exists()


def test_another_given_python_builds_anew(built: Machine, tmp_path: Path) -> None:
    calls(built)
    given = built.python(tmp_path / "given", "3.12.10")
    assert built.run(PYTHON=str(given)).returncode == 0
    assert calls(built)[0] == "venv --quiet"


def test_moved_project_builds_anew(built: Machine) -> None:
    calls(built)
    built.project = built.project.rename(built.project.with_name("moved"))
    assert built.run().returncode == 0
    assert calls(built)[0] == "venv --quiet"


def test_interpreter_that_went_away_builds_anew(built: Machine) -> None:
    calls(built)
    built.command(built.project / ".venv/bin/python", "exit 127")
    assert built.run().returncode == 0
    assert calls(built)[0] == "venv --quiet"


def test_python_path_of_a_stack_does_not_leak_in(machine: Machine) -> None:
    python = machine.command(machine.path / "python3.12", '[ -z "$PYTHONPATH" ] && echo "3.12.9 $0"')
    assert machine.choice(PYTHONPATH=os.sep) == f"3.12.9 {python}"
