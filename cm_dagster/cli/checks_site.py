"""Checks of the sites, for ``cm doctor``: site file, Butler, WMS, submit area."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cm_dagster.cli.checks import Finding
from cm_dagster.errors import ButlerError, SpecError, WmsError

if TYPE_CHECKING:
    from cm_dagster.spec import Sites, SiteSpec

__all__ = ["check_butler", "check_submit_area", "check_wms", "load"]


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
