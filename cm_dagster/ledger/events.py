"""What is written onto an attempt's run: begun, where it is, accepted, failed, cancelled.

Uses of ``dagster._core``: the type of metadata values; `DagsterEvent` and its data classes. Dagster has public methods
for a failed and a cancelled run, but none to start a run that has no worker, to materialize an asset in its name, or
many partitions of an asset at once; dagster-airlift, which shows outside runs as Dagster runs, writes the same events
in the same way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg
from dagster._core.definitions.metadata import RawMetadataValue
from dagster._core.events import AssetObservationData, DagsterEvent, EngineEventData, StepMaterializationData

from cm_dagster.crashpoints import crash_point
from cm_dagster.ledger import checks, tags
from cm_dagster.ledger.attempts import Attempt, read_attempt
from cm_dagster.ledger.checks import Check
from cm_dagster.ledger.rows import last_events
from cm_dagster.ledger.writing import Writing, entry, writing
from cm_dagster.policy.backoff import Wait
from cm_dagster.policy.states import HUMAN, State, is_allowed

__all__ = [
    "Acceptance",
    "Metadata",
    "Sent",
    "accept",
    "ask_cancel",
    "begun",
    "cancel_asked",
    "cancelled",
    "fail",
    "found",
    "materialize",
    "materialized",
    "note",
    "set_state",
    "set_states",
    "start",
    "submitted",
    "wait",
]

Metadata = Mapping[str, RawMetadataValue]
_AT_ONCE = 500
"""Most events that are written in one statement."""


def start(instance: dg.DagsterInstance, *attempts: Attempt) -> None:
    """Write that queued attempts are in the site's hands.

    The caller must ask `cancel_asked` afterwards: this event makes STARTED even of a run that was cancelled meanwhile.
    """
    with writing(instance, attempts) as writer:
        for attempt in attempts:
            writer.event(attempt, dg.DagsterEventType.RUN_START, f"Attempt {attempt.id.number} is being submitted.")
            crash_point("start.written")
            writer.tag(attempt, {tags.STATE: State.CLAIMED.value})


def begun(instance: dg.DagsterInstance, attempt: Attempt) -> None:
    """Write that an attempt is in the site's hands, which its run no longer says.

    A launching process that was held up for long may say that a run is queued when it has been taken already.
    """
    with writing(instance, [attempt]) as writer:
        writer.event(attempt, dg.DagsterEventType.RUN_START, f"Attempt {attempt.id.number} has begun before.")


def ask_cancel(instance: dg.DagsterInstance, run: dg.DagsterRun, message: str) -> None:
    """Write that a person wants an attempt cancelled; a run that is not over becomes CANCELING."""
    event = DagsterEvent(dg.DagsterEventType.RUN_CANCELING.value, run.job_name, message=message)
    instance.report_dagster_event(event, run_id=run.run_id)
    crash_point("cancel.asked")


def cancel_asked(instance: dg.DagsterInstance, run_ids: Iterable[str]) -> set[str]:
    """Say which of some runs anybody asked to terminate, by the event log (their status may have been overwritten)."""
    return set(last_events(instance, run_ids, [dg.DagsterEventType.RUN_CANCELING, dg.DagsterEventType.RUN_CANCELED]))


@dataclass(frozen=True)
class Sent:
    """A workflow that is at the WMS."""

    attempt: Attempt
    wms_id: str
    submit_dir: str
    output_run: str
    """RUN collection of the attempt."""
    how: str = ""
    """How it came to be known."""
    metadata: Metadata = field(default_factory=dict)
    """What the page of its run says besides."""


def submitted(instance: dg.DagsterInstance, *sent: Sent) -> None:
    """Write that workflows of attempts are at the WMS."""
    when = f"{time.time():.3f}"
    with writing(instance, [each.attempt for each in sent]) as writer:
        for each in sent:
            attempt = each.attempt
            known = {tags.WMS_ID: each.wms_id, tags.SUBMIT_DIR: each.submit_dir, tags.OUTPUT_RUN: each.output_run}
            over = {tags.WAIT: ""} if attempt.tags.get(tags.WAIT) else {}
            writer.tag(attempt, {**known, **over, tags.SENT: when, tags.STATE: State.SUBMITTED.value})
            crash_point("record.tagged")
            message = f"Attempt {attempt.id.number}: workflow {each.wms_id}, {each.how}."
            path = dg.MetadataValue.path(each.submit_dir)
            shown = {"submit directory": path, "run collection": each.output_run, **each.metadata}
            writer.event(attempt, dg.DagsterEventType.ENGINE_EVENT, message, EngineEventData(shown))


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
    _check_order(attempt, state)
    instance.add_run_tags(attempt.run_id, {tags.STATE: state.value, **(more or {})})


def set_states(instance: dg.DagsterInstance, *now: tuple[Attempt, State]) -> None:
    """Write that attempts in the site's hands have come to other states.

    Raises
    ------
    ValueError
        If one of these states may not follow the present one, or does so by a person's wish alone.
    """
    with writing(instance, [attempt for attempt, _ in now]) as writer:
        for attempt, state in now:
            _check_order(attempt, state)
            writer.tag(attempt, {tags.STATE: state.value})
            crash_point("watch.state")


def _check_order(attempt: Attempt, state: State) -> None:
    if not is_allowed(attempt.state, state) or (attempt.state, state) in HUMAN:
        raise ValueError(f"{state} may not follow {attempt.state} (run {attempt.run_id})")


def wait(instance: dg.DagsterInstance, attempt: Attempt, why: Wait) -> None:
    """Write that an attempt waits to be tried again, and why."""
    note(instance, attempt.run, f"Waits: {why}.")
    crash_point("wait.noted")
    instance.add_run_tags(attempt.run_id, {tags.WAIT: why.dump()})


def note(instance: dg.DagsterInstance, run: dg.DagsterRun, message: str, metadata: Metadata | None = None) -> None:
    """Write a message for the reader of a run's page."""
    instance.report_engine_event(message, run, EngineEventData(dict(metadata or {})))


