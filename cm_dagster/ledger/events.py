"""What is written onto an attempt's run: begun, where it is, accepted, failed, cancelled.

Uses of ``dagster._core``: the type of metadata values; `DagsterEvent` and its data classes. Dagster has public methods
for a failed and a cancelled run, but none to start a run that has no worker, to materialize an asset in its name, or
many partitions of an asset at once; dagster-airlift, which shows outside runs as Dagster runs, writes the same events
in the same way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import dagster as dg
from dagster import EventLogEntry
from dagster._core.definitions.metadata import RawMetadataValue
from dagster._core.events import AssetObservationData, DagsterEvent, EngineEventData, StepMaterializationData

from cm_dagster.crashpoints import crash_point
from cm_dagster.ledger import checks, tags
from cm_dagster.ledger.attempts import Attempt, read_attempt
from cm_dagster.ledger.checks import Check
from cm_dagster.policy.backoff import Wait
from cm_dagster.policy.states import HUMAN, State, is_allowed

__all__ = [
    "Metadata",
    "accept",
    "ask_cancel",
    "begun",
    "cancel_asked",
    "cancelled",
    "fail",
    "found",
    "materialized",
    "note",
    "set_state",
    "start",
    "submitted",
    "together",
    "wait",
]

Metadata = Mapping[str, RawMetadataValue]
_AT_ONCE = 500
"""Most events that are written in one statement."""


def together(instance: dg.DagsterInstance, run_id: str) -> AbstractContextManager[None]:
    """Make one transaction of what is written about a run within; where the storage can't, each write stays one.

    Parameters
    ----------
    instance
        The Dagster instance.
    run_id
        The run.
    """
    begin = getattr(instance.run_storage, "one_transaction", None)  # see `cm_dagster.ledger.storage`
    return begin(run_id) if begin else nullcontext()


def _report(
    instance: dg.DagsterInstance,
    run: dg.DagsterRun,
    kind: dg.DagsterEventType,
    message: str,
    data: StepMaterializationData | AssetObservationData | None = None,
) -> None:
    event = DagsterEvent(event_type_value=kind.value, job_name=run.job_name, message=message, event_specific_data=data)
    instance.report_dagster_event(event, run_id=run.run_id)


def start(instance: dg.DagsterInstance, attempt: Attempt) -> None:
    """Write that a queued attempt is in the site's hands.

    The caller must ask `cancel_asked` afterwards: this event makes STARTED even of a run that was cancelled meanwhile.
    """
    message = f"Attempt {attempt.id.number} is being submitted."
    with together(instance, attempt.run_id):
        _report(instance, attempt.run, dg.DagsterEventType.RUN_START, message)
        crash_point("start.written")
        instance.add_run_tags(attempt.run_id, {tags.STATE: State.CLAIMED.value})


def begun(instance: dg.DagsterInstance, attempt: Attempt) -> None:
    """Write that an attempt is in the site's hands, which its run no longer says.

    A launching process that was held up for long may say that a run is queued when it has been taken already.
    """
    _report(instance, attempt.run, dg.DagsterEventType.RUN_START, f"Attempt {attempt.id.number} has begun before.")


def ask_cancel(instance: dg.DagsterInstance, run: dg.DagsterRun, message: str) -> None:
    """Write that a person wants an attempt cancelled; a run that is not over becomes CANCELING."""
    _report(instance, run, dg.DagsterEventType.RUN_CANCELING, message)
    crash_point("cancel.asked")


def cancel_asked(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Say whether anybody asked to terminate a run, by its event log (its status may have been overwritten)."""
    kinds = {dg.DagsterEventType.RUN_CANCELING, dg.DagsterEventType.RUN_CANCELED}
    return bool(instance.get_records_for_run(run_id, of_type=kinds, limit=1).records)


def submitted(instance: dg.DagsterInstance, attempt: Attempt, *, wms_id: str, submit_dir: str, output_run: str) -> None:
    """Write that an attempt's workflow is at the WMS."""
    when = f"{time.time():.3f}"
    found = {tags.WMS_ID: wms_id, tags.SENT: when, tags.SUBMIT_DIR: submit_dir, tags.OUTPUT_RUN: output_run}
    if attempt.tags.get(tags.WAIT):
        found[tags.WAIT] = ""
    instance.add_run_tags(attempt.run_id, {**found, tags.STATE: State.SUBMITTED.value})


def found(instance: dg.DagsterInstance, attempt: Attempt, *, wms_id: str, submit_dir: str) -> None:
    """Write which workflow was that of an attempt that was cancelled before its workflow was recorded."""
    known = {tags.WMS_ID: wms_id, tags.SUBMIT_DIR: submit_dir}
    instance.add_run_tags(attempt.run_id, {name: value for name, value in known.items() if value})


