"""Nobody touches it, and each group ends as the campaign's file says; no limit is ever passed."""

from __future__ import annotations

import json
import time
from collections import Counter

import dagster as dg
import pytest
from lsst.daf.butler import Butler

from cm_dagster_tests.managed.campaign import BUILDING, CLASSES, GROUPS, IN_FLIGHT
from cm_dagster_tests.managed.conftest import Managed, building, done, most_at_once, reason, wait, wms_log
from cm_dagster_tests.system.rig import SITE, Case


def test_a_scout_that_fails_holds_the_step(managed: Managed) -> None:
    case = managed.scouts
    wait("two scouts that ended", lambda: case.count() == {"accepted": 1, "failed": 1, "planned": 2})
    assert "waits for its scouts g0000 (failed: " in reason(case)
    assert "a bad night" in reason(case)
    case.set_faults([])
    case.rig.program("cm", "group", "retry", case.name, "step1", "g0000", "--reason", "the night was looked at")
    done(case)
    assert case.submitted() == {"g0000.a01": 1, "g0000.a02": 1, "g0001.a01": 1, "g0002.a01": 1, "g0003.a01": 1}


def test_a_rate_per_hour_is_kept_and_said_and_changed_while_it_runs(managed: Managed) -> None:
    case = managed.slow
    wait("two groups", lambda: case.count() == {"accepted": 2, "planned": 2})
    shown = case.rig.program("cm", "group", "show", case.name, "step1", "g0003")
    assert "2 of at most 2 submissions in the last 60 minutes" in shown
    assert "2 groups to go: campaign slow: 2 of at most 2 submissions" in reason(case)
    assert case.submitted().total() == 2
    case.rig.program("cm", "limits", "set", "--campaign", case.name, "per_hour=10", "--reason", "it is quick enough")
    done(case)


def test_nothing_is_submitted_while_a_window_is_closed(managed: Managed) -> None:
    case = managed.nights
    wait("groups that wait", lambda: "takes groups again from" in reason(case))
    shown = case.rig.program("cm", "group", "show", case.name, "step1", "g0000")
    assert "takes groups again from" in shown
    assert case.submitted().total() == 0
    opened = time.time()
    why = ["--reason", "the night begins early"]
    case.rig.program("cm", "limits", "set", "--campaign", case.name, "windows=00:00-24:00", *why)
    done(case)
    begun = [begin for name, begin, _ in wms_log(managed.rig) if name.startswith(f"{case.name}.")]
    assert len(begun) == 2
    assert min(begun) > opened


def test_groups_are_held_or_fail_as_the_file_says(managed: Managed) -> None:
    case = managed.held
    wait("an end", lambda: case.count() == {"accepted": 2, "failed": 1, "held": 1} and case.view().state)
    assert case.view().state == "blocked"
    assert case.submitted().total() == 4
    listed = case.rig.program("cm", "group", "list", case.name, "--state", "held")
    assert "g0000" in listed
    assert "g0001" not in listed
    (failed,) = case.attempts("g0001")
    assert "By rule hopeless (isr: ValueError: no hope): fail the group." in case.end_message(failed)


def test_a_rule_stops_a_step(managed: Managed) -> None:
    case = managed.stops
    wait("the stop", lambda: case.count() == {"failed": 1, "planned": 3} and "paused" in reason(case))
    assert "rule wrong" in reason(case)
    assert case.submitted() == {"g0000.a01": 1}
    case.set_faults([])
    case.rig.program("cm", "step", "resume", case.name, "step1", "--reason", "the calibration is right now")
    case.rig.program("cm", "group", "retry", case.name, "step1", "g0000", "--reason", "the calibration is right now")
    done(case)


def _decided(case: Case, group: str) -> list[tuple[str, str]]:
    """Who decided what about a group, as the pilot is told."""
    shown = json.loads(case.rig.program("cm", "group", "show", case.name, "step1", group, "--json"))
    return [(each["user"], each["action"]) for each in shown["decisions"]]


