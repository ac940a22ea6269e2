"""What the latest materializations of an asset's partitions say; what was read before is not read again.

Uses of ``dagster._core``: none. Storage ids of materializations are read through methods of the instance that Dagster
does not document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import dagster as dg

__all__ = ["latest"]

_READ: dict[tuple[str, dg.AssetKey, str], tuple[int, Any]] = {}
"""What was read, with the storage id of its record, by instance, asset and partition: a cache of what never changes."""


def latest[T](
    instance: dg.DagsterInstance, asset: dg.AssetKey, partitions: Iterable[str], read: Callable[[dg.EventLogRecord], T]
) -> dict[str, T]:
    """Read the latest materialization of each of some partitions of an asset; those without any are left out.

    Parameters
    ----------
    instance
        The Dagster instance.
    asset
        The asset.
    partitions
        The partitions.
    read
        Makes of a record what is wanted; always the same for an asset.
    """
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION
    ids = instance.get_latest_storage_id_by_partition(asset, kind, set(partitions))
    root = instance.root_directory
    known = {name: kept for name in ids if (kept := _READ.get((root, asset, name)))}
    found = {name: value for name, (id_, value) in known.items() if id_ == ids[name]}
    new = sorted(id_ for name, id_ in ids.items() if name not in found)
    if new:
        wanted = dg.AssetRecordsFilter(asset_key=asset, storage_ids=new)
        for record in instance.fetch_materializations(wanted, limit=len(new)).records:
            name = record.partition_key or ""
            found[name] = read(record)
            _READ[root, asset, name] = record.storage_id, found[name]
    return found
