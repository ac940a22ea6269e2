"""Data travel between sites behind `Mover`; `ButlerMover` lets the target's Butler pull them from the source's.

Butler gives no deadline of its own, and neither does a disk. So a transfer is a process of its own
(`cm_dagster.services.transfer`) that is killed when its time is over, and that ends by itself with the process that
wants it. It tells what it does in lines of JSON: ``doing`` before anything that may take long, ``moved`` for each
parcel that is all there, a fault for one that is not, ``end`` when all were tried. What it has told counts, however it
ends; what was half done is completed by the next call.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any, Protocol

from cm_dagster.errors import Side, TransferError

__all__ = ["ButlerMover", "Moved", "Mover", "Parcel", "StageInputs"]

_GRACE = 10.0
"""Seconds that a killed process is waited for: one that hangs in a disk can't end before the disk answers."""
_LONGEST = 300
"""Characters of the last words of a process that died."""


@dataclass(frozen=True)
class Parcel:
    """One group's data to travel."""

    name: str
    """What it is called in messages: the group."""
    runs: tuple[str, ...] = ()
    """RUN collections that are delivered, whole."""
    where: str = ""
    """Predicate that selects what is staged."""


@dataclass(frozen=True)
class Moved:
    """A parcel that is all at the target."""

    name: str
    """The parcel's name."""
    datasets: int
    """Number of its datasets; all of them are at the target."""
    new: int
    """How many of these this call has brought."""
    runs: tuple[str, ...]
    """RUN collections at the target that hold them, in the order in which they are to be searched."""


@dataclass(frozen=True)
class StageInputs:
    """Where what a step's groups read is found."""

    collections: tuple[str, ...]
    """Collections at the source, in order of search."""
    types: tuple[str, ...] | None = None
    """Dataset types that are read; None if that is not known: all but logs, metadata, configurations and packages."""


class Mover(Protocol):
    """Brings data from one site's Butler repository to another's.

    Both methods yield each parcel when it is all at the target, and may be called again at any time, by several
    processes at once: what is there is not brought again.

    Raises
    ------
    TransferError
        While they are iterated. A parcel that fails by itself does not keep the others: they are brought, and the
        error comes at the end, with the ``faults``.
    """

    def deliver(self, source: str, target: str, parcels: Sequence[Parcel], deadline: float) -> Iterator[Moved]:
        """Bring whole RUN collections, with everything in them.

        Parameters
        ----------
        source, target
            Labels or URIs of the repositories.
        parcels
            What to bring: the ``runs`` of each.
        deadline
            Time after which the call gives up, in seconds.
        """
        ...

    def stage(
        self, source: str, target: str, parcels: Sequence[Parcel], inputs: StageInputs, deadline: float
    ) -> Iterator[Moved]:
        """Bring what groups will read.

        Parameters
        ----------
        source, target
            Labels or URIs of the repositories.
        parcels
            What to bring: what the ``where`` of each selects. It is joined with a dataset type's dimensions as Butler
            does, on the sky where it must; of a type that has nothing to do with it everything is brought.
        inputs
            What is read, and in which collections it is found.
        deadline
            Time after which the call gives up, in seconds.
        """
        ...


class ButlerMover:
    """The embedded mover: the target's Butler pulls, so both repositories must be reachable from here.

    It is a `Mover`.
    """

    def deliver(self, source: str, target: str, parcels: Sequence[Parcel], deadline: float) -> Iterator[Moved]:
        """Bring whole RUN collections, with everything in them."""
        return _transfer(source, target, parcels, None, deadline)

    def stage(
        self, source: str, target: str, parcels: Sequence[Parcel], inputs: StageInputs, deadline: float
    ) -> Iterator[Moved]:
        """Bring what groups will read."""
        return _transfer(source, target, parcels, inputs, deadline)


def _transfer(
    source: str, target: str, parcels: Sequence[Parcel], inputs: StageInputs | None, deadline: float
) -> Iterator[Moved]:
    """Have it done by a process; yield what that tells."""
    if not parcels:
        return
    end = time.monotonic() + deadline  # all processes of a machine have this clock in common
    request = {
        "source": source,
        "target": target,
        "parcels": [asdict(parcel) for parcel in parcels],
        "inputs": asdict(inputs) if inputs else None,
        "end": end,
        "span": deadline,
    }
    faults: dict[str, TransferError] = {}
    doing: str = "starting"
    side: Side = ""
    with tempfile.TemporaryFile() as errors, _started(request, errors) as child:
        for told in _lines(child, end):
            if told is None:
                raise TransferError(
                    f"not done within {deadline:g} s, while {doing}",
                    advice="nothing needs to be done if the next try gets on: it goes on where this one ended; else"
                    " check the database and disk that are named, or allow more time",
                    transient=True,
                    side=side,
                )
            if "end" in told:
                _conclude(faults)
                return
            if "doing" in told:
                doing, side = told["doing"], told["side"]
            elif "moved" in told:
                content = told["moved"]
                yield Moved(content["name"], content["datasets"], content["new"], tuple(content["runs"]))
            elif parcel := told.pop("parcel"):
                faults[parcel] = TransferError(**told)
            else:
                raise TransferError(**told)
        raise _death(child, errors, doing)


def _conclude(faults: Mapping[str, TransferError]) -> None:
    """Raise what went wrong with single parcels."""
    if not faults:
        return
    first, *others = faults.values()
    raise TransferError(
        first.cause + (f" (and {len(others)} more)" if others else ""),
        advice=first.advice,
        transient=all(fault.transient for fault in faults.values()),
        side=first.side,
        faults=faults,
    )


@contextlib.contextmanager
def _started(request: Mapping[str, Any], errors: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the process for a while. It ends when its standard input does: when this process ends, in whatever way."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile() as content:  # a pipe would hold 64 KiB
        content.write(json.dumps(request).encode())
        content.seek(0)
        child = subprocess.Popen(
            [sys.executable, "-m", "cm_dagster.services.transfer", str(content.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            pass_fds=(content.fileno(),),
            env=environment,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_GRACE)
        for stream in (child.stdin, child.stdout):
            if stream:
                stream.close()


def _lines(child: subprocess.Popen[bytes], end: float) -> Iterator[dict[str, Any] | None]:
    """Yield what the process tells until it ends; None, at last, if the time is over before."""
    assert child.stdout
    poll = select.poll()
    poll.register(child.stdout, select.POLLIN | select.POLLHUP)
    rest = b""
    while True:
        left = end - time.monotonic()
        if not poll.poll(max(left, 0) * 1000):  # what it has told in time counts
            yield None
            return
        if not (read := os.read(child.stdout.fileno(), 65536)):
            return
        *lines, rest = (rest + read).split(b"\n")
        for line in lines:
            yield json.loads(line)


def _death(child: subprocess.Popen[bytes], errors: IO[bytes], doing: str) -> TransferError:
    """Say how a process ended that did not say so itself."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_GRACE)
    if child.returncode is None or child.returncode < 0:
        how = f"killed by signal {-child.returncode}" if child.returncode else "lost"
        return TransferError(
            f"the transfer was {how} while {doing}",
            advice="nothing needs to be done if the next try gets on; else look whether memory is short",
            transient=True,
        )
    errors.seek(0)
    words = errors.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
    return TransferError(f"the transfer failed while {doing}: {words[-1][:_LONGEST]}", advice="see `cm doctor`")
