"""Every error that cm_dagster raises on purpose.

::

    CmError
    ├── SpecError            a campaign or site file is wrong                (a list of faults)
    ├── PlanError            groups cannot be made
    │   └── NoInputsError    the step's inputs hold no (or too few) data
    ├── ServiceError         an outside service
    │   ├── ButlerError
    │   ├── TransferError    data did not come from one site to another
    │   ├── WmsError
    │   └── SubmitError      `bps submit` did not make a workflow
    │       ├── EmptyGraphError    the quantum graph is empty: the query matches nothing
    │       └── NothingToDoError   the quantum graph is empty: everything was done before
    └── LedgerError          what was asked does not fit the ledger's state

Each error says what happened (``cause``) and what the pilot can do about it (``advice``). ``transient`` is True where
the same call may succeed later without anybody changing anything; only the adapter of a service decides that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "ButlerError",
    "CmError",
    "EmptyGraphError",
    "Fault",
    "LedgerError",
    "NoInputsError",
    "NothingToDoError",
    "PlanError",
    "ServiceError",
    "Side",
    "SpecError",
    "SubmitError",
    "TransferError",
    "WmsError",
]

Side = Literal["source", "target", ""]
"""One end of a transfer; empty if it is not known which."""


class CmError(Exception):
    """Base of all errors of cm_dagster.

    Parameters
    ----------
    cause
        What happened, in one sentence, with the names involved.
    advice
        What the pilot can do about it.
    transient
        Whether the same call may succeed later by itself.
    """

    code = "cm"

    def __init__(self, cause: str, *, advice: str = "", transient: bool = False) -> None:
        self.cause = cause
        self.advice = advice
        self.transient = transient
        super().__init__(cause)

    def __str__(self) -> str:
        return f"{self.cause} ({self.advice})" if self.advice else self.cause


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong in a file, with its place."""

    file: str
    """The file as the user named it."""
    line: int | None
    """Line of the fault, from 1; None where the fault has no line (a file that is absent)."""
    path: str
    """Dotted path of the value, e.g. ``steps.step1.group_by.size``; empty for the whole file."""
    message: str
    """What is wrong."""
    expected: str = ""
    """What would be right."""
    nearest: str = ""
    """The nearest valid key or name, if one is near."""

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        text = f"{place}: {self.path + ': ' if self.path else ''}{self.message}"
        if self.expected:
            text += f"; expected {self.expected}"
        if self.nearest:
            text += f"; did you mean {self.nearest!r}?"
        return text


class SpecError(CmError):
    """A campaign or site file is wrong; all its faults are reported at once.

    Parameters
    ----------
    faults
        The faults, in the order of their lines.
    """

    code = "spec"

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        super().__init__("\n".join(str(fault) for fault in faults))


class PlanError(CmError):
    """Groups cannot be made of a step's data."""

    code = "plan"


class NoInputsError(PlanError):
    """The step's inputs hold no data, or less than it requires.

    Parameters
    ----------
    cause, advice
        As of `CmError`.
    rows
        All that was looked at in the inputs, as rows of a table; none where only one thing was.
    """

    code = "no-inputs"

    def __init__(self, cause: str, *, advice: str = "", rows: Sequence[Mapping[str, str | bool]] = ()) -> None:
        self.rows = rows
        super().__init__(cause, advice=advice)


class ServiceError(CmError):
    """An outside service failed or refused."""

    code = "service"


class ButlerError(ServiceError):
    """A Butler repository could not be read or written."""

    code = "butler"


class TransferError(ServiceError):
    """Data did not come, or not all of them, from one site's repository to another's.

    Parameters
    ----------
    cause, advice, transient
        As of `CmError`.
    side
        Where the fault lies, if that is known: ``source`` or ``target``.
    faults
        What is wrong with each parcel that failed by itself, by the parcel's name, where all others were delivered;
        empty if the transfer ended before all were tried.
    """

    code = "transfer"

    def __init__(
        self,
        cause: str,
        *,
        advice: str = "",
        transient: bool = False,
        side: Side = "",
        faults: Mapping[str, TransferError] | None = None,
    ) -> None:
        self.side: Side = side
        self.faults: Mapping[str, TransferError] = faults or {}
        super().__init__(cause, advice=advice, transient=transient)


class WmsError(ServiceError):
    """The workflow management system could not be asked, or refused."""

    code = "wms"


class SubmitError(ServiceError):
    """`bps submit` did not make a workflow; nothing runs at the WMS because of it."""

    code = "submit"


class EmptyGraphError(SubmitError):
    """The quantum graph is empty because the group's query matches nothing."""

    code = "empty-graph"


class NothingToDoError(SubmitError):
    """The quantum graph is empty because all of its quanta were done before."""

    code = "nothing-to-do"


class LedgerError(CmError):
    """What was asked does not fit what the ledger knows."""

    code = "ledger"
