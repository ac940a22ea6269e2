"""Attempts as copies of one that Dagster made: what they are, and which are not made."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.partitions.snap.snap import DynamicPartitionsSnap
from dagster._core.definitions.partitions.subset.key_ranges import KeyRangesPartitionsSubset
from dagster._serdes import serialize_value
from sqlalchemy import text

from cm_dagster.assets.jobs import step_jobs
from cm_dagster.ledger import copies, events, moves, tags
from cm_dagster.ledger.attempts import index_of
from cm_dagster.ledger.copies import Wish, queue_copies
from cm_dagster.plan.names import AttemptId, StepId
from cm_dagster.policy.states import State
from cm_dagster.sensors.dispatch import dispatch_sensor
from cm_dagster_tests.integration.databases import BlankDatabase, pooled
from cm_dagster_tests.integration.ledger_rig import SITE, STEP1, Rig, make_spec, open_rig

KEY = dg.AssetKey(STEP1.asset)
LAUNCH = {
    "dagster/run_key": "first",
    "dagster/sensor_name": "dispatch_here",
    "dagster/code_location": SITE,
    "dagster/tick": "7",
    tags.BY: "dispatch",
    tags.WANT: "1",
}


@pytest.fixture
def rig(tmp_path: Path, blank_database: BlankDatabase, blank_home: Path) -> Iterator[Rig]:
    """A site whose storage writes many runs at once, and whose step has groups."""
    with blank_database.copied() as database, open_rig(tmp_path, blank_home, storage=pooled(database)) as made:
        made.create()
        made.plan(9)
        yield made


def wish(group: str, number: int = 1, how: str = "") -> Wish:
    id_ = AttemptId(STEP1, group, number)
    own = {tags.BY: "dispatch", tags.WANT: str(number), **({tags.HOW: how} if how else {})}
    return Wish(id_, f"{id_.workflow} after nothing", own)


def model(rig: Rig, group: str = "g0000", **more: str) -> str:
    """Make an attempt as Dagster does for the dispatcher."""
    return rig.queue(group, more={**LAUNCH, **more})


def rows(rig: Rig, query: str, **values: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = rig.instance.run_storage.fetchall(text(query).bindparams(**values))  # type: ignore[attr-defined]
    return [dict(row) for row in found]


def runs_at(rig: Rig, group: str) -> list[dg.DagsterRun]:
    return list(rig.instance.get_runs(dg.RunsFilter(tags={tags.PARTITION: group})))


def test_a_copy_is_an_attempt_like_its_model_but_for_its_group(rig: Rig) -> None:
    first = model(rig)
    assert len(queue_copies(rig.instance, SITE, [wish("g0001"), wish("g0002", how="{}")]).made) == 2
    run, other = rig.instance.get_run_by_id(first), runs_at(rig, "g0001")[0]
    assert run is not None
    assert other.status is dg.DagsterRunStatus.QUEUED
    own = {
        tags.PARTITION: "g0001",
        tags.GROUP: f"{STEP1.tag}|g0001",
        tags.OF: other.run_id,
        "dagster/run_key": "camp.step1.here.g0001.a01 after nothing",
        "dagster/max_retries": "0",
        "dagster/max_runtime": "0",
    }
    expected = {name: value for name, value in {**run.tags, **own}.items() if name != "dagster/tick"}
    assert other.tags == expected
    assert other == run._replace(run_id=other.run_id, tags=other.tags)
    assert runs_at(rig, "g0002")[0].tags[tags.HOW] == "{}"
    query = "SELECT * FROM runs WHERE run_id = :run"
    (mine,), (its,) = rows(rig, query, run=other.run_id), rows(rig, query, run=first)
    assert {name for name in mine if mine[name] != its[name]} == {
        "id", "run_id", "run_body", "partition", "create_timestamp", "update_timestamp"
    }  # fmt: skip
    query = "SELECT key, value FROM run_tags WHERE run_id = :run"
    found = {row["key"]: row["value"] for row in rows(rig, query, run=other.run_id)}
    assert found == {**other.tags, ".dagster/repository": f"__repository__@{SITE}"}


def test_its_group_shows_as_planned_and_its_log_begins_in_the_queue(rig: Rig) -> None:
    model(rig)
    queue_copies(rig.instance, SITE, [wish("g0001")])
    (run,) = runs_at(rig, "g0001")
    planned = rig.instance.event_log_storage.get_latest_planned_materialization_info(KEY, "g0001")
    assert planned is not None
    assert planned.run_id == run.run_id
    kinds = [entry.dagster_event_type for entry in rig.instance.all_logs(run.run_id)]
    assert kinds == [dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED, dg.DagsterEventType.RUN_ENQUEUED]
    assert rig.instance.get_asset_records([KEY])[0].asset_entry.last_run_id == run.run_id


def test_a_copy_goes_its_way_to_the_end(rig: Rig) -> None:
    model(rig)
    queue_copies(rig.instance, SITE, [wish("g0001")])
    (run,) = runs_at(rig, "g0001")
    assert rig.submit(run.run_id).submitted == 1
    events.accept(rig.instance, events.Acceptance(rig.attempt(run.run_id), "good", {}))
    assert rig.state(run.run_id) is State.ACCEPTED
    assert rig.instance.get_materialized_partitions(KEY) == {"g0001"}


def test_the_subset_of_partitions_that_a_run_names_is_its_group(rig: Rig) -> None:
    subset = KeyRangesPartitionsSubset(
        key_ranges=[dg.PartitionKeyRange("g0000", "g0000")],
        partitions_snap=DynamicPartitionsSnap(name="camp/step1/here"),
    )
    attempt = rig.attempt(model(rig))
    run = attempt.run._replace(partitions_subset=subset)
    copies._write(rig.instance, replace(attempt, packed=zlib.compress(serialize_value(run).encode())), [wish("g0001")])
    found = runs_at(rig, "g0001")[0].partitions_subset
    assert isinstance(found, KeyRangesPartitionsSubset)
    assert (found.key_ranges, found.partitions_snap) == ([("g0001", "g0001")], subset.partitions_snap)


@pytest.mark.parametrize("case", ["backfill", "of a person", "before this process", "of another step", "re-execution"])
def test_what_is_no_model_is_not_copied(rig: Rig, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    match case:
        case "backfill":
            model(rig, **{"dagster/backfill": "abc"})
        case "of a person":
            rig.queue("g0000")
        case "before this process":
            monkeypatch.setattr(copies, "_BEGUN", rig.attempt(model(rig)).created)
        case "of another step":
            rig.queue("g0000", step=StepId("camp", "step2", SITE), more=LAUNCH)
        case _:
            first = rig.queue("g0000")
            rig.queue("g0000", 2, parent=first, more=LAUNCH)
    assert queue_copies(rig.instance, SITE, [wish("g0001")]) == ([], [])
    assert runs_at(rig, "g0001") == []


@pytest.mark.parametrize("case", ["open", "accepted", "another number", "moved"])
def test_what_makes_no_sense_any_more_is_dealt_with_without_a_run(rig: Rig, case: str) -> None:
    model(rig)
    wanted = wish("g0001")
    match case:
        case "open":
            rig.queue("g0001")
        case "accepted":
            rig.accept("g0001")
            wanted = wish("g0001", 2)
        case "another number":
            rig.fail("g0001")
        case _:
            moves.write_moves(rig.instance, "camp", "step1", {"g0001": moves.Moved("there", 1)})
    before = len(runs_at(rig, "g0001"))
    assert queue_copies(rig.instance, SITE, [wanted]) == ([], [wanted])
    assert len(runs_at(rig, "g0001")) == before


def test_a_model_that_was_deleted_stops_nothing(rig: Rig) -> None:
    first, second = model(rig), model(rig, "g0001")
    for run_id, made in ((second, ["g0002"]), (first, ["g0003"])):
        assert index_of(rig.instance).of_step(STEP1)  # which never hears of a deletion
        events.cancelled(rig.instance, run_id, "not wanted", swept=True)
        rig.instance.delete_run(run_id)
        copies = queue_copies(rig.instance, SITE, [wish(group) for group in made])
        assert [each.id.group for each in copies.made] == made
    for run in rig.instance.get_runs():
        events.cancelled(rig.instance, run.run_id, "not wanted", swept=True)
        rig.instance.delete_run(run.run_id)
    assert queue_copies(rig.instance, SITE, [wish("g0004")]) == ([], [])  # Dagster is asked for it


def test_a_group_that_failed_gets_its_next_attempt(rig: Rig) -> None:
    model(rig)
    rig.fail("g0001")
    queue_copies(rig.instance, SITE, [wish("g0001", 2)])
    assert [run.tags[tags.ATTEMPT] for run in runs_at(rig, "g0001")] == ["2", "1"]


def test_two_dispatchers_at_once_make_each_attempt_once(rig: Rig) -> None:
    model(rig)
    wanted = [wish(f"g000{place}") for place in range(1, 9)]
    with ThreadPoolExecutor(2) as both:
        for done in [both.submit(queue_copies, rig.instance, SITE, wanted) for _ in range(2)]:
            done.result()
    assert len(index_of(rig.instance).of_step(STEP1)) == 9
    assert len(rig.instance.get_runs()) == 9


def test_the_dispatcher_asks_dagster_for_the_first_few_of_a_step_and_copies_one_for_the_others(rig: Rig) -> None:
    def tick() -> Any:
        with dg.build_sensor_context(instance=rig.instance) as context:
            return sensor(context)

    sensor = dispatch_sensor(rig.site, step_jobs([make_spec()], SITE))
    asked = [request.partition_key for request in tick().run_requests]
    assert asked == ["g0000", "g0001", "g0002", "g0003", "g0004"]
    model(rig)
    said = tick()
    assert isinstance(said, dg.SkipReason)
    assert said.skip_message == "8 attempts are queued: 8 of camp/step1"
    assert {attempt.state for attempt in index_of(rig.instance).of_step(STEP1).values()} == {State.QUEUED}
    assert tick().skip_message == "nothing is left to be requested"
