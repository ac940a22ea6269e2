"""Each of the four things that the promises rest on is taken away, and the oracle cries."""

from __future__ import annotations

import signal

import pytest

from cm_dagster.testing.oracle.findings import Kind
from cm_dagster_tests.faults.conftest import Play
from cm_dagster_tests.faults.mutations import MUTATIONS
from cm_dagster_tests.faults.scenario import Event, Scenario

_SENT = Event("live", {"points": ["submit.sent"]})
_PAUSED = Event("duel", {"points": ["submit.prepared"], "how": int(signal.SIGSTOP), "again": True})
_FORGETFUL = [
    Event("live", {"rounds": 3}),
    Event("fault", {"kind": "word", "word": "ODD", "times": 3}),
    Event("live", {"rounds": 3}),
]

_FAILING = [Event("order", {"fail": [f"step2/g{n:04d}" for n in range(3)]}), Event("live", {"rounds": 16})]

SCENARIOS: dict[str, tuple[Scenario, Kind]] = {
    "no look-up": (Scenario((_SENT,)), "twins"),
    "no claim": (Scenario((_PAUSED,)), "redone"),
    "unknown is failed": (Scenario(tuple(_FORGETFUL)), "redone"),
    "any predecessor": (Scenario(tuple(_FAILING)), "early"),
}
"""What shows that it is missing, and as what."""


def test_there_is_a_scenario_for_each_mutation() -> None:
    assert SCENARIOS.keys() == MUTATIONS.keys()


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_without_it_the_oracle_finds_fault(played: Play, mutation: str) -> None:
    scenario, kind = SCENARIOS[mutation]
    assert played(scenario).good
    broken = played(scenario, mutation)
    assert broken.findings.counts[kind] > 0, str(broken)
