"""How assets and jobs of ours fail: tried again after what passes, at once and with advice after what does not."""

from __future__ import annotations

from typing import NoReturn

import dagster as dg

from cm_dagster.control.history import PASSES, WHEN_THERE
from cm_dagster.errors import CmError, LedgerError, NoInputsError

__all__ = ["RETRY", "fail"]

RETRY = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
"""For hiccups, 15 s in all: after a longer outage the sensors ask again, so that no process waits for its end."""


def fail(error: CmError) -> NoReturn:
    """Have Dagster try again after a transient error, and fail at once, with its advice, after another one.

    What does not fit the state of the ledger is judged by the sensors anew: they ask again when it does. They ask again
    for inputs too, since who puts data into a collection does not come here to say so.
    """
    if error.transient:
        raise error
    advice = {"advice": error.advice} if error.advice else {}
    passes = {}
    if isinstance(error, LedgerError):
        passes = {PASSES: "by itself, when it is its turn"}
    elif isinstance(error, NoInputsError):
        passes = {PASSES: WHEN_THERE}
    raise dg.Failure(error.cause, metadata={**advice, **passes}, allow_retries=False) from error
