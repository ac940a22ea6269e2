"""Many attempts at once, as copies of one that Dagster made of the same step.

Dagster makes a run from a sensor's request in some 25 ms of its daemon: it asks the code location for the plan of the
run, which is the same for all groups of a step, and passes the run through the coordinator. So the dispatcher has
Dagster make the first few of a step, and writes all others itself, in one transaction: what an attempt is made of, its
planned materialization and its place in the queue. An attempt is copied only if it was made since this process began,
whose definitions it is made of.

Uses of ``dagster._core``: the events of a planned materialization and of a place in the queue, which Dagster's
launching and its run coordinator write; the subset of partitions that a run names.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import dagster as dg
from dagster import EventLogEntry, PartitionKeyRange
from dagster._core.definitions.partitions.subset.key_ranges import KeyRangesPartitionsSubset
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent

from cm_dagster.ledger import tags
from cm_dagster.ledger.admission import attempt_tags
from cm_dagster.ledger.attempts import Attempt, AttemptIndex, index_of, read_attempts
from cm_dagster.ledger.locks import one_writer
from cm_dagster.ledger.moves import Moves
from cm_dagster.ledger.writing import entry
from cm_dagster.plan.names import AttemptId, StepId
from cm_dagster.policy.states import State

__all__ = ["FIRST", "Copies", "Wish", "can_copy", "queue_copies"]

FIRST = 5
"""Attempts of a step that Dagster is asked for at a time, as long as there is none to copy."""
_MODELS = 5
"""Attempts of a step that are looked at for one to copy."""
_BEGUN = time.time()
"""When this process began."""
_OF_LAUNCH = ("dagster/code_location", "dagster/partition_set", "dagster/sensor_name")
"""Tags that Dagster puts onto the runs of a sensor, and that are the same for all groups of a step."""
_RUN_KEY = "dagster/run_key"


@dataclass(frozen=True)
class Wish:
    """An attempt that is to be requested."""

    id: AttemptId
    run_key: str
    """Makes Dagster request it once, whatever is repeated."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags of its run."""


class Copies(NamedTuple):
    """What became of wishes."""

    made: list[Wish]
    """Those whose attempts are queued."""
    late: list[Wish]
    """Those that make no sense any more."""


def can_copy(instance: dg.DagsterInstance) -> bool:
    """Say whether the storage writes many runs at once."""
    return hasattr(instance.run_storage, "copy_run")  # see `cm_dagster.ledger.storage`


def queue_copies(instance: dg.DagsterInstance, site: str, wishes: Sequence[Wish]) -> Copies:
    """Make attempts of those wishes whose step has one to be copied.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        The site of all of them.
    wishes
        What is wished for.

    Returns
    -------
    copies : `Copies`
        What became of them; those are in neither list whose step has no attempt to be copied.
    """
    copies = Copies([], [])
    if not wishes or not can_copy(instance):
        return copies
    by_step: dict[StepId, list[Wish]] = defaultdict(list)
    for wish in wishes:
        by_step[wish.id.step].append(wish)
    with one_writer(instance, f"attempts/{site}"):  # two daemons by mistake: the other one sees what this one makes
        index, moves = index_of(instance), Moves(instance)
        for step, own in by_step.items():
            if model := _model(instance, index, step):
                made = [wish for wish in own if _makes_sense(index, moves, wish.id)]
                _write(instance, model, made)
                copies.made.extend(made)
                copies.late.extend(wish for wish in own if wish not in made)
    return copies


def _model(instance: dg.DagsterInstance, index: AttemptIndex, step: StepId) -> Attempt | None:
    """Find an attempt that Dagster, or this module, has made of a request of the dispatcher, and nobody has deleted."""
    newest = reversed(list(index.of_step(step).values()))
    known = list(islice((attempt for attempt in newest if _is_model(attempt, step)), _MODELS))
    there = read_attempts(instance, [attempt.run_id for attempt in known])
    return next((attempt for attempt in known if attempt.run_id in there), None)


def _is_model(attempt: Attempt, step: StepId) -> bool:
    return (
        attempt.created > _BEGUN
        and attempt.job == step.job
        and not attempt.parent
        and not attempt.backfill
        and attempt.status is not dg.DagsterRunStatus.NOT_STARTED
        and _RUN_KEY in attempt.run.tags
    )


def _makes_sense(index: AttemptIndex, moves: Moves, id_: AttemptId) -> bool:
    """Say whether an attempt would be admitted: by the same rules as those that pass the coordinator."""
    elsewhere, first = moves.refusal(id_.step, id_.group)
    latest = index.of_step(id_.step).get(id_.group)
    if elsewhere or (latest and (latest.is_open or latest.state is State.ACCEPTED)):
        return False
    return id_.number == max(latest.id.number + 1 if latest else 1, first)


def _write(instance: dg.DagsterInstance, model: Attempt, wishes: Sequence[Wish]) -> None:
    if not wishes:
        return
    runs: Any = instance.run_storage
    log: Any = instance.event_log_storage
    made = [_run(model, wish) for wish in wishes]
    with runs.one_transaction():
        runs.copy_run(model.run_id, made)
        log.store_many([entry for run, wish in zip(made, wishes, strict=True) for entry in _entries(run, wish.id)])


def _run(model: Attempt, wish: Wish) -> dg.DagsterRun:
    run_id, group = str(uuid.uuid4()), wish.id.group
    of_launch = {tag: value for tag in _OF_LAUNCH if (value := model.run.tags.get(tag))}
    own = {tags.PARTITION: group, _RUN_KEY: wish.run_key, **wish.tags}
    return model.run._replace(
        run_id=run_id,
        status=dg.DagsterRunStatus.QUEUED,
        tags={**of_launch, **own, **attempt_tags(wish.id, run_id)},
        partitions_subset=_subset(model.run, group),
    )


def _subset(model: dg.DagsterRun, group: str) -> KeyRangesPartitionsSubset | None:
    subset = model.partitions_subset
    if not isinstance(subset, KeyRangesPartitionsSubset):
        return None
    return KeyRangesPartitionsSubset(
        key_ranges=[PartitionKeyRange(group, group)], partitions_snap=subset.partitions_snap
    )


def _entries(run: dg.DagsterRun, id_: AttemptId) -> list[EventLogEntry]:
    key = dg.AssetKey(id_.step.asset)
    planned = DagsterEvent.build_asset_materialization_planned_event(
        run.job_name, "__".join(key.path), AssetMaterializationPlannedData(key, partition=id_.group)
    )
    return [entry(run.run_id, planned, logging.DEBUG), entry(run.run_id, DagsterEvent.job_enqueue(run))]
