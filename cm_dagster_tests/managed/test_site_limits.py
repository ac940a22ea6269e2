"""Limits of a site, whatever the campaign, by the log of its own WMS; each is set while the campaigns wait."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from cm_dagster_tests.managed.conftest import (
    SECOND,
    building,
    closed_now,
    done,
    make,
    most_at_once,
    reason,
    wait,
    wms_log,
)
from cm_dagster_tests.outages.stage import Wms
from cm_dagster_tests.system.rig import Case, Rig

_IN_FLIGHT, _BUILDING, _PER_HOUR = 3, 2, 9
_GROUPS = 8
_RAMP = 12
"""Limit on workflows, and number of groups, of the campaign that meets an outage."""
_OVER = 90.0
"""Seconds until all is taken again after it."""
_SLEEP = [{"task": "isr", "action": "sleep", "seconds": 3}]


def _limit(rig: Rig, *limits: str) -> None:
    rig.program("cm", "limits", "set", "--site", SECOND, *limits, "--reason", "to be tested")


def _ended(*cases: Case) -> int:
    return sum(case.count().get("accepted", 0) for case in cases)


@pytest.fixture(scope="module")
def two(rig: Rig) -> tuple[Case, Case]:
    """Two campaigns at a site that is closed now, and then takes nine groups in an hour."""
    limits = (f"in_flight={_IN_FLIGHT}", f"building={_BUILDING}", f"per_hour={_PER_HOUR}")
    _limit(rig, *limits, f"windows={closed_now()}")
    first, second = (make(rig, name, _SLEEP, SECOND, groups=_GROUPS) for name in ("first", "second"))
    first.start()
    second.start()
    return first, second


def test_a_site_takes_what_its_limits_allow_of_all_campaigns_together(two: tuple[Case, Case]) -> None:
    rig, (first, second) = two[0].rig, two
    wait("groups that wait", lambda: all("takes groups again from" in reason(case) for case in two))
    assert not wms_log(rig, SECOND)
    opened = time.time()
    _limit(rig, "windows=00:00-24:00")
    wait("what goes in an hour", lambda: _ended(*two) == _PER_HOUR)
    said = f"site {SECOND}: {_PER_HOUR} of at most {_PER_HOUR} submissions in the last 60 minutes"
    wait("the reason", lambda: said in reason(first) + reason(second))
    log = wms_log(rig, SECOND)
    assert len(log) == _PER_HOUR
    assert min(begin for _, begin, _ in log) > opened
    shares = Counter(name.partition(".")[0] for name, _, _ in log)
    assert min(shares.values()) >= _PER_HOUR // 2  # neither waits for the other
    _limit(rig, "per_hour=none")
    done(first)
    done(second)
    log = wms_log(rig, SECOND)
    assert len(log) == 2 * _GROUPS
    assert 1 < most_at_once([(begin, end) for _, begin, end in log]) <= _IN_FLIGHT
    assert 1 < most_at_once(building(rig, SECOND)) <= _BUILDING


def test_after_an_outage_of_its_wms_a_site_takes_more_and_more(rig: Rig, two: tuple[Case, Case]) -> None:
    for case in two:
        done(case)
    ramp = ("ramp_up.after=0.05", f"ramp_up.over={_OVER / 60.0}", "ramp_up.start=0.1")
    _limit(rig, f"in_flight={_RAMP}", "building=none", *ramp)
    case = make(rig, "ramp", [], SECOND, groups=_RAMP)
    with Wms(rig.deployment.wms_home(SECOND)).away():
        case.start()
        wait("the outage that is seen", lambda: not _answers(case))
        time.sleep(10.0)
        returned = time.time()
    wait("the reason", lambda: "the WMS is back since" in _why(case, _RAMP - 1))
    done(case)
    begun = [begin - returned for name, begin, _ in wms_log(rig, SECOND) if name.startswith("ramp.")]
    assert len(begun) == _RAMP
    for number, at in enumerate(begun, start=1):
        assert number <= max(1, int((0.1 + 0.9 * at / _OVER) * _RAMP)), begun


def _why(case: Case, number: int) -> str:
    return case.rig.program("cm", "group", "show", case.name, "step1", f"g{number:04d}")


def _answers(case: Case) -> bool:
    (seen,) = [each for each in case.view().sites if each.site == SECOND]
    return bool(seen.to_json()["answers"])
