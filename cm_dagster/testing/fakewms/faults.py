"""What a fake WMS can be told to do wrong. Standard library only."""

from __future__ import annotations

import builtins
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

__all__ = ["ALWAYS", "DISTORTING", "KINDS", "REQUESTS", "Fault", "suffer"]

ALWAYS: Final = 1_000_000_000
"""``times`` of a fault that is not used up."""

REQUESTS: Final = ("submit", "list", "one", "cancel", "restart", "ping")
"""What a WMS can be asked to do."""

_QUESTIONS = ("list", "one")
KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "error-before": ("submit",),
    "lost-submit": ("submit",),
    "done-but-error": ("submit",),
    "done-but-timeout": ("submit",),
    "late": ("submit",),
    "late-list": ("submit",),
    "twin": ("submit",),
    "die": ("submit",),
    "down": ("list", "one", "cancel", "restart", "ping"),
    "partial": ("list",),
    "forget": _QUESTIONS,
    "word": _QUESTIONS,
    "slow": REQUESTS,
    "lost-cancel": ("cancel",),
}
"""Kinds of faults, and the requests that each concerns."""

DISTORTING: Final = ("forget", "partial", "word")
"""Kinds that change what an answer shows."""

_ERRORS = {"down": "ConnectionError", "done-but-timeout": "TimeoutError"}
_SAID = {
    "error-before": "the fake WMS was told to fail, and nothing was sent",
    "lost-submit": "the fake WMS lost the connection",
    "done-but-error": "the fake WMS lost the connection",
    "done-but-timeout": "the fake WMS did not answer in time",
    "down": "the fake WMS is down",
}


@dataclass(frozen=True)
class Fault:
    """Something that a fake WMS does wrong; docs/testing.md has a table of all kinds."""

    kind: str
    """One of `KINDS`."""
    match: str = "*"
    """Pattern of the names of workflows that it befalls, as in a shell. Requests about no single workflow (``list``,
    ``ping``) have the empty name."""
    times: int = 1
    """How many requests it befalls; `ALWAYS` for all."""
    seconds: float = 0.0
    """Of ``late``: until the workflow can be seen; of ``slow`` and ``done-but-timeout``: until the answer."""
    word: str = ""
    """Of ``word``: the state that is reported; of ``die``: ``before`` or ``after`` (the default) the effect; of those
    that raise: the built-in exception, by default `RuntimeError`, or what fits better."""
    fraction: float = 1.0
    """Of ``partial``: the part of the matching workflows that is left out, 0 to 1; always the same ones."""
    request: str = ""
    """The only request that it befalls; empty: all that its kind concerns. ``die`` can befall any."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is no kind of fault: {', '.join(KINDS)}")
        if self.request and self.request not in (REQUESTS if self.kind == "die" else KINDS[self.kind]):
            raise ValueError(f"{self.kind} does not befall the request {self.request!r}")
        if self.kind == "die" and self.word not in ("", "before", "after"):
            raise ValueError(f"die has no {self.word!r}: before or after the effect")
        if self.kind in _SAID and _exception(self) is None:
            raise ValueError(f"{self.word!r} is no built-in exception")

    @property
    def key(self) -> str:
        """Which faults exclude each other in one request: of each key, only the first is used."""
        if self.kind == "die":
            return f"die-{self.word or 'after'}"
        return "late" if self.kind == "late-list" else self.kind

    def befalls(self, request: str, name: str) -> bool:
        """Whether a request about a workflow of this name can meet it."""
        concerned = (self.request,) if self.request else KINDS[self.kind]
        return request in concerned and fnmatchcase(name, self.match)


def _exception(fault: Fault) -> type[Exception] | None:
    found = getattr(builtins, fault.word or _ERRORS.get(fault.kind, "RuntimeError"), None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def suffer(faults: Mapping[str, Fault]) -> None:
    """Let the calling process feel what befell its request, after the effect: wait, die, fail.

    Parameters
    ----------
    faults
        The faults that were used, by `Fault.key`.

    Raises
    ------
    Exception
        What the faults that raise name.
    """
    for fault in faults.values():
        if fault.kind in ("slow", "done-but-timeout"):
            time.sleep(fault.seconds)
    if any(fault.kind == "die" for fault in faults.values()):
        os.kill(os.getpid(), signal.SIGKILL)
    for fault in faults.values():
        if (error := _exception(fault)) is not None and fault.kind in _SAID:
            raise error(_SAID[fault.kind])
