"""What the batch submitter takes for ``lsst.ctrl.bps``: submissions to the fake WMS, without quantum graphs.

The real batch submitter runs, in a process and a fork per group as ever; only what it imports from the campaign's stack
is this module. So the CPU of BPS itself is left out, as is that of its imports.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cm_dagster.testing.fakewms.store import HOME, FakeWms

__all__ = ["CpuFiles", "make_stack", "submit", "submit_driver"]

_TAKEN = f"import sys; from {__name__} import *; import {__name__}; sys.modules[__name__] = {__name__}\n"
_FILES = {
    "lsst/__init__.py": "",
    "lsst/ctrl/__init__.py": "",
    "lsst/ctrl/bps/__init__.py": "",
    "lsst/ctrl/bps/drivers.py": _TAKEN,
    "lsst/ctrl/bps/pre_transform.py": "",
    "lsst/daf/__init__.py": "",
    "lsst/daf/butler/__init__.py": "",
    "lsst/daf/butler/cli/__init__.py": "",
    "lsst/daf/butler/cli/cliLog.py": f"from {__name__} import CliLog\n",
}
_KEYS = ("uniqProcName", "submitPath", "outputRun", "operator")


def make_stack(root: Path) -> str:
    """Make a stack that has nothing but this.

    Parameters
    ----------
    root
        Its folder.

    Returns
    -------
    script
        The lines of a campaign's stack that set it up, for the submitting process alone.
    """
    for name, text in _FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    top = Path(__file__).parents[2]
    return f"export PYTHONPATH={root}:{top} PATH={Path(sys.executable).parent}:$PATH"


class CpuFiles:
    """CPU seconds of submitting processes, each of which leaves a file when it ends.

    Parameters
    ----------
    home
        Folder of the fake WMS.
    """

    def __init__(self, home: Path) -> None:
        self._folder = home / "cpu"

    def write(self) -> None:
        """Leave what this process has used, with its forks."""
        self._folder.mkdir(exist_ok=True)
        (self._folder / str(os.getpid())).write_text(str(sum(os.times()[:4])))

    def total(self) -> float:
        """Add up what all have left."""
        return sum(float(path.read_text()) for path in self._folder.glob("*"))


class CliLog:
    """In place of `lsst.daf.butler.cli.cliLog.CliLog`."""

    @staticmethod
    def initLog(**_: bool) -> None:  # noqa: N802  # the library's name
        """Set nothing up."""

    @staticmethod
    def setLogLevels(*_: object) -> None:  # noqa: N802
        """Set nothing up."""


def submit(config: dict[str, str], workflow: Any, **_: Any) -> Any:
    """Send a workflow, as `lsst.ctrl.bps.drivers.submit` does; the batch submitter puts its own in this place."""
    workflow.run_id = FakeWms(Path(os.environ[HOME])).submit(
        config["uniqProcName"],
        config["submitPath"],
        run=config["outputRun"],
        user=config["operator"],
        jobs={"work": 1},
    )
    return workflow


def submit_driver(path: str) -> None:
    """Do what `lsst.ctrl.bps.drivers.submit_driver` does, as far as files and messages go."""
    text = Path(path).read_text(encoding="utf-8")
    found = (re.search(rf"^ *{key}: (.*)$", text, re.MULTILINE) for key in _KEYS)
    config = dict(zip(_KEYS, (match[1] if match else "" for match in found), strict=True))
    folder = Path(config["submitPath"])
    folder.mkdir(parents=True)
    shutil.copy2(path, folder)
    workflow = submit(config, SimpleNamespace(run_id=None))
    sys.stdout.write(f"Submit dir: {folder}\nRun Id: {workflow.run_id}\nRun Name: {config['uniqProcName']}\n")


if "lsst.ctrl.bps" in sys.modules and HOME in os.environ:
    atexit.register(CpuFiles(Path(os.environ[HOME])).write)
