"""``cm status``."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm_dagster.cli.output import bar
from cm_dagster.control.health import write_health, write_progress
from cm_dagster.control.twins import Alarm
from cm_dagster.ledger import store
from cm_dagster.policy.states import GroupState, State
from cm_dagster_tests.unit.cli.conftest import Cm, Rig

GROUP_KEYS = ["total", "planned", "queued", "submitted", "running", "unknown", "accepted", "failed", "held"]
CAUSE = "Workflow 17 failed: 3 of 4 quanta succeeded. isr: 1 of 2 quanta failed (1 x ValueError): no stars."


def fill(rig: Rig) -> str:
    """Bring step1 to every state; gives the run of the failed attempt."""
    rig.start()
    rig.plan("step1", 8)
    rig.attempt("step1", 0, State.ACCEPTED)
    failed = rig.attempt("step1", 1, State.FAILED, message=CAUSE)
    for place, state in enumerate((State.QUEUED, State.SUBMITTED, State.RUNNING, State.UNKNOWN), 2):
        rig.attempt("step1", place, state)
    rig.attempt("step1", 6, State.CANCELLED, message="Workflow 17 was cancelled.")
    return failed


def test_json_of_one_campaign(cm_run: Cm, rig: Rig) -> None:
    fill(rig)
    document = cm_run("status", "rc2", "--json").json
    assert list(document) == ["campaign", "state", "started", "output", "steps", "sites"]
    assert (document["campaign"], document["state"]) == ("rc2", "running")
    first, second, third = document["steps"]
    assert list(first) == ["step", "state", "groups", "reason", "failures", "jobs", "waits", "sites"]
    assert first["sites"] == [{"site": "local", "groups": 8, "accepted": 1, "unstaged": 0, "undelivered": 0}]
    assert list(first["groups"]) == GROUP_KEYS
    assert first["groups"] == {"total": 8} | dict.fromkeys(GROUP_KEYS[1:], 1)
    assert (second["state"], second["reason"]) == ("waiting", "waits for step1 (running)")
    assert second["groups"] == dict.fromkeys(GROUP_KEYS, 0)
    assert third["reason"] == "waits for step2 (waiting)"


def test_json_without_a_name_is_a_list(cm_run: Cm, home: Path, file: Path) -> None:
    assert cm_run("status", "--json").json == []
    cm_run("campaign", "create", file)
    (document,) = cm_run("status", "--json").json
    assert (document["campaign"], document["state"]) == ("rc2", "created")
    assert document["steps"][0]["reason"] == "the campaign is not started: cm campaign start rc2"


def test_page_says_what_failed_and_why(cm_run: Cm, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(rig)
    rig.attempt("step1", 7, State.FAILED, message=CAUSE.replace("17", "18"))
    monkeypatch.setenv("COLUMNS", "200")
    text = cm_run("status", "rc2").out
    assert f"step1 g0001, g0007 at local: {CAUSE}" in text
    assert "step1 g0006 at local: Workflow 17 was cancelled." in text
    assert "step1: 2 groups failed, 1 group held: cm group list rc2 --step step1 --state failed" in text
    assert "cm group show rc2 step1 g0001" in text
    assert "nothing moves: Dagster's daemon does not run" in text


@pytest.mark.parametrize("columns", [80, 160])
def test_page_fits_the_terminal(cm_run: Cm, rig: Rig, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    fill(rig)
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = cm_run("status").out.splitlines()
    assert max(map(len, lines)) <= columns
    assert any(line.startswith("step1") and "1/8" in line for line in lines)


def test_a_wms_that_does_not_answer(cm_run: Cm, rig: Rig) -> None:
    fill(rig)
    write_health(rig.instance, "local", answers=False, cause="connection refused")
    first = cm_run("status", "rc2", "--json").json["steps"][0]
    assert first["groups"] == {
        "total": 8, "planned": 1, "queued": 1, "submitted": 0, "running": 0, "unknown": 3, "accepted": 1, "failed": 1,
        "held": 1,
    }  # fmt: skip
    assert "the WMS of local has not answered since" in first["reason"]
    assert "connection refused" in cm_run("status").out


def test_a_twin_is_an_alarm_for_a_week(cm_run: Cm, rig: Rig) -> None:
    fill(rig)
    old = Alarm(time.time() - 8 * 86400, "rc2.step1.local.g0000.a01", "11", "10", "a-run")
    new = replace(old, time=time.time() - 86400, twin="13", own="12", run_id="another-run")
    other = replace(new, workflow="other.step1.local.g0000.a01", twin="15")
    store.put(rig.instance, "alarms/local", [asdict(each) for each in (old, new, other)])
    text = cm_run("status").out
    assert "ALARM: 1 twin cancelled at site local" in text
    assert "13 beside 12" in text.replace("\n", " ")
    assert "another-run" in text
    (site,) = cm_run("status", "rc2", "--json").json["sites"]
    assert [alarm["twin"] for alarm in site["alarms"]] == ["13"]


def test_blocked_when_nothing_moves(cm_run: Cm, rig: Rig) -> None:
    rig.start()
    rig.plan("step1", 2)
    rig.attempt("step1", 0, State.ACCEPTED)
    rig.attempt("step1", 1, State.FAILED, message=CAUSE)
    document = cm_run("status", "rc2", "--json").json
    assert document["state"] == "blocked"
    assert document["steps"][0]["state"] == "blocked"
    assert document["steps"][0]["failures"][0]["cause"] == CAUSE
    rig.attempt("step1", 1, State.RUNNING, number=2)
    document = cm_run("status", "rc2", "--json").json
    assert (document["state"], document["steps"][0]["failures"]) == ("running", [])


def test_groups_that_wait_for_a_limit_say_for_which(cm_run: Cm, rig: Rig, tmp_path: Path) -> None:
    rig.start()
    rig.plan("step1", 5)
    for place in range(2):
        rig.attempt("step1", place, State.RUNNING)
    assert cm_run("status", "rc2", "--json").json["steps"][0]["reason"] == ""
    path = tmp_path / "sites.yaml"
    path.write_text(f"{path.read_text()}    limits: {{in_flight: 2}}\n")
    told = cm_run("status", "rc2", "--json").json["steps"][0]["reason"]
    assert told == "3 groups to go: site local: 2 of at most 2 groups are in flight"
    path.write_text("sites: nonsense")
    ran = cm_run("status", "rc2", "--json")
    assert ran.json["steps"][0]["groups"]["running"] == 2
    assert "limits are not shown, since the site file can't be read" in ran.err


def test_a_gate_says_how_to_open_it(cm_run: Cm, rig: Rig) -> None:
    rig.start()
    for step in ("step1", "step2"):
        rig.plan(step, 1)
        rig.attempt(step, 0, State.ACCEPTED)
        rig.collect(step)
    gated = cm_run("status", "rc2", "--json").json["steps"][2]
    assert gated["state"] == "gated"
    assert "cm campaign sign-off rc2 step3 --reason TEXT" in gated["reason"]


def test_watch_ends_when_all_is_done(cm_run: Cm, rig: Rig) -> None:
    rig.start()
    for step in ("step1", "step2", "step3"):
        rig.plan(step, 1)
        rig.attempt(step, 0, State.ACCEPTED)
        rig.collect(step)
    ran = cm_run("status", "rc2", "--watch", "--json")
    assert ran.code == 0
    (line,) = ran.out.splitlines()
    assert json.loads(line)["state"] == "done"
    assert "output collection: HSC/runs/rc2" in cm_run("status", "--watch", "rc2").out


@pytest.mark.parametrize("seconds", ["0", "0.5", "soon", "nan"])
def test_watch_takes_seconds(cm_run: Cm, rig: Rig, seconds: str) -> None:
    ran = cm_run("status", "rc2", f"--watch={seconds}")
    assert ran.code == 2
    assert "--watch" in ran.err


def test_jobs_in_flight_are_added_up(cm_run: Cm, rig: Rig) -> None:
    rig.start()
    rig.plan("step1", 2)
    runs = [rig.attempt("step1", place, State.RUNNING) for place in range(2)]
    write_progress(rig.instance, "local", {run: {"succeeded": 2, "running": 3} for run in runs})
    assert cm_run("status", "rc2", "--json").json["steps"][0]["jobs"] == {"running": 6, "succeeded": 4}
    assert "2 running, jobs 4/10" in cm_run("status").out


def test_an_unknown_campaign(cm_run: Cm, rig: Rig) -> None:
    ran = cm_run("status", "nope")
    assert ran.code == 1
    assert "known campaigns: rc2" in ran.err


@given(
    counts=st.dictionaries(st.sampled_from(GroupState), st.integers(0, 10_000)),
    width=st.integers(len(GroupState), 60),
    plain=st.booleans(),
)
def test_bar_shows_every_state_and_fills_its_width(counts: dict[GroupState, int], width: int, plain: bool) -> None:
    drawn = bar(counts, width, ascii_only=plain)
    there = {state for state, count in counts.items() if count}
    assert len(drawn.plain) == (width if there else 0)
    assert len(drawn.spans) == len(there)
    assert drawn.plain.isascii() or not plain
