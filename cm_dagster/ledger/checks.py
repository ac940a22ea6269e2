"""The asset check `quanta` of a step's groups: the verdict on a workflow, written onto the run of its attempt.

Uses of ``dagster._core``: the events of an evaluation that was planned and of one that was made, and the pointer from
the latter to a materialization. Dagster has a public method to report an evaluation, but without a run, and a second
one of the same check and partition then fails (1.13.27): there is one row for a check, a run and a partition.

Dagster's status of a partition is that of the last row, provided that it points to the partition's latest
materialization; without that it shows nothing. So an evaluation is written after the materialization that it stands
beside, and once more when the group is materialized later on, by a person or a rule.

A run that selects a step's asset selects its check too, and Dagster then plans an evaluation. That of a run that is
turned away would stand for ever, as the last row, in front of what the attempts at the group have come to; so planned
evaluations of this check are not stored (`CampaignInstance`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned
from dagster._core.definitions.metadata import RawMetadataValue
from dagster._core.events import DagsterEvent

from cm_dagster.crashpoints import crash_point
from cm_dagster.ledger.attempts import Attempt
from cm_dagster.ledger.writing import Target, Writing

__all__ = ["CHECK", "Check", "follow", "is_ours", "is_planned", "latest_made", "write"]

CHECK = "quanta"
"""Name of the check."""
_LEVELS = 3
"""Parts of the key of a step's asset: campaign, step, site."""


@dataclass(frozen=True)
class Check:
    """How the quanta of a group were judged."""

    passed: bool
    flawed: bool
    """Whether it passed with less than all quanta, or with caveats."""
    message: str
    metadata: dict[str, RawMetadataValue] = field(default_factory=dict)

    @property
    def severity(self) -> dg.AssetCheckSeverity:
        """How much a person should mind."""
        return dg.AssetCheckSeverity.WARN if self.passed and self.flawed else dg.AssetCheckSeverity.ERROR


def write(writer: Writing, attempt: Attempt, check: Check, target: Target | None) -> None:
    """Write how an attempt was judged; the last one of a run counts.

    Parameters
    ----------
    writer
        Writes it.
    attempt
        The attempt.
    check
        How it was judged.
    target
        The materialization that it stands beside, the latest of the group, of whichever attempt; None without.
    """
    evaluation = dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(attempt.id.step.asset),
        check_name=CHECK,
        passed=check.passed,
        metadata=check.metadata,
        target_materialization_data=target,
        severity=check.severity,
        description=check.message,
        partition=attempt.id.group,
    )
    _write(writer, attempt, evaluation)


def follow(writer: Writing, attempt: Attempt, target: Target | None) -> None:
    """Have the check of an attempt, if it was judged, show itself beside a materialization that came later.

    Parameters
    ----------
    writer
        Writes it.
    attempt
        The attempt.
    target
        The materialization, the latest of the group.
    """
    kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    records = writer.instance.get_records_for_run(attempt.run_id, of_type=kind, limit=1, ascending=False).records
    event = records[0].event_log_entry.dagster_event if records else None
    if event is None:
        return
    judged = event.asset_check_evaluation_data
    if judged.target_materialization_data != target:
        again = dg.AssetCheckEvaluation(
            asset_key=judged.asset_key,
            check_name=judged.check_name,
            passed=judged.passed,
            metadata=judged.metadata,
            target_materialization_data=target,
            severity=judged.severity,
            description=judged.description,
            partition=judged.partition,
        )
        _write(writer, attempt, again)


def _write(writer: Writing, attempt: Attempt, evaluation: dg.AssetCheckEvaluation) -> None:
    writer.event(attempt, dg.DagsterEventType.ASSET_CHECK_EVALUATION, evaluation.description or "", evaluation)
    crash_point("judge.checked")


def is_planned(event: DagsterEvent) -> bool:
    """Say whether an event is a planned evaluation of our check."""
    data = event.event_specific_data
    return isinstance(data, AssetCheckEvaluationPlanned) and is_ours(data.asset_check_key)


def is_ours(check: dg.AssetCheckKey) -> bool:
    """Say whether a check is that of a step's groups, by its key alone."""
    return check.name == CHECK and len(check.asset_key.path) == _LEVELS


def latest_made(instance: dg.DagsterInstance, attempt: Attempt) -> Target | None:
    """Point to the latest materialization of the attempt's group, of whichever attempt; None without."""
    key = dg.AssetKey(attempt.id.step.asset)
    wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[attempt.id.group])
    for record in instance.fetch_materializations(wanted, limit=1).records:
        return Target(storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp)
    return None
