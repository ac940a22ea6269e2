"""What a clock that was set back leaves behind: times to come, which Dagster would wait for.

Dagster's daemon takes a sensor to have ticked a moment ago as long as its last tick lies ahead, so after a clock was
two hours ahead nothing would tick for two hours.

Uses of ``dagster._core``: what the storage keeps of a sensor. There is no documented way to change its last tick.
"""

from __future__ import annotations

from dagster._core.scheduler.instigation import InstigatorState, SensorInstigatorData

__all__ = ["SKEW", "without_future"]

SKEW = 10.0
"""Seconds by which the clocks of hosts may differ."""


def without_future(state: InstigatorState, now: float) -> InstigatorState:
    """Give a sensor's state without the times of ticks that lie ahead, so that it ticks at once.

    Parameters
    ----------
    state
        What Dagster's storage says.
    now
        The time, in seconds since the epoch.
    """
    data = state.instigator_data
    if not isinstance(data, SensorInstigatorData):
        return state
    names = ("last_tick_timestamp", "last_tick_start_timestamp")
    ahead = {name: None for name in names if (getattr(data, name) or 0.0) > now + SKEW}
    return state.with_data(data._replace(**ahead)) if ahead else state
