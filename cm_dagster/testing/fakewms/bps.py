"""A stand-in for the program ``bps``: ``bps submit`` to the fake WMS in 0.1 s.

No LSST code is imported and no quantum graph is built. The directory, log lines, errors and exit codes are those of the
real program.

``CM_FAKE_BPS_DIE`` has it die at the WMS call, e.g. ``before:0.1:7,after:0.05:7``: where, how likely, and the seed of
the chance. The same submit directory always has the same fate.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import sys
import zlib
from pathlib import Path
from typing import Final

from cm_dagster.testing.fakewms.store import HOME, FakeWms

__all__ = ["DIE", "install", "main"]

DIE: Final = "CM_FAKE_BPS_DIE"
"""Environment variable: where to die, and how likely."""

_KEYS = ("uniqProcName", "submitPath", "outputRun", "operator")
_LAUNCH = (
    "import sys; sys.path += {path!r}; from cm_dagster.testing.fakewms.bps import main; sys.exit(main(sys.argv[1:]))"
)


def install(folder: Path) -> Path:
    """Write an executable ``bps`` that runs this module with the present Python.

    Put its folder first on ``PATH`` by the set-up lines of a campaign's stack; those of a site come too early.

    Parameters
    ----------
    folder
        Where; it is made if absent.

    Returns
    -------
    program
        The executable.
    """
    import yaml

    top = Path(__file__).parents[3]
    path = [str(top), str(Path(yaml.__file__).parents[1])]
    # Isolated and without `site`: what an environment hooks into each start of Python costs more than all of this.
    command = shlex.join([sys.executable, "-I", "-S", "-c", _LAUNCH.format(path=path, module=__name__)])
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "bps"
    program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    program.chmod(0o755)
    return program


def main(words: list[str]) -> int:
    """Run a command line.

    Parameters
    ----------
    words
        The command line after ``bps``.

    Returns
    -------
    code
        Exit code.
    """
    if len(words) != 2 or words[0] != "submit":
        sys.stderr.write("Usage: bps submit CONFIG\nError: the stand-in for bps can do nothing else\n")
        return 2
    _submit(Path(words[1]))
    return 0


def _submit(config: Path) -> None:
    values = _read(config.read_text(encoding="utf-8"))
    name, folder = values["uniqProcName"], Path(values["submitPath"])
    wms = FakeWms(Path(os.environ[HOME]))
    _log("Starting submission process")
    _make(folder)
    shutil.copy2(config, folder)
    _print(f"Submit dir: {folder}")
    wms.check(name)
    _log("Starting submit stage")
    _die("before", folder)
    wms_id = wms.submit(
        name, str(folder), run=values.get("outputRun", ""), user=values.get("operator", ""), jobs={"work": 1}
    )
    _die("after", folder)
    _log(f"Run '{name}' submitted for execution with id '{wms_id}'")
    _print(f"Run Id: {wms_id}\nRun Name: {name}")


def _read(text: str) -> dict[str, str]:
    """Read what is needed of a configuration: by sight where it is plain, else as YAML, which takes longer."""
    # A value may go on in the next line, which has no key then.
    plain = r"([\w./][^\s'\"]*)$(?!\n *(?![\w.-]+:)\S)"
    found = {key: re.findall(rf"^ *{key}: {plain}", text, re.MULTILINE) for key in _KEYS}
    if all(len(values) == 1 for values in found.values()):
        return {key: values[0] for key, values in found.items()}
    import yaml

    document = yaml.safe_load(text)
    values = {**document, **document.get("payload", {})}
    return {key: str(values[key]) for key in _KEYS if key in values}


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise FileExistsError(f"cannot create directory '{folder}': directory already exists") from None


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()  # both outputs go to one file


def _log(message: str) -> None:
    sys.stderr.write(f"lsst.ctrl.bps.drivers INFO: {message}\n")
    sys.stderr.flush()


def _die(place: str, folder: Path) -> None:
    for rule in filter(None, os.environ.get(DIE, "").split(",")):
        where, likely, seed = (*rule.split(":"), "1", "")[:3]
        chance = zlib.crc32(f"{seed} {place} {folder}".encode()) / 2**32
        if where == place and chance < float(likely):
            os.kill(os.getpid(), signal.SIGKILL)
