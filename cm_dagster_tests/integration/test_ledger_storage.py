"""Our PostgreSQL storage: Dagster's own, with few connections, and no tags lost by crashes or by two writers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.errors import DagsterRunAlreadyExists
from dagster._core.events import DagsterEvent, JobFailureData, RunFailureReason
from dagster_postgres import utils
from dagster_postgres.utils import DagsterPostgresException

from cm_dagster.cli.checks_dagster import check_storage
from cm_dagster.control.queue import batches
from cm_dagster.ledger import rows, storage
from cm_dagster.policy.states import State
from cm_dagster.testing.postgres import Database, PostgresServer
from cm_dagster_tests.integration.databases import BlankDatabase, add_run, empty, home, opened, pooled, stock, tags_of
from cm_dagster_tests.integration.ledger_rig import SUBMIT, Rig

NUL = "\0"
"""What PostgreSQL takes in no text: in a tag it is refused, after the run itself was written."""


@pytest.fixture
def database(blank_database: BlankDatabase) -> Iterator[Database]:
    with blank_database.copied() as copy:
        yield copy


@pytest.fixture
def instance(database: Database, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with opened(tmp_path / "ours", pooled(database)) as made:
        yield made


@pytest.fixture
def postgres_of_own() -> Iterator[PostgresServer]:
    """A server that the test may stop."""
    with PostgresServer() as server:
        yield server


def parts_of(instance: dg.DagsterInstance) -> list[Any]:
    return [instance.run_storage, instance.event_log_storage, instance.schedule_storage]


def engine_of(instance: dg.DagsterInstance) -> sa.Engine:
    engine: sa.Engine = instance.run_storage._engine  # type: ignore[attr-defined]
    return engine


def connections(database: Database) -> int:
    """How many connections of cm_dagster there are to a database."""
    engine = sa.create_engine(database.url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        found = connection.execute(
            sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = :name AND application_name = 'cm_dagster'"),
            {"name": database.name},
        )
        return int(found.scalar_one())


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


# --------------------------------------------------------------------------------------------------------- one database


def test_two_processes_that_start_first_make_the_tables(postgres: PostgresServer, tmp_path: Path) -> None:
    script = (
        "import sys, dagster as dg\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "with dg.DagsterInstance.from_config(sys.argv[1]) as instance:\n"
        "    instance.add_run(dg.DagsterRun('job', run_id=sys.argv[2]))\n"
        "    print(instance.get_runs_count(), len(instance.all_instigator_state()), len(instance.get_asset_keys()))\n"
    )
    with empty(postgres) as database:
        block = pooled(database)
        folder = str(home(tmp_path / "first", block))
        both = [start(script, folder, name) for name in "ab"]
        for process in both:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        answers = [process.communicate("go\n")[0] for process in both]
        assert [process.returncode for process in both] == [0, 0]
        assert all(answer.endswith("0 0\n") for answer in answers)
        with opened(tmp_path / "second", block) as instance:
            assert {run.run_id for run in instance.get_runs()} == {"a", "b"}


@pytest.mark.parametrize("made", [False, True])
def test_dagster_migrates_it(
    postgres: PostgresServer, blank_database: BlankDatabase, tmp_path: Path, *, made: bool
) -> None:
    with blank_database.copied() if made else empty(postgres) as database:
        block = pooled(database)
        folder = home(tmp_path, block)
        command = [str(Path(sys.executable).with_name("dagster")), "instance", "migrate"]
        done = subprocess.run(
            command, env={**os.environ, "DAGSTER_HOME": str(folder)}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        with dg.DagsterInstance.from_config(str(folder)) as instance:
            versions = [part.alembic_version() for part in parts_of(instance)]
            assert all(found == newest for found, newest in versions)


def test_it_reads_and_writes_what_dagsters_own_does(
    instance: dg.DagsterInstance, database: Database, tmp_path: Path
) -> None:
    with opened(tmp_path / "stock", stock(database)) as other:
        for writer, reader in ((instance, other), (other, instance)):
            name = "ours" if writer is instance else "stock"
            add_run(writer, name, color="red")
            writer.add_run_tags(name, {"color": "blue", "size": "9"})
            writer.report_run_failed(dg.DagsterRun("job", run_id=name), "why")
            writer.report_runless_asset_event(dg.AssetMaterialization("key", partition=name))
            assert tags_of(reader, name).items() >= {("color", "blue"), ("size", "9")}
            (record,) = reader.get_run_records(dg.RunsFilter(tags={"size": "9"}, run_ids=[name]))
            assert record.dagster_run.status is dg.DagsterRunStatus.FAILURE
            assert record.end_time is not None
            assert name in reader.get_materialized_partitions(dg.AssetKey("key"))


def test_doctor_says_which_storage_is_in_use(
    instance: dg.DagsterInstance, database: Database, rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ours,) = check_storage(instance)
    assert (ours.level, ours.message) == ("ok", "PostgreSQL (PooledPostgresStorage) answers, 0 runs")
    with opened(tmp_path / "stock", stock(database)) as other:
        (found,) = check_storage(other)
    assert found.level == "warn"
    assert "a connection for each call" in found.message
    assert "PooledPostgresStorage" in found.advice
    (small,) = check_storage(rig.instance)
    assert (small.level, small.message) == ("ok", "SQLite answers, 0 runs")
    monkeypatch.setattr(rig.instance, "get_runs_count", lambda: 1000)
    (large,) = check_storage(rig.instance)
    assert large.level == "warn"
    assert "PostgreSQL" in large.advice


def test_a_run_is_made_once(instance: dg.DagsterInstance) -> None:
    add_run(instance, size="9")
    with pytest.raises(DagsterRunAlreadyExists):
        add_run(instance, size="10")
    assert tags_of(instance) == {"size": "9"}


# -------------------------------------------------------------------------------------------------------------- writes


def test_a_run_is_written_with_its_tags_or_not_at_all(instance: dg.DagsterInstance) -> None:
    with pytest.raises(ValueError, match="NUL"):
        add_run(instance, good="yes", bad=NUL)
    assert instance.get_run_by_id("run") is None
    add_run(instance, good="yes")
    assert tags_of(instance) == {"good": "yes"}


def test_tags_are_written_all_or_none(instance: dg.DagsterInstance) -> None:
    add_run(instance, color="red")
    with pytest.raises(ValueError, match="NUL"):
        instance.add_run_tags("run", {"color": "blue", "size": "9", "bad": NUL})
    assert tags_of(instance) == {"color": "red"}
    instance.add_run_tags("run", {"color": "blue", "size": "9"})
    assert tags_of(instance) == {"color": "blue", "size": "9"}


def test_a_status_is_written_with_its_tag_or_not_at_all(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster notes on a failed run why it failed; the process dies between the two writes."""
    run = add_run(instance)
    with monkeypatch.context() as patch:
        patch.setattr(sa.Table, "update", lambda _: 1 / 0)  # the run's row is written last
        with pytest.raises(ZeroDivisionError):
            fail(instance, run)
    assert tags_of(instance) == {}
    fail(instance, run)
    assert tags_of(instance) == {"dagster/failure_reason": "RUN_EXCEPTION"}


