"""What is written about many runs at once: it is what Dagster writes one by one, all of it or nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import EngineEventData, StepMaterializationData

from cm_dagster.ledger.rows import last_events
from cm_dagster.ledger.writing import Writing, writing
from cm_dagster_tests.integration.databases import BlankDatabase, add_run, opened, pooled, tags_of

KEY = dg.AssetKey("thing")


@pytest.fixture
def instance(blank_database: BlankDatabase, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with blank_database.copied() as database, opened(tmp_path / "ours", pooled(database)) as made:
        yield made


@dataclass(frozen=True)
class Subject:
    """A run that is written about."""

    run_id: str
    job: str = "job"


def tell(writer: Writing, name: str) -> None:
    """Write about a run as is done of an attempt that goes well, or as far as its name says."""
    one = Subject(name)
    writer.event(one, dg.DagsterEventType.RUN_START, "begun")
    writer.tag(one, {"color": "green", "size": "1"})
    writer.event(one, dg.DagsterEventType.ENGINE_EVENT, "noted", EngineEventData({"where": "here"}))
    made = dg.AssetMaterialization(KEY, partition=name, metadata={"quanta": 3}, tags={"dagster/data_version": name})
    writer.event(one, dg.DagsterEventType.ASSET_MATERIALIZATION, "made", StepMaterializationData(made))
    target = writer.flush().get(name)
    check = dg.AssetCheckEvaluation(
        asset_key=KEY, check_name="good", passed=True, target_materialization_data=target, partition=name
    )
    writer.event(one, dg.DagsterEventType.ASSET_CHECK_EVALUATION, "checked", check)
    if name != "open":
        writer.event(one, dg.DagsterEventType.RUN_SUCCESS, "over")
        writer.tag(one, {"size": "2"})


def seen(instance: dg.DagsterInstance, name: str) -> dict[str, Any]:
    """Give all that readers can see of a run and of its partition."""
    record = instance.get_run_record_by_id(name)
    assert record is not None
    log = [(each.dagster_event_type, each.message) for each in instance.all_logs(name)]
    wanted = dg.AssetRecordsFilter(asset_key=KEY, asset_partitions=[name])
    (made,) = instance.fetch_materializations(wanted, limit=9).records
    materialization = made.asset_materialization
    assert materialization is not None
    check = dg.AssetCheckKey(KEY, "good")
    checks = instance.event_log_storage.get_asset_check_execution_history(check, 9, partition_filter=None)
    return {
        "run": record.dagster_run.with_status(record.dagster_run.status),
        "tags": tags_of(instance, name),
        "log": log,
        "times": (record.start_time is not None, record.end_time is not None),
        "made": (materialization.metadata["quanta"].value, materialization.partition, materialization.tags),
        "by version": instance.event_log_storage.get_event_tags_for_asset(KEY, {"dagster/data_version": name}),
        "checks": {each.run_id: each.status for each in checks},
        "status": instance.get_latest_storage_id_by_partition(KEY, dg.DagsterEventType.ASSET_MATERIALIZATION).keys(),
    }


def test_what_is_written_at_once_is_what_dagster_writes_one_by_one(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    names = ["a", "b", "open"]
    with dg.DagsterInstance.local_temp(str(tmp_path)) as other:
        for each in (instance, other):
            for name in names:
                add_run(each, name, color="red")
            with writing(each, [Subject(name) for name in names]) as writer:
                for name in names:
                    tell(writer, name)
        for name in names:
            assert seen(instance, name) == seen(other, name)
        made, over = dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.RUN_SUCCESS
        for each in (instance, other):
            assert last_events(each, [*names, "another"], [made]) == dict.fromkeys(names, made)
            assert last_events(each, names, [over, made]) == {"a": over, "b": over, "open": made}
    record = instance.get_asset_records([KEY])[0].asset_entry
    assert record.last_run_id == "open"


def test_what_is_written_at_once_is_written_whole_or_not_at_all(instance: dg.DagsterInstance) -> None:
    for name in "ab":
        add_run(instance, name, color="red")

    def write() -> None:
        with writing(instance, [Subject("a"), Subject("b")]) as writer:
            tell(writer, "a")
            tell(writer, "b")
            raise ValueError("blue")

    with pytest.raises(ValueError, match="blue"):
        write()
    for name in "ab":
        assert (tags_of(instance, name), list(instance.all_logs(name))) == ({"color": "red"}, [])


def test_another_writer_of_a_run_waits_for_what_is_written_at_once(instance: dg.DagsterInstance) -> None:
    for name in "ab":
        add_run(instance, name)
    with ThreadPoolExecutor(1) as other:
        with writing(instance, [Subject("a"), Subject("b")]) as writer:
            tell(writer, "a")
            late = other.submit(instance.add_run_tags, "b", {"color": "blue"})
            time.sleep(0.2)
            assert not late.done()
            tell(writer, "b")
        late.result(timeout=10)
    assert tags_of(instance, "b") == {"color": "blue", "size": "2"}
