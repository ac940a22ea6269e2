"""Checks of the interpreter and of the packages, for ``cm doctor``; what a check says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from cm_dagster import zipguard
from cm_dagster.errors import CmError

__all__ = ["Finding", "apart", "check_interpreter", "check_packages", "check_programs"]

_PACKAGES = (
    "cm-dagster",
    "dagster",
    "dagster-webserver",
    "lsst-ctrl-bps",
    "lsst-ctrl-mpexec",
    "lsst-daf-butler",
    "lsst-pipe-base",
    "pydantic",
    "sqlalchemy",
)
_INSTALL = "install the package again: pip install cm-dagster"
_CHILD = "import zipfile; print(zipfile._SharedFile.seek.__module__)"
_PSYCOPG_3 = (2, 1)
"""Version of SQLAlchemy from which on a plain ``postgresql://`` means psycopg 3."""


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    check: str
    level: Literal["ok", "warn", "fail"]
    message: str
    advice: str = ""
    """What to do; empty where all is well."""

    def to_json(self) -> dict[str, str]:
        """Give it as JSON can hold it."""
        return {"check": self.check, "level": self.level, "message": self.message, "advice": self.advice}


def apart(name: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Make a check; one that breaks is a failure of its own, and the others go on.

    Parameters
    ----------
    name
        Name of the function that checks.
    check
        What makes the check.
    """
    try:
        return list(check())
    except Exception as error:
        label = name.removeprefix("check_").replace("_", " ")
        advice = (error.advice if isinstance(error, CmError) else "") or "see the message; other checks may explain it"
        return [Finding(label, "fail", f"the check itself failed: {type(error).__name__}: {error}", advice)]


def check_interpreter() -> Iterator[Finding]:
    """Check that this Python, and those that it starts, read quantum graphs rightly."""
    name = f"Python {sys.version.split()[0]} at {sys.executable}"
    if not zipguard.affected():
        yield Finding("interpreter", "ok", f"{name}; it reads quantum graphs rightly")
        return
    bug = f"{name} has the CPython bug gh-127847, which makes quantum graphs read wrongly"
    child = subprocess.run([sys.executable, "-c", _CHILD], capture_output=True, text=True, check=False)
    bare = [who for who, has in (("this process", zipguard.installed()), ("its children", _guarded(child))) if not has]
    if bare:
        advice = f"use Python >= 3.12.9 or >= 3.13.2; or {_INSTALL}, whose .pth file brings the guard into each process"
        yield Finding("interpreter", "fail", f"{bug}, and {' and '.join(bare)} lack the guard against it", advice)
    else:
        yield Finding("interpreter", "ok", f"{bug}; the guard against it is active, here and in child processes")


def _guarded(child: subprocess.CompletedProcess[str]) -> bool:
    return child.stdout.strip() == zipguard.__name__


def check_packages() -> Iterator[Finding]:
    """Check that the packages are there, and that SQLAlchemy's and PostgreSQL's drivers go together."""
    found, missing = [], []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        yield Finding("packages", "fail", f"not installed: {', '.join(missing)}", _INSTALL)
    yield Finding("packages", "ok", ", ".join(found))
    yield from _check_drivers()


def _check_drivers() -> Iterator[Finding]:
    if find_spec("dagster_postgres") is None:
        return
    release = tuple(int(part) for part in version("sqlalchemy").split(".")[:2])
    if release >= _PSYCOPG_3 and find_spec("psycopg") is None:
        text = f"SQLAlchemy {version('sqlalchemy')} takes postgresql:// for psycopg 3, which is not installed"
        yield Finding(
            "packages", "warn", text, "write `scheme: postgresql+psycopg2` in dagster.yaml, or install psycopg"
        )


def check_programs() -> Iterator[Finding]:
    """Check that the programs of a stack without set-up are beside the interpreter."""
    folder = Path(sys.executable).parent
    missing = [name for name in ("bps", "pipetask", "butler") if not (folder / name).is_file()]
    if missing:
        advice = f"{_INSTALL}; campaigns whose stack is set up by eups or a script do not need them"
        yield Finding("programs", "warn", f"not in {folder}: {', '.join(missing)}", advice)
    else:
        yield Finding("programs", "ok", f"bps, pipetask and butler are in {folder}")
