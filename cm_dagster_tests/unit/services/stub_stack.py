"""A stack in which `bps submit` does what a test says, so that it can die at any point; no LSST code in it."""

from __future__ import annotations

import textwrap
from pathlib import Path

__all__ = ["make_stack"]

_DRIVERS = """
import os, signal, sys, time
from pathlib import Path

SENT = Path(os.environ["STUB_SENT"])


class Workflow:
    run_id = None


def submit(config, workflow, **kwargs):
    with SENT.open("a") as stream:
        stream.write(config["name"] + "\\n")
    act(config["sending"])
    workflow.run_id = None if config["sending"] == "no id" else "id-" + config["name"]
    return workflow


def act(what):
    if what == "fail":
        raise RuntimeError("told to fail")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "sleep":
        time.sleep(60)
    if what == "full":
        raise OSError(28, "No space left on device")
    if what.startswith("block:"):
        Path(what.removeprefix("block:")).mkdir()  # where the group's record would be written
    if what.startswith("move:"):
        Path(what.removeprefix("move:")).rename(what.removeprefix("move:") + ".away")


def submit_driver(path):
    import yaml

    config = yaml.safe_load(Path(path).read_text())["stub"]
    print("Starting submission process", file=sys.stderr)
    act(config["building"])
    print("Starting submit stage", file=sys.stderr)
    workflow = submit(config, Workflow())
    act(config["after"])
    print("Run Id:", workflow.run_id)
"""

_FILES = {
    "lsst/__init__.py": "",
    "lsst/ctrl/__init__.py": "",
    "lsst/ctrl/bps/__init__.py": "",
    "lsst/ctrl/bps/drivers.py": _DRIVERS,
    "lsst/ctrl/bps/pre_transform.py": "",
    "lsst/daf/__init__.py": "",
    "lsst/daf/butler/__init__.py": "",
    "lsst/daf/butler/cli/__init__.py": "",
    "lsst/daf/butler/cli/cliLog.py": """
        class CliLog:
            @staticmethod
            def initLog(longlog): pass
            @staticmethod
            def setLogLevels(levels): pass
    """,
    "bin/bps": """
        #!/usr/bin/env python
        import sys
        from lsst.ctrl.bps import drivers
        drivers.submit_driver(sys.argv[2])
    """,
}


def make_stack(root: Path) -> str:
    """Make the stack; give the shell lines that set it up."""
    for name, text in _FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip())
        path.chmod(0o755)
    return f"export PYTHONPATH={root} PATH={root}/bin:$PATH STUB_SENT={root}/sent"
