"""What the UI shows of the check `quanta` of all groups of a step.

Uses of ``dagster._core``: the state of an asset check and what it is made of. Dagster's own way (1.13.27) fails for
dynamic partitions, with "The instance is not available to load partitions", as soon as one has been judged: the UI then
shows no check at all. It would also ask for each partition whether it exists, and copy the set of all partitions for
each of them. Here the same is told by one list of the partitions and one pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import dagster as dg
from dagster._core.asset_graph_view.serializable_entity_subset import SerializableEntitySubset
from dagster._core.definitions.partitions.definition.partitions_definition import PartitionsDefinition
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecordStatus,
    AssetCheckExecutionResolvedStatus,
)
from dagster._core.storage.asset_check_state import AssetCheckState
from dagster._core.storage.event_log.base import EventLogStorage

from cm_dagster.ledger.checks import is_ours

__all__ = ["tell_states"]

type _Asked = Sequence[tuple[dg.AssetCheckKey, PartitionsDefinition | None]]

_SHOWN = {
    AssetCheckExecutionRecordStatus.SUCCEEDED: AssetCheckExecutionResolvedStatus.SUCCEEDED,
    AssetCheckExecutionRecordStatus.FAILED: AssetCheckExecutionResolvedStatus.FAILED,
}
"""As what the UI shows an evaluation; a planned one of ours shows nothing."""


def tell_states(instance: dg.DagsterInstance, storage: EventLogStorage) -> None:
    """Have an event log's storage tell the states of our checks in this way; those of others as before."""
    if "get_asset_check_state" not in vars(storage):
        vars(storage)["get_asset_check_state"] = partial(_states, instance, storage)


def _states(
    instance: dg.DagsterInstance, storage: EventLogStorage, asked: _Asked
) -> Mapping[dg.AssetCheckKey, AssetCheckState]:
    found: dict[dg.AssetCheckKey, AssetCheckState] = {}
    others = []
    for check, partitions in asked:
        if is_ours(check) and isinstance(partitions, dg.DynamicPartitionsDefinition):
            found[check] = _state(instance, storage, check, partitions)
        else:
            others.append((check, partitions))
    stock = type(storage).get_asset_check_state(storage, others) if others else {}
    return {**stock, **found}


def _state(
    instance: dg.DagsterInstance,
    storage: EventLogStorage,
    check: dg.AssetCheckKey,
    partitions: dg.DynamicPartitionsDefinition,
) -> AssetCheckState:
    known = set(instance.get_dynamic_partitions(partitions.name or ""))
    shown: dict[AssetCheckExecutionResolvedStatus, list[str]] = {
        status: [] for status in AssetCheckExecutionResolvedStatus
    }
    latest = 0
    for info in storage.get_asset_check_partition_info([check]):
        latest = max(latest, info.latest_check_event_storage_id, info.latest_materialization_storage_id or 0)
        status = _SHOWN.get(info.latest_execution_status)
        # As in Dagster's own way: one that an unjudged materialization has followed says nothing any more.
        if status and info.is_current and info.partition_key in known:
            shown[status].append(info.partition_key)
    subsets = {
        status: SerializableEntitySubset.from_coercible_value(check, keys, partitions) for status, keys in shown.items()
    }
    return AssetCheckState(latest_storage_id=latest, subsets=subsets, in_progress_runs={})
