"""Signs of life in Dagster's storage, made by hand: of its daemon, and of code servers by their sensors' ticks."""

from __future__ import annotations

import time

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._daemon.types import DaemonHeartbeat
from dagster_shared.error import SerializableErrorInfo

__all__ = ["beat", "tick"]


def beat(instance: dg.DagsterInstance, ago: float) -> None:
    """Have Dagster's daemon give a sign of life."""
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - ago, "SENSOR", "a-daemon", []))


def tick(
    instance: dg.DagsterInstance,
    ago: float,
    *,
    site: str = "local",
    error: str = "",
    going: bool = False,
    location: str = "",
    on: bool = True,
) -> None:
    """Have a site's watch sensor tick; one that went well before it is remembered by Dagster."""
    code = GrpcServerCodeLocationOrigin(host="host", port=4266, location_name=location or site)
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(code, "__repository__"), f"watch_{site}")
    then, well = time.time() - ago, not error and not going
    status = InstigatorStatus.DECLARED_IN_CODE if on else InstigatorStatus.STOPPED
    data = SensorInstigatorData(last_tick_success_timestamp=then if well else None, last_sensor_start_timestamp=1.0)
    state = InstigatorState(origin, InstigatorType.SENSOR, status, data)
    known = instance.get_instigator_state(state.instigator_origin_id, state.selector_id)
    (instance.update_instigator_state if known else instance.add_instigator_state)(state)
    word = TickStatus.STARTED if going else TickStatus.FAILURE if error else TickStatus.SKIPPED
    what = SerializableErrorInfo("it broke", [], error) if error else None
    selector = state.selector_id
    made = TickData(
        state.instigator_origin_id, f"watch_{site}", InstigatorType.SENSOR, word, then, error=what, selector_id=selector
    )
    instance.create_tick(made)
