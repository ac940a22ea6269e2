"""The deployment that all system tests share: one start of the servers, however many campaigns."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from cm_dagster.local.deployment import Deployment
from cm_dagster.local.servers import Servers
from cm_dagster.local.survey import Survey, make_synthetic_survey
from cm_dagster.local.wms.shutdown import shutdown
from cm_dagster.services.wms import WmsClient
from cm_dagster_tests.system.background import Unattended, running_by_themselves
from cm_dagster_tests.system.rig import MONITORING, TICK, Rig

_SERVICE = "cm_dagster.local.wms.LocalWmsService"


@pytest.fixture(scope="package")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The deployment with its servers; at the end no process of it may be left."""
    deployment = Deployment(tmp_path_factory.mktemp("deployment"))
    survey = make_synthetic_survey(deployment.folder / "repo", visits=12, detectors=1, tracts=1, patches=1)
    deployment.write(_sites(deployment, survey), dequeue_seconds=1)
    _hasten(deployment)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in deployment.environment().items():
            patch.setenv(name, value)
        patch.delenv("CM_SITE", raising=False)
        try:
            with _instance() as instance, Servers(deployment) as servers:
                yield Rig(deployment, survey, servers, WmsClient(_SERVICE), instance)
        finally:
            shutdown()
            left = _end_left_over(deployment.folder)
    assert not left, f"processes were left behind: {left}"


@pytest.fixture(autouse=True)
def _ready(rig: Rig, request: pytest.FixtureRequest) -> None:
    """Start the servers that a former test left dead, and what runs by itself if any test asks for it."""
    missing = [name for name in ("code", "web", "daemon") if name not in rig.servers.running]
    if missing:
        rig.revive(*missing)
    if any("unattended" in item.fixturenames for item in request.session.items if isinstance(item, pytest.Function)):
        request.getfixturevalue("unattended")


@pytest.fixture(scope="package")
def unattended(rig: Rig) -> Iterator[Unattended]:
    """Campaigns that need nobody: they run while other tests do."""
    with running_by_themselves(rig) as made:
        yield made


@contextmanager
def _instance() -> Iterator[dg.DagsterInstance]:
    """Open Dagster's databases, made now: servers that all make them at once get into each other's way."""
    with dg.DagsterInstance.get() as instance:
        instance.get_runs(limit=1)
        instance.get_asset_keys()
        instance.all_instigator_state()
        yield instance


def _sites(deployment: Deployment, survey: Survey) -> dict[str, Any]:
    local = {
        "butler": str(survey.root),
        "submit_area": str(deployment.submit_area),
        "wms": {"service": _SERVICE, "compute_site": "local", "settle": 3.0},
        "bps": {
            # Sleeping jobs hold cores without using them, so there are more than the machine has.
            "site": {"local": {"cores": 8, "warm": True, "preload": "cm_dagster.local.minidrp.tasks"}},
            "numberOfRetries": 2,
            "retryUnlessExit": [],
            "finalJob": {"requestMemory": 2048},
        },
        "tick": TICK,
        "env": {"CM_LOCAL_WMS_HOME": str(deployment.wms_home)},
    }
    return {"sites": {"local": local}}


def _hasten(deployment: Deployment) -> None:
    """Let Dagster's run monitoring and retries come often, so that it would show if they touched attempts."""
    path = deployment.home / "dagster.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["run_monitoring"] |= {"poll_interval_seconds": MONITORING, "max_resume_run_attempts": 0}
    settings["run_retries"] = {"enabled": True, "max_retries": 2}
    path.write_text(yaml.safe_dump(settings))


def _end_left_over(folder: Path, patience: float = 30.0) -> list[str]:
    """Wait for the end of all processes of a deployment; kill those that stay, and name them."""
    end = time.monotonic() + patience
    while (found := _processes(folder)) and time.monotonic() < end:
        time.sleep(0.5)
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    return [f"{pid}: {command}" for pid, command in found.items()]


def _processes(folder: Path) -> dict[int, str]:
    """Find the processes that were started with a deployment's environment, whoever started them."""
    mark = f"DAGSTER_HOME={folder}/".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if mark in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has ended meanwhile
            continue
    return found
