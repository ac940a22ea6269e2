"""The site file, ``sites.yaml``, as pydantic models: what a deployment knows about its sites."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from cm_dagster.spec.fields import BpsSettings, ClassName, EnvName, Folder, Model, ShellLines, SiteName, slip
from cm_dagster.spec.limits import LimitsSpec
from cm_dagster.spec.problems import Problem

__all__ = ["BackoffSpec", "LimitsSpec", "SiteSpec", "SiteStack", "Sites", "SubmitSpec", "TransferSpec", "WmsSpec"]


class WmsSpec(Model):
    """The workflow management system (WMS) of a site."""

    service: ClassName
    """Class of the BPS plugin, e.g. `lsst.ctrl.bps.panda.PanDAService`."""
    compute_site: str = Field(min_length=1)
    """Name of the site at the WMS (`computeSite` of BPS)."""
    settle: float = Field(default=30.0, ge=0)
    """Time after which a submitted workflow can be found at the WMS, in seconds; by default 30. A look-up that finds
    nothing is believed only after it."""
    history: float = Field(default=3.0, gt=0)
    """How far back the WMS is asked for ended workflows, in days; by default 3. For an attempt that is older it is
    asked back to when that was requested; what is new is not looked for before that."""


class SiteStack(Model):
    """How the LSST software is set up at a site."""

    setup: ShellLines = ""
    """Lines of bash that are run before the campaign's own stack set-up; by default none."""


class SubmitSpec(Model):
    """How workflows are submitted."""

    method: Literal["batch", "plain"] = "batch"
    """`batch` (one process imports BPS once and forks for each workflow; the default), or `plain` (one `bps submit`
    each)."""
    batch: int = Field(default=50, ge=1)
    """Most workflows that one submit run takes; by default 50."""
    parallel: int = Field(default=1, ge=1)
    """Workflows that a submit run makes at the same time; by default 1."""
    timeout: float = Field(default=60.0, gt=0)
    """Time after which the submission of a workflow is given up, in minutes; by default 60."""
    patience: float = Field(default=24.0, gt=0)
    """Time after which an attempt fails whose submission failed again and again by something that passes (the Butler
    away, the disk full), in hours; by default 24."""


class BackoffSpec(Model):
    """How long is waited before something is tried again that failed by what passes; each time twice as long."""

    first: float = Field(default=60.0, gt=0)
    """Time until the second try, in seconds; by default 60."""
    longest: float = Field(default=900.0, gt=0)
    """Longest time between two tries, in seconds; by default 900."""


class TransferSpec(Model):
    """How data travel between a site's Butler and that of the home site."""

    batch: int = Field(default=50, ge=1)
    """Most groups whose data one run brings; by default 50."""
    timeout: float = Field(default=60.0, gt=0)
    """Time after which a run that brings data is given up and another one goes on with the rest, in minutes; by default
    60."""


class SiteSpec(Model):
    """A site: a batch system with a Butler."""

    home: bool = False
    """Whether this is the site where all outputs end up; exactly one is. A single site is, without saying so."""
    butler: str = Field(min_length=1)
    """Label or URI of the site's Butler repository."""
    submit_area: Folder
    """Absolute path of the folder for submit directories and claims; shared by all hosts that submit for the site."""
    wms: WmsSpec
    """The site's workflow management system."""
    bps: BpsSettings = Field(default={})
    """BPS settings for all workflows at the site, under those of the campaign; by default none."""
    stack: SiteStack = SiteStack()
    """What the site adds to the set-up of a campaign's stack."""
    submit: SubmitSpec = SubmitSpec()
    """How workflows are submitted at the site."""
    limits: LimitsSpec = LimitsSpec()
    """How much the site takes at once."""
    transfer: TransferSpec = TransferSpec()
    """How data are brought to the site; of the home site: how they are fetched from the others."""
    backoff: BackoffSpec = BackoffSpec()
    """How long is waited between tries."""
    tick: float = Field(default=30.0, gt=0)
    """Time between two looks at the WMS, in seconds; what follows (chains, next steps, requests, submissions) is looked
    for three times as often, but not more than every 5 s; by default 30."""
    env: dict[EnvName, str] = Field(default={})
    """Environment variables of `bps submit`; by default none."""

    @property
    def brisk(self) -> float:
        """Seconds between two ticks of the sensors that carry on what a look at the WMS has shown.

        Between the end of a step's last group and the submission of the next step's first one there are four of them.
        """
        return max(self.tick / 3.0, min(self.tick, 5.0))


class Sites(Model):
    """All sites of a deployment."""

    sites: dict[SiteName, SiteSpec] = Field(min_length=1)
    """The sites by name."""

    @model_validator(mode="before")
    @classmethod
    def _single_is_home(cls, data: object) -> object:
        """Make a single site the home site."""
        sites = data.get("sites") if isinstance(data, dict) else None
        if isinstance(sites, dict) and len(sites) == 1:
            ((name, site),) = sites.items()
            if isinstance(site, dict) and "home" not in site:
                return {**data, "sites": {name: {**site, "home": True}}}  # type: ignore[dict-item]
        return data

    @model_validator(mode="after")
    def _one_home(self) -> Self:
        homes = [name for name, site in self.sites.items() if site.home]
        if len(homes) != 1:
            found = " and ".join(homes) + " say" if homes else "none says"
            raise slip(Problem((), f"exactly one site must be the home site, but {found} `home: true`"))
        return self

    @property
    def home(self) -> str:
        """Name of the home site."""
        return next(name for name, site in self.sites.items() if site.home)
