"""A site as this process knows it: its settings and its services, made when first asked for."""

from __future__ import annotations

import getpass
import os
from functools import cache, cached_property
from pathlib import Path

from cm_dagster.errors import CmError
from cm_dagster.services.butler import ButlerService
from cm_dagster.services.submitter import Submitter
from cm_dagster.services.wms import WmsClient
from cm_dagster.spec import CampaignSpec, Sites, SiteSpec, load_sites

__all__ = ["Site", "current_site", "home_repo", "known_sites", "remote_sites", "repo_of"]


class Site:
    """A site and its services.

    Parameters
    ----------
    name
        Name of the site.
    spec
        Its settings.
    """

    def __init__(self, name: str, spec: SiteSpec) -> None:
        self.name = name
        self.spec = spec
        self._butlers: dict[str, ButlerService] = {}

    @property
    def area(self) -> Path:
        """Submit area."""
        return self.spec.submit_area

    @cached_property
    def operator(self) -> str:
        """Who submits, as the WMS knows it: ``CM_OPERATOR``, else the user of this process."""
        return os.environ.get("CM_OPERATOR") or getpass.getuser()

    @cached_property
    def wms(self) -> WmsClient:
        """The workflow management system."""
        return WmsClient(self.spec.wms.service, user=self.operator, env=self.spec.env)

    @cached_property
    def submitter(self) -> Submitter:
        """What runs ``bps submit``."""
        return Submitter(self.spec)

    def repo(self, campaign: CampaignSpec) -> str:
        """Butler repository of a campaign at this site."""
        return repo_of(campaign, self.spec)

    def butler(self, campaign: CampaignSpec) -> ButlerService:
        """Butler of a campaign at this site; one connection per repository and process."""
        repo = self.repo(campaign)
        if repo not in self._butlers:
            self._butlers[repo] = ButlerService(repo)
        return self._butlers[repo]


def repo_of(campaign: CampaignSpec, site: SiteSpec) -> str:
    """Butler repository of a campaign at a site."""
    return campaign.butler.repo or site.butler


@cache
def known_sites() -> Sites:
    """Read the file that ``CM_SITES`` names, once a process.

    Raises
    ------
    CmError
        If the variable is not set.
    SpecError
        If the file is wrong.
    """
    path = os.environ.get("CM_SITES")
    if not path:
        raise CmError("CM_SITES is not set", advice="set it to the path of sites.yaml")
    return load_sites(Path(path))


@cache
def current_site() -> Site:
    """Give the site that this process serves: ``CM_SITE``, or the only one there is.

    Raises
    ------
    CmError
        If it can't be told which site it is.
    """
    sites = known_sites().sites
    name = os.environ.get("CM_SITE") or (next(iter(sites)) if len(sites) == 1 else "")
    if name not in sites:
        raise CmError(f"CM_SITE is {name!r}", advice=f"set it to one of: {', '.join(sites)}")
    return Site(name, sites[name])


def home_repo(campaign: CampaignSpec) -> str:
    """Butler repository of a campaign at the home site."""
    sites = known_sites()
    return repo_of(campaign, sites.sites[sites.home])


def remote_sites(campaign: CampaignSpec) -> tuple[str, ...]:
    """Name the sites of a campaign whose Butler is another one than that of the home site, so that data must travel."""
    sites = known_sites()
    home = home_repo(campaign)
    others = (name for name in campaign.sites if name in sites.sites and name != sites.home)
    return tuple(name for name in others if repo_of(campaign, sites.sites[name]) != home)
