"""A clock that was ahead and was set back: Dagster's daemon ticks at once, not when that time has come."""

from __future__ import annotations

import time

import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, SensorInstigatorData

from cm_dagster_tests.integration.ledger_rig import Rig

_REPOSITORY = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("here"), "__repository__")
_ORIGIN = RemoteInstigatorOrigin(_REPOSITORY, "watch")


@pytest.mark.parametrize(("ahead", "kept"), [(-30.0, True), (2.0, True), (7200.0, False)])
def test_ticks_in_a_future_that_was_called_off_are_forgotten(rig: Rig, ahead: float, kept: bool) -> None:
    last = time.time() + ahead
    data = SensorInstigatorData(last_tick_timestamp=last, last_tick_start_timestamp=last, cursor="5")
    state = InstigatorState(_ORIGIN, InstigatorType.SENSOR, InstigatorStatus.RUNNING, data)
    rig.instance.add_instigator_state(state)
    one = rig.instance.get_instigator_state(_ORIGIN.get_id(), state.selector_id)
    assert one is not None
    for found in (one, *rig.instance.all_instigator_state()):
        assert isinstance(found.instigator_data, SensorInstigatorData)
        assert found.instigator_data.cursor == "5"
        times = (found.instigator_data.last_tick_timestamp, found.instigator_data.last_tick_start_timestamp)
        assert times == ((last, last) if kept else (None, None))
