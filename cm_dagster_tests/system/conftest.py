"""The deployment that all system tests share: one start of the servers, however many campaigns."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cm_dagster.local.deployment import Deployment
from cm_dagster_tests.system.background import Unattended, running_by_themselves
from cm_dagster_tests.system.rig import Rig
from cm_dagster_tests.system.start import started


@pytest.fixture(scope="package")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The deployment with its servers; at the end no process of it may be left."""
    with started(Deployment(tmp_path_factory.mktemp("deployment")), visits=12) as rig:
        yield rig


@pytest.fixture(autouse=True)
def _ready(rig: Rig, request: pytest.FixtureRequest) -> None:
    """Start the servers that a former test left dead, and what runs by itself if any test asks for it."""
    missing = [name for name in rig.servers.names if name not in rig.servers.running]
    if missing:
        rig.revive(*missing)
    if any("unattended" in item.fixturenames for item in request.session.items if isinstance(item, pytest.Function)):
        request.getfixturevalue("unattended")


@pytest.fixture(scope="package")
def unattended(rig: Rig) -> Iterator[Unattended]:
    """Campaigns that need nobody: they run while other tests do."""
    with running_by_themselves(rig) as made:
        yield made
