"""What a job's process does: becomes its command, or runs it where everything is imported already."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import logging
import os
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import NoReturn

__all__ = ["execute", "preload"]

_LOG = logging.getLogger(__name__)

_COMMANDS = {"pipetask": "lsst.ctrl.mpexec.cli.pipetask", "butler": "lsst.daf.butler.cli.butler"}
"""Commands that can run without a new interpreter, and the modules that hold their ``cli``."""

_MODULES = (
    *_COMMANDS.values(),
    "lsst.ctrl.mpexec.cli.cmd",
    "lsst.daf.butler.cli.cmd",
    "lsst.daf.butler.datastores.fileDatastore",
    "lsst.daf.butler.direct_butler",
    "lsst.daf.butler.formatters.json",
    "lsst.daf.butler.formatters.logs",
    "lsst.daf.butler.formatters.packages",
    "lsst.daf.butler.formatters.yaml",
    "lsst.daf.butler.registry.collections.synthIntKey",
    "lsst.daf.butler.registry.databases.sqlite",
    "lsst.daf.butler.registry.datasets.byDimensions",
    "lsst.daf.butler.registry.dimensions.static",
    "lsst.pipe.base.cli.cmd",
    "lsst.pipe.base.formatters.pexConfig",
    "lsst.pipe.base.mp_graph_executor",
    "lsst.pipe.base.quantum_graph",
    "lsst.pipe.base.quantum_graph.aggregator",
    "lsst.pipe.base.single_quantum_executor",
)
"""What those commands import, some of it only when they get to it."""

_SHELL = re.compile(r"[;&|<>`*?()\[\]~#\\\n]|'")
"""Characters that only a shell understands; variables and quotes we can do ourselves."""


_QUOTED = re.compile(r"""'[^'$]*'|"[^"`\\]*\"""")
"""Where those characters mean nothing to it."""

_ARGUMENT = re.compile(r"(\w+)=\$(\d)")


def preload(modules: Iterable[str]) -> None:
    """Import what jobs will need, so that processes forked from this one need not.

    Parameters
    ----------
    modules
        Modules besides those of the stack's commands; one that cannot be imported is left to the job that needs it.
    """
    wanted = [module for module in (*_MODULES, *modules) if module not in sys.modules]
    if not wanted:
        return
    # pyarrow's allocator keeps a thread, which takes no locks that a child could miss.
    warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork.*", category=DeprecationWarning)
    for module in wanted:
        try:
            importlib.import_module(module)
        except Exception as error:
            _LOG.warning("cannot import %s beforehand: %s", module, error)
    with contextlib.suppress(ImportError):
        _warm_singletons()
    gc.collect()
    gc.freeze()  # or the children's garbage collection would copy all of it


def _warm_singletons() -> None:
    """Make what the Butler makes once per process from its configuration, at a cost beside which a quantum is cheap."""
    from lsst.daf.butler import DimensionUniverse, StorageClassFactory

    StorageClassFactory()
    DimensionUniverse()


def execute(command: str, environment: Mapping[str, str], *, warm: bool) -> NoReturn:
    """Run a command in this process, which ends with it.

    Parameters
    ----------
    command
        Shell command.
    environment
        All of its environment.
    warm
        Whether to run the stack's own commands in this interpreter.
    """
    words = _words(command, environment) if warm else []
    if words and words[0] in _COMMANDS:
        os.environ.clear()
        os.environ.update(environment)
        os._exit(_run(words))
    os.execve("/bin/bash", ["bash", "-c", command], dict(environment))


def _words(command: str, environment: Mapping[str, str]) -> list[str]:
    """Split a command that needs no shell, with its variables replaced; empty: it does need one."""
    if _SHELL.search(_QUOTED.sub("", command)):
        return []
    words = [Template(word).safe_substitute(environment) for word in shlex.split(command)]
    return _unwrap(words) if words[0].endswith(".bash") else words


def _unwrap(words: list[str]) -> list[str]:
    """Take the command out of a script that does nothing but name its arguments, as BPS's script of the final job."""
    values: dict[str, str] = {}
    commands: list[str] = []
    for line in Path(words[0]).read_text().splitlines():
        if named := _ARGUMENT.fullmatch(line):
            if int(named[2]) >= len(words):
                return []
            values[named[1]] = words[int(named[2])]
        elif line.strip() and not line.startswith(("#", "set -")):
            commands.append(line)
    return _words(commands[0], values) if len(commands) == 1 else []


def _run(words: list[str]) -> int:
    """Run a click command as its script would, and return the exit code."""
    atexit._clear()  # what the parents registered is theirs
    sys.argv = words
    code: object = 0
    try:
        importlib.import_module(_COMMANDS[words[0]]).cli.main(args=words[1:], prog_name=words[0])
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    if code is None or isinstance(code, int):
        return code or 0
    sys.stderr.write(f"{code}\n")
    sys.stderr.flush()
    return 1