def set_state(
    instance: dg.DagsterInstance, attempt: Attempt, state: State, more: Mapping[str, str] | None = None
) -> None:
    """Write that an attempt in the site's hands has come to another state.

    Raises
    ------
    ValueError
        If the state may not follow the attempt's present one, or does so by a person's wish alone.
    """
    if not is_allowed(attempt.state, state) or (attempt.state, state) in HUMAN:
        raise ValueError(f"{state} may not follow {attempt.state} (run {attempt.run_id})")
    instance.add_run_tags(attempt.run_id, {tags.STATE: state.value, **(more or {})})


def wait(instance: dg.DagsterInstance, attempt: Attempt, why: Wait) -> None:
    """Write that an attempt waits to be tried again, and why."""
    note(instance, attempt.run, f"Waits: {why}.")
    crash_point("wait.noted")
    instance.add_run_tags(attempt.run_id, {tags.WAIT: why.dump()})


def note(instance: dg.DagsterInstance, run: dg.DagsterRun, message: str, metadata: Metadata | None = None) -> None:
    """Write a message for the reader of a run's page."""
    instance.report_engine_event(message, run, EngineEventData(dict(metadata or {})))


def accept(
    instance: dg.DagsterInstance, attempt: Attempt, message: str, metadata: Metadata, check: Check | None = None
) -> None:
    """Materialize the group and end its attempt as accepted; safe to repeat after a crash in between.

    Parameters
    ----------
    instance
        The Dagster instance.
    attempt
        The attempt.
    message
        Why it is accepted.
    metadata
        What the group's page shows.
    check
        How its quanta were judged; None leaves its check as it was judged before, if it was.
    """
    with together(instance, attempt.run_id):
        done = instance.get_records_for_run(
            attempt.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION, limit=1
        ).records
        if not done:
            key = dg.AssetKey(attempt.id.step.asset)
            made = dg.AssetMaterialization(key, partition=attempt.id.group, description=message, metadata=metadata)
            kind = dg.DagsterEventType.ASSET_MATERIALIZATION
            _report(instance, attempt.run, kind, message, StepMaterializationData(made))
            crash_point("accept.materialized")
        if check is None:
            checks.follow(instance, attempt)
        else:
            checks.write(instance, attempt, check)
        _report(instance, attempt.run, dg.DagsterEventType.RUN_SUCCESS, message)
        crash_point("accept.succeeded")
        _show_end(instance, attempt, State.ACCEPTED)


def materialized(instance: dg.DagsterInstance, run: dg.DagsterRun, made: Sequence[dg.AssetMaterialization]) -> None:
    """Write that a run of ours has materialized partitions of an asset: all in one statement, where the storage can.

    Parameters
    ----------
    instance
        The Dagster instance.
    run
        The run.
    made
        What it has made, of one asset.
    """
    kind, now = dg.DagsterEventType.ASSET_MATERIALIZATION.value, time.time()
    entries = [
        EventLogEntry(  # type: ignore[no-untyped-call]  # Dagster leaves it so
            error_info=None,
            level=logging.DEBUG,
            user_message="",
            run_id=run.run_id,
            timestamp=now,
            job_name=run.job_name,
            dagster_event=DagsterEvent(kind, run.job_name, event_specific_data=StepMaterializationData(each)),
        )
        for each in made
    ]
    for place in range(0, len(entries), _AT_ONCE):
        instance.event_log_storage.store_event_batch(entries[place : place + _AT_ONCE])


def fail(instance: dg.DagsterInstance, attempt: Attempt, message: str, metadata: Metadata | None = None) -> None:
    """End an attempt as failed, with its cause; the group's page shows it too."""
    key = dg.AssetKey(attempt.id.step.asset)
    seen = dg.AssetObservation(key, partition=attempt.id.group, description=message, metadata=metadata)
    with together(instance, attempt.run_id):
        kind = dg.DagsterEventType.ASSET_OBSERVATION
        _report(instance, attempt.run, kind, message, AssetObservationData(seen))
        crash_point("fail.observed")
        instance.report_run_failed(attempt.run, message)
        crash_point("fail.failed")
        _show_end(instance, attempt, State.FAILED)


def cancelled(instance: dg.DagsterInstance, run_id: str, message: str, *, swept: bool) -> None:
    """End an attempt as cancelled.

    Parameters
    ----------
    instance
        The Dagster instance.
    run_id
        Run of the attempt; it is read afresh.
    message
        What happened to its workflow.
    swept
        Whether its workflow is known to be cancelled (or never to have been submitted).
    """
    if swept:
        instance.add_run_tags(run_id, {tags.CANCELLED: "yes"})
        crash_point("watch.swept")
    attempt = read_attempt(instance, run_id)
    if attempt and attempt.state is not State.CANCELLED:
        instance.report_run_canceled(attempt.run, message)
    if attempt:
        _show_end(instance, attempt, State.CANCELLED)


def _show_end(instance: dg.DagsterInstance, attempt: Attempt, state: State) -> None:
    """Bring the tag that people read into line with the run's status, which is what counts."""
    instance.add_run_tags(attempt.run_id, {tags.STATE: state.value})
