"""Checks of the sites, for ``cm doctor`` and ``cm site doctor``: site file, services, code server, its sensors."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cm_dagster.cli.checks import Finding
from cm_dagster.errors import ButlerError, LedgerError, SpecError, WmsError

if TYPE_CHECKING:
    import dagster as dg

    from cm_dagster.spec import Sites, SiteSpec

__all__ = [
    "check_butler",
    "check_code_server",
    "check_pool",
    "check_shared",
    "check_site_sensors",
    "check_submit_area",
    "check_wms",
    "load",
]


def load() -> tuple[Sites | None, list[Finding]]:
    """Load the file that ``CM_SITES`` names, and check ``CM_SITE``."""
    from cm_dagster.spec import load_sites

    path = os.environ.get("CM_SITES")
    if not path:
        advice = "set it to the path of sites.yaml, as it is set for the code servers"
        return None, [Finding("sites", "fail", "CM_SITES is not set", advice)]
    try:
        sites = load_sites(Path(path))
    except SpecError as error:
        return None, [Finding("sites", "fail", str(fault), "correct the site file") for fault in error.faults]
    names = ", ".join(sites.sites)
    chosen = os.environ.get("CM_SITE")
    if chosen and chosen not in sites.sites:
        text = f"CM_SITE is {chosen!r}, which is not in {path}"
        return sites, [Finding("sites", "fail", text, f"set it to one of: {names}")]
    if not chosen and len(sites.sites) > 1:
        text = f"{path}: {names}; CM_SITE is not set, so all sites are checked from here"
        return sites, [Finding("sites", "warn", text, "set CM_SITE, as every code server must have it")]
    own = f", this is {chosen}" if chosen else ""
    return sites, [Finding("sites", "ok", f"{path}: {names}{own}; home is {sites.home}")]


def check_butler(name: str, site: SiteSpec) -> Iterator[Finding]:
    """Check that a site's Butler repository can be read."""
    from cm_dagster.services.butler import ButlerService

    butler = ButlerService(site.butler)
    try:
        butler.exists("cm_dagster")
    except ButlerError as error:
        yield Finding(f"butler {name}", "fail", error.cause, error.advice)
    else:
        yield Finding(f"butler {name}", "ok", f"{site.butler} answers")
    finally:
        butler.close()


def check_wms(name: str, site: SiteSpec) -> Iterator[Finding]:
    """Check that a site's BPS plugin can be imported and its WMS answers."""
    from cm_dagster.services.wms import WmsClient

    try:
        WmsClient(site.wms.service, env=site.env).ping()
    except WmsError as error:
        yield Finding(f"wms {name}", "fail", error.cause, error.advice)
    else:
        yield Finding(f"wms {name}", "ok", f"{site.wms.service} answers")


def check_submit_area(name: str, site: SiteSpec) -> Iterator[Finding]:
    """Check that a submit area takes files, locks and hard links, which claims are made of."""
    area = site.submit_area
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor", dir=area) as folder:
            path = Path(folder) / "claim"
            with path.open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (Path(folder) / "link").hardlink_to(path)
    except OSError as error:
        advice = "make it, and give the account that runs the code server the right to write; it needs locks and links"
        yield Finding(f"submit area {name}", "fail", f"{area}: {error.strerror or error}", advice)
    else:
        yield Finding(f"submit area {name}", "ok", f"{area} takes files, locks and links")


def check_code_server(name: str) -> Iterator[Finding]:
    """Check that a site's code server answers where Dagster's list of code locations has it.

    The list is the file that ``CM_WORKSPACE`` names, else workspace.yaml in ``DAGSTER_HOME``.
    """
    from cm_dagster.ledger.locations import addresses, ping

    check = f"code server {name}"
    path = Path(os.environ.get("CM_WORKSPACE") or Path(os.environ.get("DAGSTER_HOME", ""), "workspace.yaml"))
    if not path.exists():
        text = f"it is not known where it is: there is no {path}"
        yield Finding(check, "warn", text, "put the workspace.yaml of webserver and daemon there, or set CM_WORKSPACE")
        return
    try:
        known = addresses(path)
    except LedgerError as error:
        yield Finding(check, "fail", error.cause, error.advice)
        return
    if name not in known:
        text = f"{path} has no code location {name}: {', '.join(known) or 'none at all'}"
        yield Finding(
            check, "fail", text, "add it there, and restart webserver and daemon, which read it at their start"
        )
        return
    host, port = known[name]
    if wrong := ping(host, port):
        advice = f"start it (`dagster code-server start`, with CM_SITE={name}), or look into its log"
        yield Finding(check, "fail", f"{host}:{port} does not answer: {wrong}", advice)
    else:
        yield Finding(check, "ok", f"{host}:{port} answers")


def check_shared(instance: dg.DagsterInstance) -> Iterator[Finding]:
    """Check that Dagster's storage can be shared with the processes of other hosts."""
    storage = type(instance.run_storage).__name__
    if storage == "SqliteRunStorage":
        text = "SQLite: all processes of all sites must be on this host"
        yield Finding(
            "storage", "warn", text, "take PostgreSQL (the block `storage` in dagster.yaml) for several hosts"
        )
    else:
        yield Finding("storage", "ok", f"{storage}: one for all sites")


def check_site_sensors(instance: dg.DagsterInstance, name: str, tick: float) -> Iterator[Finding]:
    """Check that the sensors of a site are switched on, and how the latest tick of each went.

    Parameters
    ----------
    instance
        The Dagster instance.
    name
        Name of the site.
    tick
        Time between two looks of the site at its WMS, in seconds.
    """
    from cm_dagster.control.health import read_sites
    from cm_dagster.ledger.pulse import read_ticks

    ticks, check, page = read_ticks(instance, name), f"sensors {name}", "see its ticks in the web UI"
    if not ticks:
        text = f"no sensor of a code location {name} has ever run"
        yield Finding(check, "fail", text, "start its code server, and look at Deployment in the web UI")
        return
    found = []
    if silence := read_sites(instance, {name: tick})[name].silence:
        found.append(Finding(check, "fail", str(silence), "start what is missing, or look into its log"))
    for each in ticks:
        if not each.on:
            advice = "start it in the web UI unless it is to be stopped"
            found.append(Finding(check, "warn", f"{each.sensor} is switched off", advice))
        elif each.error:
            found.append(Finding(check, "warn", f"the latest tick of {each.sensor} failed: {each.error}", page))
    yield from found or [Finding(check, "ok", f"{len(ticks)} sensors, the latest tick of each went well")]


def check_pool(instance: dg.DagsterInstance, name: str) -> Iterator[Finding]:
    """Check that the pool of a site's submissions has a limit."""
    from cm_dagster.ledger.pulse import pool_limit

    pool = f"bps-submit/{name}"
    limit = pool_limit(instance, pool)
    if limit is None:
        text = f"{pool} has no limit: up to 4 runs of `bps submit` at a time (dagster.yaml), on one host"
        yield Finding(f"pool {name}", "warn", text, f"dagster instance concurrency set {pool} 2")
    else:
        yield Finding(f"pool {name}", "ok", f"{pool}: at most {limit} at a time")
