"""Whether a site's code server is heard of, by what Dagster's storage has."""

from __future__ import annotations

import time
from functools import partial

import dagster as dg
import pytest

from cm_dagster.control.health import read_sites
from cm_dagster.ledger.pulse import pool_limit, read_ticks
from cm_dagster_tests.integration.ledger_rig import SITE, Rig
from cm_dagster_tests.pulses import beat, tick

UNREACHABLE = "DagsterUserCodeUnreachableError"


def silent_since(instance: dg.DagsterInstance) -> float | None:
    """For how long the site is silent; None if it is not."""
    silence = read_sites(instance, {SITE: 30.0})[SITE].silence
    return time.time() - silence.since if silence else None


def test_only_a_code_server_that_is_away_is_silent(rig: Rig) -> None:
    instance = rig.instance
    watched = partial(tick, instance, site=SITE)
    watched(3600)
    assert silent_since(instance) is None  # there never was a daemon
    beat(instance, 100)
    watched(110)
    assert silent_since(instance) is None  # it is the daemon that was heard of last so long ago
    beat(instance, 5)
    assert silent_since(instance) == pytest.approx(110, abs=15)
    watched(90, error=UNREACHABLE)
    watched(50, error=UNREACHABLE)
    watched(30, going=True)
    assert silent_since(instance) == pytest.approx(110, abs=15)  # by the last tick that went well
    watched(20, error="ValueError")
    assert silent_since(instance) is None  # its code answers, if only with an error
    watched(700, on=False)
    assert silent_since(instance) is None  # somebody has switched the sensor off
    watched(15, location="renamed")
    assert silent_since(instance) is None


def test_sites_are_told_apart(rig: Rig) -> None:
    beat(rig.instance, 5)
    tick(rig.instance, 500, site="east")
    tick(rig.instance, 20, site="west", error="ValueError")
    found = read_sites(rig.instance, {"east": 30.0, "west": 30.0, "never": 30.0})
    assert [name for name, each in found.items() if each.silence] == ["east"]
    assert read_sites(rig.instance, {"east": 200.0})["east"].silence is None  # three ticks of a slow site
    (east,), (west,) = read_ticks(rig.instance, "east"), read_ticks(rig.instance, "west")
    assert (east.sensor, east.on, east.error) == ("watch_east", True, "")
    assert (west.sensor, west.error) == ("watch_west", "it broke")
    assert time.time() - (west.time or 0.0) == pytest.approx(20, abs=15)
    assert read_ticks(rig.instance, "never") == []


def test_the_limit_of_a_pool(rig: Rig) -> None:
    assert pool_limit(rig.instance, "bps-submit/east") is None
    rig.instance.event_log_storage.set_concurrency_slots("bps-submit/east", 3)
    assert pool_limit(rig.instance, "bps-submit/east") == 3
    assert pool_limit(rig.instance, "bps-submit/west") is None