@pytest.mark.parametrize("place", range(len(CLASSES)), ids=[name.replace(" ", "-") for name in CLASSES])
def test_each_fault_is_dealt_with_as_the_file_says(managed: Managed, place: int) -> None:
    case, fate, group = managed.big, list(CLASSES.values())[place], f"g{place:04d}"
    done(case)
    attempts = case.attempts(group)
    if fate.action != "split":  # the group itself is no more
        assert _decided(case, group) == ([(f"rule {fate.rule}", fate.action)] if fate.rule else [])
    assert len(attempts) == fate.attempts
    parts = [f"{group}a", f"{group}b"] if fate.action == "split" else [group]
    assert {case.attempts(part)[-1].status for part in parts} == {"SUCCESS"}
    with Butler.from_config(str(case.rig.survey.root)) as butler:
        numbers = range(1, fate.attempts + 1) if fate.action in ("rescue", "more-memory") else [fate.attempts]
        runs = [f"u/test/big/step1/{part}/a{number:02d}/run" for part in parts for number in numbers]
        found = [
            ref.dataId
            for task in ("isr", "calibrateImage")
            for ref in butler.query_datasets(f"{task}_metadata", collections=runs, explain=False)
        ]
    assert len(found) == fate.quanta


def test_the_sum_of_quanta_is_what_the_butler_counts(managed: Managed) -> None:
    done(managed.big)
    told = {step["step"]: step for step in json.loads(managed.rig.program("cm", "quanta", "big", "--json"))["steps"]}
    groups = told["step1"]["groups"]
    assert (groups["total"], groups["accepted"], groups["below"], groups["uncounted"]) == (GROUPS + 1, GROUPS + 1, 1, 0)
    with Butler.from_config(str(managed.rig.survey.root)) as butler, butler.query() as query:
        for name, step in told.items():
            for task in step["tasks"]:
                found = query.datasets(f"{task['task']}_metadata", f"u/test/big/{name}", find_first=True)
                assert len({ref.dataId for ref in found}) == task["registered"], (name, task)
    first = {task["task"]: task for task in told["step1"]["tasks"]}
    assert first["isr"]["expected"] == first["isr"]["registered"] == 2 * GROUPS
    assert first["calibrateImage"]["registered"] == 2 * GROUPS - 1
    page = managed.rig.ui.materialization(managed.big.key("step1", "collected"))
    assert page is not None
    assert page["quanta registered"] == 4 * GROUPS - 1


def test_what_found_no_work_is_told_as_a_caveat(managed: Managed) -> None:
    done(managed.big)
    group = f"g{list(CLASSES).index('nothing to do'):04d}"
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(managed.big.key()), asset_partitions=[group])
    (record,) = managed.rig.instance.fetch_materializations(wanted, limit=1).records
    assert record.asset_materialization is not None
    table = record.asset_materialization.metadata["quanta"]
    assert isinstance(table, dg.TableMetadataValue)
    caveats = {row.data["task"]: str(row.data["caveats"]) for row in table.records}
    assert "NO_WORK" in caveats["isr"]


def test_a_passive_rule_says_what_it_would_do_and_does_not(managed: Managed) -> None:
    done(managed.big)
    first, _ = managed.big.attempts(f"g{list(CLASSES).index('what passes'):04d}")
    told = managed.rig.ui.messages(first.run_id, "EngineEvent")
    assert any("passive rule would-hold would hold the group" in each for each in told), told


def test_more_memory_was_asked_for(managed: Managed) -> None:
    case, place = managed.big, list(CLASSES).index("too little memory")
    done(case)
    first, second = (attempt.tags["cm/attempt"] for attempt in case.attempts(f"g{place:04d}"))
    assert (first, second) == ("1", "2")
    folder = case.rig.deployment.submit_area(SITE) / "big" / "step1" / f"g{place:04d}"
    (written,) = (folder / "a02").glob("bps.yaml")
    assert "requestMemory: 128" in written.read_text()


def test_no_limit_is_passed_by_the_log_of_the_wms(managed: Managed) -> None:
    done(managed.big)
    log = [(begin, end) for name, begin, end in wms_log(managed.rig) if name.startswith("big.")]
    assert len(log) >= GROUPS + 5
    assert 1 < most_at_once(log) <= IN_FLIGHT


def test_quantum_graphs_are_built_a_few_at_a_time(managed: Managed) -> None:
    done(managed.big)
    assert 1 < most_at_once(building(managed.rig, campaign="big")) <= BUILDING


def test_every_group_was_submitted_as_often_as_it_has_attempts(managed: Managed) -> None:
    done(managed.big)
    assert set(managed.big.submitted().values()) == {1}
    names = [name.split(".")[3] for name, _, _ in wms_log(managed.rig) if name.startswith("big.step1.")]
    fates = dict(zip((f"g{place:04d}" for place in range(GROUPS)), CLASSES.values(), strict=False))
    wanted = Counter({f"g{place:04d}": 1 for place in range(GROUPS)})
    wanted.update({group: fate.attempts - 1 for group, fate in fates.items()})
    wanted.update({f"{group}{part}": 1 for group, fate in fates.items() if fate.action == "split" for part in "ab"})
    assert Counter(names) == wanted
