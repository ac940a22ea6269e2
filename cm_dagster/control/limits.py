"""The limits that hold now: those of the files, with what was set at run time; and how they are changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg
from pydantic import ValidationError

from cm_dagster.control.history import iso
from cm_dagster.errors import LedgerError
from cm_dagster.ledger import campaigns, sites
from cm_dagster.ledger.overrides import Override
from cm_dagster.policy.brake import BrakeRule
from cm_dagster.policy.limits import Limits, Ramp
from cm_dagster.policy.windows import Window
from cm_dagster.spec import Brake, CampaignLimits, CampaignSpec, LimitsSpec, SiteSpec
from cm_dagster.spec.overrides import Scope, parse, site_with

__all__ = ["Setting", "brake_rule", "change", "limits", "reset", "settings", "site_now"]


def site_now(instance: dg.DagsterInstance, name: str, spec: SiteSpec) -> SiteSpec:
    """Give a site's settings with what was set at run time.

    Raises
    ------
    LedgerError
        If what was set does not fit this release any more.
    """
    set_ = sites.read_overrides(instance, name)
    values = {path: each.value for path, each in set_.items() if path != sites.STOP}
    try:
        return site_with(spec, values) if values else spec
    except (KeyError, ValidationError) as error:
        advice = f"cm limits reset --site {name} --reason TEXT"
        raise LedgerError(f"what was set of site {name} at run time does not fit: {error}", advice=advice) from error


def limits(spec: LimitsSpec | CampaignLimits) -> Limits:
    """Give limits as the policies take them."""
    ramp = spec.ramp_up if isinstance(spec, LimitsSpec) else None
    return Limits(
        in_flight=spec.in_flight,
        per_hour=spec.per_hour,
        building=spec.building,
        windows=tuple(Window.parse(text) for text in spec.windows),
        hours=", ".join(spec.windows),
        ramp=Ramp(ramp.after * 60.0, ramp.over * 60.0, ramp.start) if ramp else None,
    )


def brake_rule(spec: Brake) -> BrakeRule:
    """Give the rule of a brake as the policies take it."""
    return BrakeRule(spec.failed, spec.ended, spec.in_a_row)


@dataclass(frozen=True)
class Setting:
    """A setting that can be changed at run time."""

    scope: Scope
    key: str
    value: Any
    """What holds now."""
    file: Any
    """What the file says, or is the default."""
    override: Override | None
    """By whom it was set at run time; None if it was not."""

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON can hold it."""
        by = self.override
        return {
            self.scope.kind: self.scope.name,
            **({"step": self.scope.step} if self.scope.step else {}),
            "setting": self.key,
            "value": self.value,
            "file": self.file,
            "set": {"user": by.user, "time": iso(by.time), "reason": by.reason} if by else None,
        }


def settings(instance: dg.DagsterInstance, scope: Scope, site: SiteSpec | None = None) -> list[Setting]:
    """List all settings of a site, a campaign or a step that can be changed at run time.

    Parameters
    ----------
    instance
        The Dagster instance.
    scope
        What they are settings of.
    site
        The site as the file has it, if it is a site.

    Raises
    ------
    LedgerError
        If there is no such campaign, or it has no such step.
    """
    file, now, set_ = _read(instance, scope, site)
    return [
        Setting(scope, key, _value(now, scope, key), _value(file, scope, key), set_.get(path))
        for key, path in scope.paths.items()
    ]


def _read(
    instance: dg.DagsterInstance, scope: Scope, site: SiteSpec | None
) -> tuple[CampaignSpec | SiteSpec, CampaignSpec | SiteSpec, Mapping[str, Override]]:
    """Read a site or a campaign as in its file, as it is now, and what was set at run time."""
    if site is not None:
        return site, site_now(instance, scope.name, site), sites.read_overrides(instance, scope.name)
    campaign = campaigns.find(instance, scope.name)
    if scope.step and scope.step not in campaign.spec.steps:
        known = ", ".join(campaign.spec.order())
        raise LedgerError(f"campaign {scope.name} has no step {scope.step!r}", advice=f"its steps: {known}")
    return campaign.spec, campaign.now, campaign.overrides


def _value(spec: CampaignSpec | SiteSpec, scope: Scope, key: str) -> Any:
    """Look a setting up by its short name; of a step what holds for it, wherever that is said."""
    if isinstance(spec, CampaignSpec):
        here: Any = spec.settings(scope.step) if scope.step else spec if key == "priority" else spec.limits
    else:
        here = spec.limits
    for part in key.split("."):
        here = getattr(here, part)
    return here


def change(
    instance: dg.DagsterInstance,
    scope: Scope,
    texts: Mapping[str, str],
    *,
    user: str,
    reason: str,
    site: SiteSpec | None = None,
) -> list[tuple[Setting, Any]]:
    """Set settings at run time; they hold from the next tick on, until they are set again or reset.

    Parameters
    ----------
    instance
        The Dagster instance.
    scope
        What they are settings of.
    texts
        The settings by short name, as a person writes them.
    user, reason
        Who does it, and why.
    site
        The site as the file has it, if it is a site.

    Returns
    -------
    changed : `list` [`tuple` [`Setting`, `object`]]
        What holds now, and what held before.

    Raises
    ------
    SpecError
        With all that is wrong with them.
    LedgerError
        If there is no such campaign, or it has no such step.
    """
    before = {setting.key: setting.value for setting in settings(instance, scope, site)}
    file, _, _ = _read(instance, scope, site)
    values = parse(scope, texts, file)
    module = sites if scope.kind == "site" else campaigns
    module.override(instance, scope.name, values, user=user, reason=reason)
    return [(now, before[now.key]) for now in settings(instance, scope, site) if now.key in texts]


def reset(
    instance: dg.DagsterInstance,
    scope: Scope,
    keys: Iterable[str],
    *,
    user: str,
    reason: str,
    site: SiteSpec | None = None,
) -> list[Setting]:
    """Take back what was set at run time, so that the file holds again.

    Parameters
    ----------
    instance
        The Dagster instance.
    scope
        What they are settings of.
    keys
        Short names of the settings; all where none are named.
    user, reason
        Who does it, and why.
    site
        The site as the file has it, if it is a site.

    Returns
    -------
    changed : `list` [`Setting`]
        What was reset.

    Raises
    ------
    LedgerError
        If there is no such campaign, or it has no such step; or no such setting.
    """
    before, paths = settings(instance, scope, site), scope.paths
    wanted = list(keys) or list(paths)
    if unknown := [key for key in wanted if key not in paths]:
        raise LedgerError(f"{scope} has no setting {unknown[0]!r}", advice=f"its settings: {', '.join(paths)}")
    module = sites if scope.kind == "site" else campaigns
    gone = module.reset(instance, scope.name, [paths[key] for key in wanted], user=user, reason=reason)
    return [replace(each, value=each.file, override=None) for each in before if paths[each.key] in gone]
