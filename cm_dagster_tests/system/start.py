"""Starting a whole deployment for tests, and making sure that nothing of it is left at the end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from cm_dagster.local.deployment import Deployment
from cm_dagster.local.servers import Servers
from cm_dagster.local.survey import Survey, copy_survey, make_synthetic_survey
from cm_dagster.local.wms.shutdown import shutdown
from cm_dagster.services.wms import WmsClient
from cm_dagster.testing.postgres import PostgresServer
from cm_dagster_tests.system.rig import MONITORING, SITE, TICK, Rig

__all__ = ["pooled", "started"]

_SERVICE = "cm_dagster.local.wms.LocalWmsService"


def pooled(server: PostgresServer) -> dict[str, Any]:
    """Make a database for Dagster on a server, and give the settings ``storage`` of dagster.yaml for it."""
    settings = {"postgres_db": server.create("dagster").postgres_db}
    return {"custom": {"module": "cm_dagster.ledger.storage", "class": "PooledPostgresStorage", "config": settings}}


@contextmanager
def started(
    deployment: Deployment,
    *,
    visits: int,
    registry: str | None = None,
    storage: Mapping[str, Any] | None = None,
    site: Mapping[str, Any] | None = None,
    also: Sequence[str] = (),
    butlers: Mapping[str, str | None] | None = None,
    servers: Callable[[Deployment], Servers] = Servers,
) -> Iterator[Rig]:
    """Make a survey and the files of a deployment, and start its servers.

    Parameters
    ----------
    deployment
        Where it is to be.
    visits
        Number of visits of the survey.
    registry
        Database of the Butler's registry; by default SQLite.
    storage
        Settings ``storage`` of dagster.yaml; by default SQLite.
    site
        Further settings of the site.
    also
        Names of further sites, of the same Butler.
    butlers
        Database of the registry of further sites that have a Butler of their own, by name; None for SQLite.
    servers
        Makes the servers.
    """
    survey = make_synthetic_survey(
        deployment.folder / "repo", visits=visits, detectors=1, tracts=1, patches=1, db_url=registry
    )
    own = {
        name: copy_survey(survey, deployment.folder / "repos" / name, db_url=url)
        for name, url in (butlers or {}).items()
    }
    names = (SITE, *also, *own)
    sites = {name: {**_site(deployment, own.get(name, survey), name), **(site or {})} for name in names}
    sites[SITE]["home"] = True
    deployment.write({"sites": sites}, dequeue_seconds=1)
    _set_up_instance(deployment, storage)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in deployment.environment(SITE).items():
            patch.setenv(name, value)
        try:
            with _instance() as instance, servers(deployment) as running:
                yield Rig(deployment, survey, running, WmsClient(_SERVICE), instance)
        finally:
            for name in sites:
                patch.setenv("CM_LOCAL_WMS_HOME", str(deployment.wms_home(name)))
                shutdown()
            left = _end_left_over(deployment.folder)
    assert not left, f"processes were left behind: {left}"


@contextmanager
def _instance() -> Iterator[dg.DagsterInstance]:
    """Open Dagster's databases, made now: servers that all make them at once get into each other's way."""
    with dg.DagsterInstance.get() as instance:
        instance.get_runs(limit=1)
        instance.get_asset_keys()
        instance.all_instigator_state()
        yield instance


def _site(deployment: Deployment, survey: Survey, name: str) -> dict[str, Any]:
    return {
        "butler": str(survey.root),
        "submit_area": str(deployment.submit_area(name)),
        "wms": {"service": _SERVICE, "compute_site": "local", "settle": 3.0},
        "bps": {
            # Sleeping jobs hold cores without using them, so there are more than the machine has.
            "site": {"local": {"cores": 8, "warm": True, "preload": "cm_dagster.local.minidrp.tasks"}},
            "numberOfRetries": 2,
            "retryUnlessExit": [],
            "finalJob": {"requestMemory": 2048},
        },
        "tick": TICK,
        "env": {"CM_LOCAL_WMS_HOME": str(deployment.wms_home(name))},
    }


def _set_up_instance(deployment: Deployment, storage: Mapping[str, Any] | None) -> None:
    """Let Dagster's run monitoring and retries come often, so that it would show if they touched attempts."""
    path = deployment.home / "dagster.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["run_monitoring"] |= {"poll_interval_seconds": MONITORING, "max_resume_run_attempts": 0}
    settings["run_retries"] = {"enabled": True, "max_retries": 2}
    if storage is not None:
        settings["storage"] = dict(storage)
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
