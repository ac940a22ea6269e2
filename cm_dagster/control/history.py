"""What the ledger remembers: who decided what on a campaign, and how runs ended."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg

from cm_dagster.ledger import campaigns

__all__ = [
    "PASSES",
    "WHEN_THERE",
    "Cause",
    "Decision",
    "decisions",
    "end_details",
    "end_message",
    "iso",
    "retried_after",
    "run_cause",
]

PASSES = "tried again"
"""Label of the metadata of a `dagster.Failure` that is not final."""
WHEN_THERE = "by itself, when what is missing is there"
"""What it says of inputs that are not complete."""
_ENDS = {dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_CANCELED, dg.DagsterEventType.RUN_SUCCESS}
_DETAILS = {dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_OBSERVATION}
_DEPTH = 10  # most errors that one followed from another
_OURS = "cm_dagster."  # module of our own errors, which say best what happened


@dataclass(frozen=True)
class Decision:
    """A person's decision on a campaign."""

    revision: int
    time: float
    """Seconds since the epoch."""
    user: str
    action: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON can hold it."""
        return {"time": iso(self.time), "user": self.user, "action": self.action, "reason": self.reason}


@dataclass(frozen=True)
class Cause:
    """Why a run failed."""

    text: str
    advice: str = ""
    """What can be done about it; empty where the error does not say."""
    final: bool = False
    """Whether it will not pass by itself: the run has said so. One that died has said nothing."""
    missing: bool = False
    """Whether data are missing, which a person must put there: after that it passes by itself."""


def iso(seconds: float) -> str:
    """Write a time as UTC, ``YYYY-MM-DDTHH:MM:SSZ``.

    Parameters
    ----------
    seconds
        Seconds since the epoch.
    """
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def decisions(instance: dg.DagsterInstance, campaign: str) -> list[Decision]:
    """Read all decisions on a campaign, the first one first."""
    wanted = dg.AssetRecordsFilter(asset_key=campaigns.ASSET, asset_partitions=[campaign])
    found: list[Decision] = []
    cursor = None
    while True:
        page = instance.fetch_materializations(wanted, limit=100, cursor=cursor, ascending=True)
        found += [_decision(record) for record in page.records]
        if not page.has_more:
            return found
        cursor = page.cursor


def _decision(record: dg.EventLogRecord) -> Decision:
    event = record.asset_materialization
    values = {key: str(value.value) for key, value in event.metadata.items()} if event else {}
    return Decision(
        record.storage_id,
        record.timestamp,
        values.get("user", ""),
        values.get("action", ""),
        values.get("reason", ""),
    )


def end_message(instance: dg.DagsterInstance, run_id: str) -> str:
    """Read what was said when a run ended: of a failed attempt, its cause; empty while it has not ended."""
    records = instance.get_records_for_run(run_id, of_type=_ENDS, limit=1, ascending=False).records
    event = records[0].event_log_entry.dagster_event if records else None
    return event.message or "" if event else ""


def end_details(instance: dg.DagsterInstance, run_id: str) -> dict[str, Any]:
    """Read what was written down when an attempt was judged: verdict, quanta by task, jobs; empty if nothing was."""
    records = instance.get_records_for_run(run_id, of_type=_DETAILS, ascending=False).records
    for record in records:
        entry = record.event_log_entry
        seen = entry.asset_materialization or entry.asset_observation
        if seen and "verdict" in seen.metadata:
            return {key: _plain(value) for key, value in seen.metadata.items()}
    return {}


def _plain(value: Any) -> Any:
    if isinstance(value, dg.TableMetadataValue):
        columns = [column.name for column in value.schema.columns]  # storage keeps the order of these alone
        return [{name: record.data[name] for name in columns} for record in value.records]
    return value.value


def run_cause(instance: dg.DagsterInstance, run: dg.DagsterRun, asset: dg.AssetKey | None = None) -> Cause:
    """Find out why an ordinary run failed.

    Parameters
    ----------
    instance
        The Dagster instance.
    run
        The run.
    asset
        The asset of interest; if the run made several, the failure of its step comes first.
    """
    failures = _step_events(instance, run, dg.DagsterEventType.STEP_FAILURE, asset)
    if failures:
        own, cause = failures[0]
        return cause if own else replace(cause, final=False)
    return Cause(end_message(instance, run.run_id) or f"run {run.run_id} ended as {run.status.value}")


def retried_after(instance: dg.DagsterInstance, run: dg.DagsterRun, asset: dg.AssetKey) -> Cause | None:
    """Give the latest error after which a run that goes on tried an asset again; None if it did not."""
    events = _step_events(instance, run, dg.DagsterEventType.STEP_UP_FOR_RETRY, asset)
    return next((cause for _, cause in events), None)


def _step_events(
    instance: dg.DagsterInstance, run: dg.DagsterRun, kind: dg.DagsterEventType, asset: dg.AssetKey | None
) -> list[tuple[bool, Cause]]:
    """Read the errors of a run's steps, that of an asset first, each with whether it is the asset's own."""
    records = instance.get_records_for_run(run.run_id, of_type=kind, ascending=False).records
    own = "__".join(asset.path) if asset else ""
    events = [event for record in records if (event := record.event_log_entry.dagster_event)]
    ordered = sorted(events, key=lambda event: event.step_key != own)
    return [(not own or event.step_key == own, _cause(event.event_specific_data)) for event in ordered]


def _cause(data: Any) -> Cause:
    """Read the error of a step: what a `dagster.Failure` says of itself, else our own error."""
    user = getattr(data, "user_failure_data", None)
    if user is not None and user.description:
        advice, passes = user.metadata.get("advice"), user.metadata.get(PASSES)
        return Cause(
            user.description,
            str(advice.value) if advice else "",
            final=passes is None,
            missing=passes is not None and passes.value == WHEN_THERE,
        )
    chain: list[Any] = []
    error = getattr(data, "error", None)
    while error is not None and len(chain) < _DEPTH:
        chain.append(error)
        error = error.cause
    if not chain:
        return Cause("no error was given")
    ours = next((each for each in chain if each.message.startswith(_OURS)), None)
    if ours is None:  # the first is Dagster's own, about the op in which it happened
        return Cause(_first_line(chain[min(1, len(chain) - 1)].message))
    return Cause(_first_line(ours.message).partition(": ")[2])


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), text)
