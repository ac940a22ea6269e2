"""What the integration tests share: a survey to process, and a WMS that leaves nothing behind."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lsst.daf.butler import Butler

from cm_dagster.local.survey import Survey, make_hsc_survey
from cm_dagster.local.wms import store
from cm_dagster.local.wms.shutdown import shutdown
from cm_dagster.services.quanta import QuantaSummary, TaskQuanta
from cm_dagster.testing.postgres import PostgresServer
from cm_dagster_tests.integration.databases import BlankDatabase, pooled
from cm_dagster_tests.integration.ledger_rig import Rig, make_blank, open_rig


@pytest.fixture(scope="session")
def hsc_template(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    """The HSC survey, to be copied, not written."""
    return make_hsc_survey(tmp_path_factory.mktemp("template") / "hsc")


@pytest.fixture
def hsc_repo(hsc_template: Survey, tmp_path: Path) -> Survey:
    """A copy of the HSC survey for one test."""
    root = tmp_path / "hsc"
    shutil.copytree(hsc_template.root, root)
    return Survey(root, hsc_template.instrument, hsc_template.skymap, hsc_template.defaults)


@pytest.fixture
def local_wms_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Home of a local WMS for one test, whose processes are ended with it."""
    home = tmp_path / "wms"
    monkeypatch.setenv(store.HOME, str(home))
    yield home
    # The test may have set another home since.
    monkeypatch.setenv(store.HOME, str(home))
    shutdown()


@pytest.fixture(scope="session")
def blank_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``DAGSTER_HOME`` of an instance with nothing in it, to be copied, not written."""
    return make_blank(tmp_path_factory.mktemp("blank"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A private PostgreSQL server."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def blank_database(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> BlankDatabase:
    """A PostgreSQL database with Dagster's tables and nothing in them, to be copied."""
    return BlankDatabase.make(postgres, tmp_path_factory.mktemp("blank_database"))


_ON_BOTH = {
    "test_control_submit",
    "test_control_cancel",
    "test_control_watch",
    "test_ledger_attempts",
    "test_ledger_coordinator",
    "test_ledger_locks",
    "test_ledger_pulse",
    "test_quanta_check",
}
"""Modules whose tests run on PostgreSQL too: what the ledger promises."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests on both storages."""
    if "storage" in metafunc.fixturenames and metafunc.module.__name__.rpartition(".")[2] in _ON_BOTH:
        metafunc.parametrize("storage", ["sqlite", "postgres"], indirect=True)


@pytest.fixture
def storage(request: pytest.FixtureRequest) -> Iterator[dict[str, Any] | None]:
    """The block ``storage`` of dagster.yaml for one test; None for SQLite."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield None
        return
    blank: BlankDatabase = request.getfixturevalue("blank_database")
    with blank.copied() as database:
        yield pooled(database)


@pytest.fixture
def rig(tmp_path: Path, blank_home: Path, storage: dict[str, Any] | None) -> Iterator[Rig]:
    """A site with a real ledger, whose WMS and whose ``bps submit`` do as they are told."""
    with open_rig(tmp_path, blank_home, storage=storage) as made:
        yield made


@pytest.fixture(scope="session")
def empty_repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Butler repository with nothing in it, to be copied, not written."""
    root = tmp_path_factory.mktemp("butler") / "repo"
    Butler.makeRepo(str(root))
    return root


class Clock:
    """A clock that can be set forward and back; Dagster's own timestamps stay real."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def forward(self, seconds: float) -> None:
        self.ahead += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that our code reads."""
    made, real = Clock(), time.time
    monkeypatch.setattr(time, "time", lambda: real() + made.ahead)
    return made


class Judge:
    """Stands for the Butler in judgement: it answers as it is told."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.asked = 0

    def __call__(self, submit_dir: Path, butler: object) -> QuantaSummary:
        self.asked += 1
        if self.error:
            raise self.error
        return QuantaSummary("a/run", {"isr": TaskQuanta(2, 2)}, provenance=True, registered={"isr": 2})


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Judge:
    made = Judge()
    monkeypatch.setattr("cm_dagster.control.judge.read_quanta", made)
    return made
