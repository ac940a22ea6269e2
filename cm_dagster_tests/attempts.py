"""Invented attempts, for tests without a ledger."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import dagster as dg

from cm_dagster.ledger.attempts import Attempt
from cm_dagster.plan.names import AttemptId
from cm_dagster.policy.states import State

__all__ = ["invent"]


def invent(id_: AttemptId, state: State, **changes: Any) -> Attempt:
    """Make an attempt of which nothing else is known than what is given."""
    plain = Attempt(
        run_id=id_.workflow,
        id=id_,
        state=state,
        wms_id="",
        submit_dir="",
        output_run="",
        finalized=0,
        swept=False,
        by_person=False,
        priority=0,
        parent=None,
        backfill=None,
        created=float(id_.number),
        started=None,
        ended=None,
        status=dg.DagsterRunStatus.NOT_STARTED,
        job="attempts",
        packed=zlib.compress(b"{}"),
        tags={},
    )
    return replace(plain, **changes)