@dataclass(frozen=True)
class Acceptance:
    """An attempt that is accepted."""

    attempt: Attempt
    message: str
    """Why it is accepted."""
    metadata: Metadata
    """What the group's page shows."""
    check: Check | None = None
    """How its quanta were judged; None leaves its check as it was judged before, if it was."""


def accept(instance: dg.DagsterInstance, *accepted: Acceptance) -> None:
    """Materialize groups and end their attempts as accepted; safe to repeat after a crash in between.

    Parameters
    ----------
    instance
        The Dagster instance.
    accepted
        The attempts, and why.
    """
    run_ids = [each.attempt.run_id for each in accepted]
    with writing(instance, [each.attempt for each in accepted]) as writer:
        made_or_begun = [dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.RUN_START]
        last = last_events(instance, run_ids, made_or_begun)  # a restarted attempt is accepted once more
        for each in accepted:
            if last.get(each.attempt.run_id) is not dg.DagsterEventType.ASSET_MATERIALIZATION:
                materialize(writer, each.attempt, each.message, each.metadata)
                crash_point("accept.materialized")
        made = writer.flush()
        for each in accepted:
            attempt = each.attempt
            target = made.get(attempt.run_id) or checks.latest_made(instance, attempt)
            if each.check is None:
                checks.follow(writer, attempt, target)
            else:
                checks.write(writer, attempt, each.check, target)
            writer.event(attempt, dg.DagsterEventType.RUN_SUCCESS, each.message)
            crash_point("accept.succeeded")
            writer.tag(attempt, {tags.STATE: State.ACCEPTED.value})


def materialize(writer: Writing, attempt: Attempt, message: str, metadata: Metadata) -> None:
    """Write that the group of an attempt is materialized.

    Parameters
    ----------
    writer
        Writes it.
    attempt
        The attempt.
    message
        Why.
    metadata
        What the group's page shows.
    """
    key = dg.AssetKey(attempt.id.step.asset)
    made = dg.AssetMaterialization(key, partition=attempt.id.group, description=message, metadata=metadata)
    writer.event(attempt, dg.DagsterEventType.ASSET_MATERIALIZATION, message, StepMaterializationData(made))


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
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION.value
    events = (DagsterEvent(kind, run.job_name, event_specific_data=StepMaterializationData(each)) for each in made)
    entries = [entry(run.run_id, event, logging.DEBUG) for event in events]
    for place in range(0, len(entries), _AT_ONCE):
        instance.event_log_storage.store_event_batch(entries[place : place + _AT_ONCE])


def fail(instance: dg.DagsterInstance, attempt: Attempt, message: str, metadata: Metadata | None = None) -> None:
    """End an attempt as failed, with its cause; the group's page shows it too."""
    key = dg.AssetKey(attempt.id.step.asset)
    seen = dg.AssetObservation(key, partition=attempt.id.group, description=message, metadata=metadata)
    with writing(instance, [attempt]) as writer:
        writer.event(attempt, dg.DagsterEventType.ASSET_OBSERVATION, message, AssetObservationData(seen))
        crash_point("fail.observed")
        writer.flush()
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