def fail(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    data = JobFailureData(None, failure_reason=RunFailureReason.RUN_EXCEPTION)
    event = DagsterEvent(dg.DagsterEventType.RUN_FAILURE.value, run.job_name, event_specific_data=data)
    instance.run_storage.handle_run_event(run.run_id, event)


def test_two_processes_that_write_tags_onto_one_run_lose_none(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    run = add_run(instance)
    script = (
        "import sys, dagster as dg\n"
        "with dg.DagsterInstance.from_config(sys.argv[1]) as instance:\n"
        "    print('ready', flush=True); sys.stdin.readline()\n"
        "    for number in range(200):\n"
        "        instance.add_run_tags('run', {f'{sys.argv[2]}{number}': 'x', sys.argv[2]: 'y'})\n"
    )
    folder = str(tmp_path / "ours" / "dagster_home")
    both = [start(script, folder, name) for name in "ab"]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    with ThreadPoolExecutor(2) as threads:
        ends = [threads.submit(process.communicate, "go\n") for process in both]
        while not all(end.done() for end in ends):  # and a third that writes its status
            instance.report_run_canceling(run)
    assert [process.returncode for process in both] == [0, 0]
    assert tags_of(instance).keys() == {"a", "b"} | {f"{name}{number}" for name in "ab" for number in range(200)}
    now = instance.get_run_by_id("run")
    assert now is not None
    assert now.status is dg.DagsterRunStatus.CANCELING


def test_tags_onto_a_run_that_does_not_exist(instance: dg.DagsterInstance) -> None:
    with pytest.raises(dg.DagsterRunNotFoundError):
        instance.add_run_tags("nope", {"color": "red"})
    assert connections_in_use(instance) == 0


# --------------------------------------------------------------------------------------------------------- connections


def connections_in_use(instance: dg.DagsterInstance) -> int:
    pool: Any = engine_of(instance).pool
    return int(pool.checkedout())


def test_a_process_keeps_few_connections(instance: dg.DagsterInstance, database: Database) -> None:
    add_run(instance)
    ref = instance.get_ref()
    peak = []

    def work(number: int) -> None:
        with dg.DagsterInstance.from_ref(ref) as another:
            another.add_run_tags("run", {f"t{number}": "x"})
            another.get_run_records()
            another.all_instigator_state()
            another.get_asset_keys()
        if number % 10 == 0:
            peak.append(connections(database))

    with ThreadPoolExecutor(30) as threads:
        list(threads.map(work, range(100)))
    assert max(peak) <= storage._KEPT + storage._MORE
    assert connections(database) <= storage._KEPT
    assert connections_in_use(instance) == 0
    assert len(tags_of(instance)) == 100


def test_what_is_known_of_the_tables_is_not_asked_again(instance: dg.DagsterInstance) -> None:
    """Dagster's own storage asks which columns there are at each call, and each tick has a new instance."""
    add_run(instance)
    instance.get_run_records()
    statements: list[str] = []
    sa.event.listen(engine_of(instance), "before_cursor_execute", lambda *args: statements.append(args[2]))
    with dg.DagsterInstance.from_ref(instance.get_ref()) as tick:
        tick.get_run_records()
    (statement,) = statements
    assert "FROM runs" in statement


def test_a_connection_in_use_is_not_tried_before_each_question(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = Mock(return_value=True)
    monkeypatch.setattr(engine_of(instance).dialect, "do_ping", tried)
    monkeypatch.setattr(storage, "_TRUSTED", 3600.0)
    for _ in range(5):
        instance.get_runs(limit=1)
    tried.assert_not_called()
    monkeypatch.setattr(storage, "_TRUSTED", 0.0)
    instance.get_runs(limit=1)
    tried.assert_called_once()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_that_nobody_notices(postgres_of_own: PostgresServer, tmp_path: Path, mode: Any) -> None:
    server = postgres_of_own
    with opened(tmp_path, pooled(server.create("ledger"))) as instance, ExitStack() as held:
        run = add_run(instance, color="red")
        for _ in range(3):
            held.enter_context(engine_of(instance).connect())
        held.close()  # more than one connection is open now
        server.stop(mode)
        time.sleep(storage._TRUSTED)
        server.start()
        instance.add_run_tags("run", {"size": "10"})
        instance.report_run_canceled(run)
        assert tags_of(instance) == {"color": "red", "size": "10"}


def test_a_server_that_is_away(
    postgres_of_own: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(utils, "calculate_delay", lambda **_: 0.001)
    with opened(tmp_path, pooled(postgres_of_own.create("ledger"))) as instance:
        add_run(instance, color="red")
        postgres_of_own.stop("immediate")
        time.sleep(storage._TRUSTED)
        for call in (instance.get_runs, lambda: instance.add_run_tags("run", {"size": "9"})):
            with pytest.raises(DagsterPostgresException) as caught:
                call()
            assert isinstance(caught.value.__cause__, sa.exc.OperationalError)
            assert "refused" in str(caught.value.__cause__)
        postgres_of_own.start()
        instance.add_run_tags("run", {"size": "10"})
        assert tags_of(instance) == {"color": "red", "size": "10"}


def test_a_write_that_a_restart_interrupts_fails_as_a_whole(
    postgres_of_own: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = postgres_of_own
    with opened(tmp_path, pooled(server.create("ledger"))) as instance:
        add_run(instance, color="red")
        real = rows.read_run

        def restart(*args: Any) -> dg.DagsterRun:
            server.stop("immediate")
            server.start()
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(storage, "read_run", restart)
            with pytest.raises(sa.exc.OperationalError):
                instance.add_run_tags("run", {"color": "blue"})
        assert tags_of(instance) == {"color": "red"}


def test_a_forked_child_has_its_own_connections(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    add_run(instance)
    script = (
        "import os, sys, dagster as dg, sqlalchemy as sa\n"
        "def backend():\n"
        "    with instance.run_storage.connect() as connection:\n"
        "        return connection.execute(sa.text('SELECT pg_backend_pid()')).scalar_one()\n"
        "with dg.DagsterInstance.from_config(sys.argv[1]) as instance:\n"
        "    print(backend(), flush=True)\n"
        "    if os.fork() == 0:\n"
        "        instance.add_run_tags('run', {'child': 'x'})\n"
        "        print(backend(), flush=True)\n"
        "        sys.exit()\n"  # closes all that it knows of
        "    os.wait()\n"
        "    print(backend())\n"
    )
    process = start(script, str(tmp_path / "ours" / "dagster_home"))
    mine, childs, again = process.communicate()[0].split()
    assert process.returncode == 0
    assert mine == again  # else the child has closed it, and another was opened
    assert childs != mine
    assert tags_of(instance) == {"child": "x"}


def test_the_web_ui_limits_the_time_of_its_queries(instance: dg.DagsterInstance) -> None:
    add_run(instance)
    engine = engine_of(instance)
    instance.optimize_for_webserver(statement_timeout=50, pool_recycle=3600, max_overflow=5)
    assert engine_of(instance) is engine
    with engine.connect() as connection, pytest.raises(sa.exc.OperationalError, match="statement timeout"):
        connection.execute(sa.text("SELECT pg_sleep(10)"))
    assert tags_of(instance) == {}


# ------------------------------------------------------------------------------------------ SQLite has no row locks


def overtake(rig: Rig, stale: dg.DagsterRun, kind: dg.DagsterEventType) -> None:
    """Write the status of a run as a process does that has read the run a moment too early: its later tags are lost."""
    storage: Any = rig.instance.run_storage
    event = DagsterEvent(kind.value, stale.job_name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "_get_run_by_id", lambda _: stale)
        rig.instance.report_dagster_event(event, stale.run_id)


def run_of(rig: Rig, run_id: str) -> dg.DagsterRun:
    run = rig.instance.get_run_by_id(run_id)
    assert run is not None
    return run


@pytest.fixture
def lost(rig: Rig) -> tuple[str, str, dg.DagsterRun]:
    """An attempt's run, its workflow, and the run as it was before the workflow was recorded on it."""
    rig.create()
    rig.plan(1)
    run_id = rig.queue("g0000")
    stale = run_of(rig, run_id)
    rig.submit(run_id)
    return run_id, rig.attempt(run_id).wms_id, stale


def test_a_workflow_id_that_was_lost_is_recorded_again(rig: Rig, lost: tuple[str, str, dg.DagsterRun]) -> None:
    run_id, wms_id, stale = lost
    overtake(rig, stale, dg.DagsterEventType.RUN_START)
    assert rig.attempt(run_id).wms_id == ""
    assert [batch.run_ids for batch in batches(rig.instance, rig.site, SUBMIT)] == [(run_id,)]
    rig.submit(run_id)
    assert rig.attempt(run_id).wms_id == wms_id
    assert sum(rig.submitter.submissions.values()) == 1


def test_a_workflow_whose_id_was_lost_to_a_terminate_is_cancelled(
    rig: Rig, lost: tuple[str, str, dg.DagsterRun]
) -> None:
    run_id, _, stale = lost
    overtake(rig, stale, dg.DagsterEventType.RUN_CANCELING)
    assert rig.attempt(run_id).wms_id == ""
    rig.watch()
    assert rig.wms.alive() == []
    rig.watch()
    assert (rig.state(run_id), rig.attempt(run_id).swept) == (State.CANCELLED, True)


def test_a_cancellation_that_was_lost_is_made_sure_of_again(rig: Rig, lost: tuple[str, str, dg.DagsterRun]) -> None:
    run_id, *_ = lost
    stale = run_of(rig, run_id)
    rig.terminate(run_id, force=True)
    rig.watch()
    rig.watch()
    assert rig.attempt(run_id).swept
    overtake(rig, stale, dg.DagsterEventType.RUN_CANCELED)
    assert not rig.attempt(run_id).swept
    rig.watch()
    assert rig.attempt(run_id).swept
    assert rig.wms.alive() == []
