"""What the integration tests share: a survey to process, and a WMS that leaves nothing behind."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cm_dagster.local.survey import Survey, make_hsc_survey
from cm_dagster.local.wms import store
from cm_dagster.local.wms.shutdown import shutdown
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


@pytest.fixture
def rig(tmp_path: Path, blank_home: Path) -> Iterator[Rig]:
    """A site with a real ledger, whose WMS and whose ``bps submit`` do as they are told."""
    with open_rig(tmp_path, blank_home) as made:
        yield made
