"""What people set of sites at run time: each change is a materialization of the asset ``sites``, a partition each.

The latest materialization of a site's partition holds all that is set; the earlier ones are its history, with who, when
and why.

Uses of ``dagster._core``: none.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg

from cm_dagster.crashpoints import crash_point
from cm_dagster.ledger.latest import latest
from cm_dagster.ledger.overrides import Override, changed_text, dump, load, overridden, without

__all__ = ["ASSET", "PARTITIONS", "STOP", "override", "read_overrides", "reset"]

ASSET = dg.AssetKey(["sites"])
PARTITIONS = dg.DynamicPartitionsDefinition(name="sites")
STOP = "stop"
"""In place of a path, where a downtime is kept: its value is when it ends, in seconds since the epoch, or None."""
_NAME = "set at run time"


def read_overrides(instance: dg.DagsterInstance, site: str) -> dict[str, Override]:
    """Read what was set of a site at run time, by dotted path or `STOP`."""
    return latest(instance, ASSET, [site], _read).get(site, {})


def _read(record: dg.EventLogRecord) -> dict[str, Override]:
    event = record.asset_materialization
    return load(event.metadata[_NAME].value) if event else {}


def override(
    instance: dg.DagsterInstance, site: str, values: Mapping[str, Any], *, user: str, reason: str, action: str = ""
) -> dict[str, Override]:
    """Set settings of a site at run time, by dotted path; returns what was set there before.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        Name of the site.
    values
        The settings.
    user, reason
        Who does it, and why.
    action
        What it is called in the site's history; by default it tells the settings.
    """
    before = read_overrides(instance, site)
    now = overridden(before, values, user=user, time=time.time(), reason=reason)
    _write(instance, site, now, action or f"set {changed_text(values)}", user=user, reason=reason)
    return {path: each for path, each in before.items() if path in values}


def reset(
    instance: dg.DagsterInstance, site: str, paths: Iterable[str], *, user: str, reason: str, action: str = ""
) -> list[str]:
    """Take back what was set at run time at some paths; returns those at which something was set.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        Name of the site.
    paths
        Where something may be set.
    user, reason
        Who does it, and why.
    action
        What it is called in the site's history; by default it tells the paths.
    """
    before = read_overrides(instance, site)
    gone = [path for path in paths if path in before]
    if gone:
        _write(instance, site, without(before, gone), action or f"reset {' '.join(gone)}", user=user, reason=reason)
    return gone


def _write(
    instance: dg.DagsterInstance, site: str, overrides: Mapping[str, Override], action: str, *, user: str, reason: str
) -> None:
    metadata = {
        "action": dg.MetadataValue.text(action),
        "user": dg.MetadataValue.text(user),
        "reason": dg.MetadataValue.text(reason),
        _NAME: dg.MetadataValue.json(dump(overrides)),
    }
    description = f"{action}, by {user}: {reason}"
    made = dg.AssetMaterialization(ASSET, partition=site, description=description, metadata=metadata)
    instance.report_runless_asset_event(made)
    crash_point("limits.written")
    instance.add_dynamic_partitions(PARTITIONS.name or "sites", [site])  # for the UI, which shows what it knows
