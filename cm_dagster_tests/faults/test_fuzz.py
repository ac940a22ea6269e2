"""Anything may happen in any order: outages, deaths, what pilots do, clocks that jump.

For more than the few examples of each run of the tests: ``CM_FUZZ_EXAMPLES=100``, and ``--hypothesis-seed`` for others.
"""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cm_dagster.crashpoints import POINTS
from cm_dagster_tests.faults.conftest import Play
from cm_dagster_tests.faults.life import HOST, WORKER
from cm_dagster_tests.faults.scenario import GROUPS, Event, Scenario

_FAULTS = (
    "error-before",
    "lost-submit",
    "done-but-error",
    "down",
    "late",
    "late-list",
    "partial",
    "twin",
    "lost-cancel",
)
"""What goes wrong at the WMS, and comes right again: a workflow that it has forgotten waits for a person."""
_VERBS = ("retry", "restart", "reject", "cancel", "hold", "release")
"""What a pilot decides about a group."""
_group = st.sampled_from(GROUPS)
_events = st.one_of(
    st.builds(lambda rounds: Event("live", {"rounds": rounds}), st.integers(1, 4)),
    st.builds(
        lambda point, nth, how, who: Event("live", {"points": [point], "nth": nth, "how": int(how), "who": who}),
        st.sampled_from(sorted(POINTS)),
        st.integers(1, 3),
        st.sampled_from([signal.SIGKILL, signal.SIGTERM]),
        st.sampled_from([HOST, WORKER]),
    ),
    st.builds(
        lambda kind, times, seconds: Event("fault", {"kind": kind, "times": times, "seconds": seconds}),
        st.sampled_from(_FAULTS),
        st.integers(1, 3),
        st.sampled_from([5.0, 25.0]),
    ),
    st.builds(
        lambda kind, times: Event("fault", {"kind": kind, "times": times, "seconds": 0.2}),
        st.sampled_from(["done-but-timeout", "slow"]),
        st.integers(1, 3),
    ),
    st.builds(
        lambda word, times: Event("fault", {"kind": "word", "word": word, "times": times}),
        st.sampled_from(["ODD", "UNKNOWN"]),
        st.integers(1, 3),
    ),
    st.builds(lambda away: Event("order", {"butler": away}), st.booleans()),
    st.builds(lambda group, what: Event("order", {what: [group]}), _group, st.sampled_from(["fail", "orphan"])),
    st.builds(lambda seconds: Event("clock", {"seconds": seconds}), st.sampled_from([-3600.0, 600.0, 86400.0])),
    st.builds(lambda group, force: Event("terminate", {"group": group, "force": force}), _group, st.booleans()),
    st.builds(lambda group: Event("launch", {"group": group}), _group),
    st.builds(lambda group, verb: Event("decide", {"group": group, "verb": verb}), _group, st.sampled_from(_VERBS)),
)


@given(st.lists(_events, min_size=2, max_size=10).map(lambda events: Scenario(tuple(events))))
@settings(
    max_examples=int(os.environ.get("CM_FUZZ_EXAMPLES", "4")),
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # an example takes long: shrink by hand from its file
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_whatever_happens_the_campaign_comes_to_its_end(played: Play, scenario: Scenario) -> None:
    result = played(scenario)
    assert result.good, str(result)
