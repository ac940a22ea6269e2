"""Faults that the tasks commit when told to at run time, so that the same quantum graph fails first and succeeds later.

The file named by ``$CM_MINIDRP_FAULTS`` holds a JSON list of rules, e.g.::

    [{"task": "isr", "where": "exposure=903334 AND detector=16", "action": "raise",
      "exception": "builtins.RuntimeError", "message": "bad pixel map", "times": 1},
     {"task": "calibrateImage", "action": "partial", "keep": ["calexp"]},
     {"task": "makeWarp", "action": "memory", "megabytes": 6000}]

How often a rule with ``times`` has struck a quantum is kept in small files under ``$CM_MINIDRP_STATE`` (default: a
folder beside the rules), as attempts are processes of their own.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lsst.pipe.base import AlgorithmError, NoWorkFound
from lsst.utils import doImportType
from pydantic import BaseModel, ConfigDict, TypeAdapter, field_validator

__all__ = ["FAULTS", "STATE", "Fault", "PartialOutputsError", "load_faults", "strike"]

FAULTS = "CM_MINIDRP_FAULTS"
"""Environment variable: the file with the rules."""

STATE = "CM_MINIDRP_STATE"
"""Environment variable: the folder that counts how often rules struck."""

_LOOK = 0.2
"""Seconds between two looks of a quantum that waits."""

GRANTED = "CM_LOCAL_WMS_MEMORY"
"""Environment variable in which the local WMS tells a job what memory it was given, in MB."""


class PartialOutputsError(AlgorithmError):
    """Only some of the outputs can be made."""

    @property
    def metadata(self) -> dict[str, Any]:
        """What a task would say about the failure."""
        return {"injected": True}


class Fault(BaseModel):
    """One rule: which quanta fail, how, and how often."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Literal["raise", "nowork", "partial", "signal", "exit", "sleep", "wait", "memory"]
    """``raise`` an exception; ``nowork`` raises NoWorkFound; ``partial`` writes only the outputs in ``keep``;
    ``signal`` kills the process; ``exit`` ends it with ``code``; ``sleep`` waits and goes on; ``wait`` goes on when
    the rule is taken out of the file; ``memory`` uses ``megabytes`` and is killed, as by the kernel, where the job was
    given less."""
    task: str | None = None
    """Label of the task; None: all."""
    where: str = ""
    """Values of the data ID's dimensions, ``NAME=VALUE AND ...``; empty: all quanta."""
    times: int | None = None
    """How many attempts of each quantum fail; None: all."""
    exception: str = "builtins.ValueError"
    message: str = ""
    log: str = ""
    """A warning that is logged before the fault; none if empty."""
    keep: frozenset[str] = frozenset()
    """Connections, not dataset types."""
    signal: int = signal.SIGKILL
    code: int = 1
    seconds: float = 0.0
    megabytes: int = 0

    def matches(self, task: str, data_id: Mapping[str, Any]) -> bool:
        """Whether the rule is about a quantum.

        Parameters
        ----------
        task
            Label of the quantum's task.
        data_id
            Its data ID.
        """
        if self.task is not None and self.task != task:
            return False
        return all(str(data_id.get(name)) == value for name, value in _terms(self.where))

    @field_validator("where")
    @classmethod
    def _check_where(cls, where: str) -> str:
        _terms(where)
        return where


def _terms(where: str) -> list[tuple[str, str]]:
    """Take a predicate apart into dimensions and their values."""
    terms = []
    for text in re.split(r"\s+AND\s+", where.strip()) if where.strip() else []:
        term = _TERM.fullmatch(text)
        if term is None:
            raise ValueError(f"{text!r} is not NAME=VALUE")
        terms.append((term[1], term[2] or term[3]))
    return terms


_TERM = re.compile(r"""(\w+)\s*=\s*(?:'([^']+)'|([^\s'"]+))""")
_RULES = TypeAdapter(list[Fault])


def load_faults() -> list[Fault]:
    """Read the rules; there are none where no file is named or the file is absent.

    Raises
    ------
    pydantic.ValidationError
        If the file is not a list of rules.
    """
    name = os.environ.get(FAULTS)
    if not name or not Path(name).exists():
        return []
    return _RULES.validate_json(Path(name).read_bytes())


def strike(task: str, data_id: Mapping[str, Any]) -> frozenset[str] | None:
    """Commit the faults that are meant for a quantum.

    Parameters
    ----------
    task
        Label of the quantum's task.
    data_id
        Its data ID.

    Returns
    -------
    keep
        Connections whose outputs may be written before the task fails; None: nothing is wrong (any more).
    """
    for index, fault in enumerate(load_faults()):
        if not fault.matches(task, data_id) or not _due(fault, index, task, data_id):
            continue
        if fault.action == "partial":
            return fault.keep
        _commit(fault, fault.message or f"fault injected into {task} {dict(data_id)}")
    return None


def _due(fault: Fault, index: int, task: str, data_id: Mapping[str, Any]) -> bool:
    """Count this attempt and say whether the rule still strikes."""
    if fault.times is None:
        return True
    folder = Path(os.environ.get(STATE) or f"{os.environ[FAULTS]}.state")
    folder.mkdir(parents=True, exist_ok=True)
    values = "_".join(str(data_id[name]) for name in sorted(data_id)).replace("/", "-")
    counter = folder / f"{index}_{task}_{values}"
    attempts = (int(counter.read_text()) if counter.exists() else 0) + 1
    counter.write_text(str(attempts))
    return attempts <= fault.times


def _commit(fault: Fault, message: str) -> None:
    if fault.log:
        logging.getLogger(__name__).warning(fault.log)
    match fault.action:
        case "raise":
            raise doImportType(fault.exception)(message)
        case "nowork":
            raise NoWorkFound(message)
        case "signal":
            os.kill(os.getpid(), fault.signal)
        case "exit":
            os._exit(fault.code)
        case "sleep":
            time.sleep(fault.seconds)
        case "wait":
            while fault in load_faults():
                time.sleep(_LOOK)
        case "memory":
            _use_memory(fault.megabytes)


def _use_memory(megabytes: int) -> None:
    granted = os.environ.get(GRANTED)
    if granted is not None and int(granted) < megabytes:
        os.kill(os.getpid(), signal.SIGKILL)
    # Written to, or the kernel would not count it.
    bytearray(megabytes * 2**20)[::4096] = b"\x01" * (megabytes * 256)
