"""How much a site and a campaign take at once, and when a step stops by itself: settings that change at run time."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from cm_dagster.policy.windows import Window
from cm_dagster.spec.fields import Model, slip
from cm_dagster.spec.problems import Problem

__all__ = ["Brake", "CampaignLimits", "LimitsSpec", "RampUp"]


def _window(value: str) -> str:
    try:
        Window.parse(value)
    except ValueError as error:
        raise slip(Problem((), str(error), "days, hours (UTC) or both, e.g. mon-fri 18:00-06:00")) from error
    return value.strip()


Windows = Annotated[list[Annotated[str, AfterValidator(_window)]], Field(max_length=50)]


class RampUp(Model):
    """How a site begins again after an outage of its WMS, which may not bear all that has waited at once."""

    after: float = Field(default=10.0, ge=0)
    """Shortest outage that counts, in minutes; by default 10."""
    over: float = Field(default=30.0, ge=0)
    """Time from the WMS's return until the site takes all again, in minutes; by default 30. 0 for no ramp."""
    start: float = Field(default=0.1, ge=0, le=1)
    """Fraction of `in_flight` (and of `per_hour`, where that is less) that may be submitted at the WMS's return; it
    grows evenly to 1; by default 0.1."""


class LimitsSpec(Model):
    """How much a site takes, whatever the campaign."""

    in_flight: int = Field(default=100, ge=0)
    """Most groups in the site's hands at the same time; by default 100. 0: nothing new goes."""
    per_hour: int | None = Field(default=None, ge=1)
    """Most submissions in any 60 minutes; by default no limit."""
    building: int | None = Field(default=None, ge=1)
    """Most groups whose quantum graphs are built, and that are submitted, at the same time; by default no limit."""
    windows: Windows = Field(default=[])
    """When groups go, e.g. `18:00-06:00`, `sat-sun` or `mon-fri 18:00-06:00`; hours in UTC, days those on which a
    window begins; by default always."""
    ramp_up: RampUp = RampUp()
    """How the site begins again after an outage of its WMS."""


class CampaignLimits(Model):
    """How much of a campaign goes at the same time, at all its sites together; the sites' own limits hold too."""

    in_flight: int | None = Field(default=None, ge=0)
    """Most of its groups in the sites' hands at the same time; by default no limit. 0: nothing new goes."""
    per_hour: int | None = Field(default=None, ge=1)
    """Most submissions in any 60 minutes; by default no limit."""
    building: int | None = Field(default=None, ge=1)
    """Most groups whose quantum graphs are built, and that are submitted, at the same time; by default no limit."""
    windows: Windows = Field(default=[])
    """When its groups go, as `limits.windows` of a site; by default always."""


class Brake(Model):
    """When a step stops by itself at a site, since most likely everything of it would fail.

    It goes on after `cm step resume`, or after the success of an attempt that began since.
    """

    failed: float = Field(default=0.5, ge=0, le=1)
    """Fraction of the groups that ended which may fail; the step stops if more do; by default 0.5. 1 for no such
    rule."""
    ended: int = Field(default=10, ge=1)
    """Groups that must have ended before that fraction counts; by default 10."""
    in_a_row: int | None = Field(default=10, ge=1)
    """Different groups that fail one after another, without a success between, at which the step stops; by default
    10. Null for no such rule."""
