"""A small deployment in one folder: what a production one has in /etc and on shared disks, on one machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["Deployment", "template"]


def template(name: str) -> str:
    """Read a file that a deployment starts from, e.g. ``dagster.yaml``."""
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
    def names(self) -> list[str]:
        """Names of the sites, as the site file has them."""
        return list(yaml.safe_load(self.sites.read_text())["sites"])

    def wms_home(self, site: str) -> Path:
        """State of a site's local WMS."""
        return self.folder / "wms" / site

    def submit_area(self, site: str) -> Path:
        """Submit directories and claims of a site."""
        return self.folder / "submit" / site

    def write(self, sites: dict[str, Any], *, dequeue_seconds: int = 10) -> None:
        """Write the files of the deployment; the list of code locations is written when their servers start.

        Parameters
        ----------
        sites
            Content of the site file.
        dequeue_seconds
            How often Dagster looks at its run queue.
        """
        areas = [place(name) for name in sites["sites"] for place in (self.wms_home, self.submit_area)]
        for folder in (self.home, self.logs, *areas):
            folder.mkdir(parents=True, exist_ok=True)
        instance = yaml.safe_load(template("dagster.yaml"))
        instance["run_coordinator"]["config"]["dequeue_interval_seconds"] = dequeue_seconds
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(instance, sort_keys=False))
        self.sites.write_text(yaml.safe_dump(sites, sort_keys=False))

    def write_workspace(self, ports: Mapping[str, int]) -> None:
        """Write Dagster's list of code locations, one for each site and of its name.

        Parameters
        ----------
        ports
            Port of each site's code server on loopback.
        """
        servers = [
            {"grpc_server": {"host": "127.0.0.1", "port": port, "location_name": site}} for site, port in ports.items()
        ]
        self.workspace.write_text(yaml.safe_dump({"load_from": servers}, sort_keys=False))

    def environment(self, site: str = "") -> dict[str, str]:
        """Environment of a process of the deployment.

        Parameters
        ----------
        site
            Name of the site that it works for; empty for a process that works for none (daemon, webserver), which knows
            nothing of any site's WMS.
        """
        drop = {"PYTHONDONTWRITEBYTECODE", "CM_SITE", "CM_LOCAL_WMS_HOME"}
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        own = {"CM_SITE": site, "CM_LOCAL_WMS_HOME": str(self.wms_home(site))} if site else {}
        return {
            **{name: value for name, value in os.environ.items() if name not in drop},
            **threads,
            "DAGSTER_HOME": str(self.home),
            "DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR": "1",
            "CM_SITES": str(self.sites),
            "CM_WORKSPACE": str(self.workspace),
            **own,
        }
