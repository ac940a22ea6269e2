"""Killed at any point, paused, or doubled: a campaign comes to its end with nothing lost, doubled or redone."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from cm_dagster_tests.faults.conftest import Play
from cm_dagster_tests.faults.scenario import ELSEWHERE, FIRST, Event, Scenario, make_scenario
from cm_dagster_tests.faults.tally import run

DEATHS = 40
"""Deaths in this test; ``make faults`` has a thousand."""


def pause(point: str) -> Scenario:
    return Scenario((Event("duel", {"points": [point], "how": int(signal.SIGSTOP), "again": True}),))


def test_deaths_at_many_points_leave_nothing_lost_doubled_or_redone(folder: Path) -> None:
    tally = run(seed=7, number=DEATHS, folder=folder / "crashes", jobs=2)
    assert tally.bad == []
    assert tally.deaths >= DEATHS
    assert tally.crashes[FIRST] == tally.worlds
    assert sum(tally.counts.values()) == 0


@pytest.mark.parametrize("point", ["claim.taken", "submit.prepared", "record.begun", "plan.written"])
def test_a_host_that_wakes_late_beside_another_does_no_harm(played: Play, point: str) -> None:
    result = played(pause(point))
    assert result.pauses[point] == 1
    assert result.good, str(result)


@pytest.mark.parametrize("point", sorted(ELSEWHERE - {FIRST}))
def test_points_that_worlds_do_not_come_to_have_tests_of_their_own(point: str) -> None:
    tests = Path(__file__).parents[1]
    files = list((tests / "integration").glob("test_*.py"))
    assert any(f'"{point}"' in file.read_text() for file in files)


def test_a_scenario_is_the_same_again_from_its_file(tmp_path: Path) -> None:
    scenario = make_scenario("some seed")
    scenario.save(tmp_path / "scenario.json")
    assert Scenario.load(tmp_path / "scenario.json") == scenario == make_scenario("some seed")
