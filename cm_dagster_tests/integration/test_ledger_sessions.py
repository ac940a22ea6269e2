"""What the PostgreSQL server sees of our connections: hosts that are suspended or gone, zones of time, turns."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent

from cm_dagster.testing.postgres import Database
from cm_dagster_tests.integration.databases import BlankDatabase, add_run, connected, home, opened, pooled, tags_of

KEY = dg.AssetKey(["camp", "step1", "here"])
HOLD = """
import os, signal, sys
import dagster as dg, sqlalchemy as sa
with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    try:
        with instance.run_storage.one_transaction("run"):
            instance.add_run_tags("run", {"color": "blue"})
            os.kill(os.getpid(), signal.SIGSTOP)
            instance.add_run_tags("run", {"size": "9"})
    except sa.exc.OperationalError as error:
        print(error)
    instance.add_run_tags("run", {"late": "yes"})
"""


@pytest.fixture
def database(blank_database: BlankDatabase) -> Iterator[Database]:
    with blank_database.copied() as copy:
        yield copy


def test_a_host_that_is_suspended_in_a_transaction_keeps_its_rows_for_a_while(
    database: Database, tmp_path: Path
) -> None:
    block = pooled(database, options="-c idle_in_transaction_session_timeout=1s")
    with opened(tmp_path, block) as instance:
        add_run(instance, color="red")
        command = [sys.executable, "-c", HOLD, str(home(tmp_path, block))]
        holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert os.WIFSTOPPED(os.waitpid(holder.pid, os.WUNTRACED)[1])
        instance.add_run_tags("run", {"color": "green"})
        holder.send_signal(signal.SIGCONT)
        said, _ = holder.communicate()
        assert "server closed the connection" in said
        assert holder.returncode == 0
        assert tags_of(instance) == {"color": "green", "late": "yes"}


@pytest.mark.parametrize("options", ["", "-c work_mem=8MB"])
def test_the_server_ends_sessions_of_hosts_that_are_suspended_or_gone(
    database: Database, tmp_path: Path, options: str
) -> None:
    expected = {
        "idle_in_transaction_session_timeout": "1min",
        "lock_timeout": "90s",
        "tcp_keepalives_idle": "30",
        "tcp_keepalives_interval": "10",
        "work_mem": "8MB" if options else "4MB",
    }
    with opened(tmp_path, pooled(database, **({"options": options} if options else {}))) as instance:
        storage: Any = instance.run_storage
        with storage.connect() as connection:
            found = {name: connection.execute(sa.text(f"SHOW {name}")).scalar() for name in expected}
    assert found == expected


def test_times_are_right_where_the_server_is_in_another_zone(database: Database, tmp_path: Path) -> None:
    with connected(database) as connection:
        connection.execute(f"ALTER DATABASE {database.name} SET timezone TO 'America/Los_Angeles'".encode())
    with opened(tmp_path, pooled(database)) as instance:
        before = time.time()
        add_run(instance, color="red")
        instance.add_run_tags("run", {"color": "blue"})
        (record,) = instance.get_run_records()
    for written in (record.create_timestamp, record.update_timestamp):
        assert before - 1.0 < written.timestamp() < time.time() + 1.0


def test_no_event_of_an_asset_is_seen_after_one_with_a_higher_id(database: Database, tmp_path: Path) -> None:
    """Dagster's cache of partitions asks only for what has come after the last event that it has seen."""
    planned = DagsterEvent.build_asset_materialization_planned_event(
        "job", "step", AssetMaterializationPlannedData(KEY, partition="g0001")
    )
    with opened(tmp_path, pooled(database)) as instance:
        add_run(instance, "other")
        instance.report_runless_asset_event(dg.AssetMaterialization(KEY, partition="g0000"))
        other = threading.Thread(target=instance.report_dagster_event, args=[planned], kwargs={"run_id": "other"})
        storage: Any = instance.run_storage
        with storage.one_transaction():
            instance.report_runless_asset_event(dg.AssetMaterialization(KEY, partition="g0002"))
            other.start()
            other.join(0.5)
            assert other.is_alive()
        other.join()
    with connected(database) as connection:
        query = "SELECT partition FROM event_logs WHERE asset_key IS NOT NULL ORDER BY id"
        assert [partition for (partition,) in connection.execute(query)] == ["g0000", "g0002", "g0001"]
