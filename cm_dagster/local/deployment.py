"""A small deployment in one folder: what a production one has in /etc and on shared disks, on one machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["Deployment", "template"]


def template(name: str) -> str:
    """Read a file that a deployment starts from: ``dagster.yaml`` or ``workspace.yaml``."""
    package = Path(__file__).parents[1]
    top = package.parent / name  # in a checkout; an installed package has its own copy
    return (top if top.exists() else package / "deployment" / name).read_text()


@dataclass(frozen=True)
class Deployment:
    """Where the parts of a small deployment are."""

    folder: Path

    @property
    def home(self) -> Path:
        """``DAGSTER_HOME``."""
        return self.folder / "dagster_home"

    @property
    def sites(self) -> Path:
        """Site file."""
        return self.folder / "sites.yaml"

    @property
    def workspace(self) -> Path:
        """Dagster's list of code locations."""
        return self.folder / "workspace.yaml"

    @property
    def logs(self) -> Path:
        """Logs of the servers."""
        return self.folder / "logs"

    @property
    def wms_home(self) -> Path:
        """State of the local WMS."""
        return self.folder / "wms"

    @property
    def submit_area(self) -> Path:
        """Submit directories and claims."""
        return self.folder / "submit"

    def write(self, sites: dict[str, Any], *, dequeue_seconds: int = 10) -> None:
        """Write all files of the deployment.

        Parameters
        ----------
        sites
            Content of the site file.
        dequeue_seconds
            How often Dagster looks at its run queue.
        """
        for folder in (self.home, self.logs, self.wms_home, self.submit_area):
            folder.mkdir(parents=True, exist_ok=True)
        instance = yaml.safe_load(template("dagster.yaml"))
        instance["run_coordinator"]["config"]["dequeue_interval_seconds"] = dequeue_seconds
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(instance, sort_keys=False))
        self.workspace.write_text(template("workspace.yaml"))
        self.sites.write_text(yaml.safe_dump(sites, sort_keys=False))

    def environment(self) -> dict[str, str]:
        """Environment of every process of the deployment."""
        drop = {"PYTHONDONTWRITEBYTECODE", "CM_SITE"}
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        return {
            **{name: value for name, value in os.environ.items() if name not in drop},
            **threads,
            "DAGSTER_HOME": str(self.home),
            "DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR": "1",
            "CM_SITES": str(self.sites),
            "CM_LOCAL_WMS_HOME": str(self.wms_home),
        }
