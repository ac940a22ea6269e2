"""Whose wish it is to end an attempt: only a person's counts, since workflows run for days and cost a site's machines.

What Dagster's source (1.13.27) shows of who ends runs:

- a person's Terminate, from the UI or by GraphQL, calls the run coordinator's ``cancel_run``; nothing else does;
- Dagster's daemons call the run launcher's ``terminate``: for a backfill that a person cancelled (``CANCELING``), for
  one that could not go on (``FAILING``: a partition was deleted, a code location is away), for a run that takes long;
- only a person makes a backfill ``CANCELING``; only the daemon makes one ``FAILING``.

So the caller tells a person from a daemon, and the status of the run's backfill tells whose wish the daemon carries
out. No thread, stack or message is looked at.

Uses of ``dagster._core``: the status of a backfill, which Dagster exposes by GraphQL alone.
"""

from __future__ import annotations

import dagster as dg
from dagster._core.execution.backfill import BulkActionStatus

from cm_dagster.errors import LedgerError
from cm_dagster.ledger import tags

__all__ = ["HOW_TO_CANCEL", "UnwishedError", "is_attempt", "is_wished", "of_failing_backfill"]

HOW_TO_CANCEL = "to cancel its workflow, terminate its run; several can be marked in the backfill's tab Runs"

_BACKFILL = "dagster/backfill"


class UnwishedError(LedgerError):
    """Dagster wanted to end an attempt that no person wants to end."""

    code = "unwished"


def is_attempt(run: dg.DagsterRun) -> bool:
    """Say whether a run is an attempt at a workflow."""
    return run.tags.get(tags.KIND) == tags.WORKFLOW


def is_wished(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Say whether a person wants a run ended by having cancelled its backfill."""
    return _status(instance, run) in (BulkActionStatus.CANCELING, BulkActionStatus.CANCELED)


def of_failing_backfill(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Say whether a run belongs to a backfill that Dagster has given up."""
    return _status(instance, run) is BulkActionStatus.FAILING


def _status(instance: dg.DagsterInstance, run: dg.DagsterRun) -> BulkActionStatus | None:
    backfill_id = run.tags.get(_BACKFILL)
    backfill = instance.get_backfill(backfill_id) if backfill_id else None
    return backfill.status if backfill else None
