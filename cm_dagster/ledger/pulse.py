"""Signs of life in Dagster's storage: of its daemon, and of the code servers by the ticks of their sensors.

A code server that is gone has sensors that do not tick: Dagster's daemon leaves out the sensors of a location that it
can't load, and fails the ticks of one that does not answer.

Uses of ``dagster._core``: `TickStatus` and `InstigatorType`, to ask for ticks that went well, and of sensors alone.
That a sensor's state holds the time of its last good tick (``last_tick_success_timestamp``, none while a tick is under
way or if the last one failed) is how Dagster's daemon itself tells whether a tick was interrupted. The limits of pools
are in the event log's storage; the instance has no call for them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorType, TickStatus

__all__ = ["DAEMON_DEAD", "SensorTick", "daemon_beat", "pool_limit", "read_heard", "read_ticks"]

DAEMON_DEAD = 180.0
"""Seconds without a heartbeat (one comes each 30) after which a part of the daemon is taken to be dead."""
_UNREACHABLE = frozenset({"DagsterUserCodeUnreachableError", "DagsterCodeLocationLoadError"})
_GOOD = [TickStatus.SUCCESS, TickStatus.SKIPPED]


def daemon_beat(instance: dg.DagsterInstance) -> float | None:
    """When the part of Dagster's daemon that makes sensors tick gave its last sign of life; None if it never did.

    In seconds since the epoch.
    """
    beat = instance.get_daemon_heartbeats().get("SENSOR")
    return beat.timestamp if beat else None


def read_heard(instance: dg.DagsterInstance, sensors: Collection[str]) -> dict[str, float]:
    """Read when the code servers of sensors were last heard of, in a query, and one more for each that is not well.

    Parameters
    ----------
    instance
        The Dagster instance.
    sensors
        Names of sensors.

    Returns
    -------
    heard
        By sensor, the end of its latest tick that its code server had a part in, in seconds since the epoch. Sensors
        that never ticked, and those that are switched off, are left out.
    """
    found: dict[str, float] = {}
    for state in instance.all_instigator_state():
        if state.instigator_name in sensors and state.is_running:
            heard = _heard(instance, state)
            # A location that was renamed has left the states of its sensors behind.
            found[state.instigator_name] = max(found.get(state.instigator_name, 0.0), heard)
    return {name: heard for name, heard in found.items() if heard}


@dataclass(frozen=True)
class SensorTick:
    """The latest tick of a sensor that is over."""

    sensor: str
    on: bool
    """Whether the sensor is switched on."""
    time: float | None = None
    """When it was, in seconds since the epoch; None if there was none yet."""
    error: str = ""
    """What went wrong; empty if nothing did."""


def read_ticks(instance: dg.DagsterInstance, location: str) -> list[SensorTick]:
    """Read the latest tick of each sensor of a code location, by name; a query each.

    Parameters
    ----------
    instance
        The Dagster instance.
    location
        Name of the code location.
    """
    states = [
        state
        for state in instance.all_instigator_state()
        if state.instigator_type is InstigatorType.SENSOR
        and state.origin.repository_origin.code_location_origin.location_name == location
    ]
    return [_latest(instance, state) for state in sorted(states, key=lambda state: state.instigator_name)]


def _latest(instance: dg.DagsterInstance, state: Any) -> SensorTick:
    ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=2)
    over = next((tick for tick in ticks if tick.status is not TickStatus.STARTED), None)
    if over is None:
        return SensorTick(state.instigator_name, state.is_running)
    failed = over.status is TickStatus.FAILURE
    error = (over.error.message.strip() if over.error else "no error was given") if failed else ""
    return SensorTick(state.instigator_name, state.is_running, over.end_timestamp or over.timestamp, error)


def pool_limit(instance: dg.DagsterInstance, pool: str) -> int | None:
    """Read how many ops of a pool may run at a time; None if no limit was ever set for it."""
    return next((each.limit for each in instance.event_log_storage.get_pool_limits() if each.name == pool), None)


def _heard(instance: dg.DagsterInstance, state: Any) -> float:
    data = state.instigator_data
    if data is None:
        return 0.0
    if data.last_tick_success_timestamp:
        return float(data.last_tick_success_timestamp)
    origin, selector = state.instigator_origin_id, state.selector_id
    ticks = [tick for tick in instance.get_ticks(origin, selector, limit=2) if _is_answered(tick)]
    ticks = ticks or list(instance.get_ticks(origin, selector, limit=1, statuses=_GOOD))
    if not ticks:  # all that went well are forgotten already (`retention` in dagster.yaml)
        return float(data.last_sensor_start_timestamp or 0)
    return float(ticks[0].end_timestamp or ticks[0].timestamp)


def _is_answered(tick: Any) -> bool:
    """Whether the code server had a part in a tick: an error of a sensor is a sign of life too."""
    if tick.status is TickStatus.FAILURE:
        return tick.error is not None and tick.error.cls_name not in _UNREACHABLE
    return tick.status in _GOOD
