"""``cm limits``: how much goes at once, shown and changed while campaigns run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cm_dagster.cli.output import console, json_option, table, write_json
from cm_dagster.cli.setting import known_sites, ledger, reason_option, site_named, sites_option, user

if TYPE_CHECKING:
    import dagster as dg

    from cm_dagster.control.limits import Setting
    from cm_dagster.spec import SiteSpec
    from cm_dagster.spec.overrides import Scope

__all__ = ["limits"]


@click.group
def limits() -> None:
    """Show and change how much goes at once, while campaigns run.

    \b
    What is set holds from the next tick on, in place of what the site or campaign file says, until it is reset:
      cm limits show
      cm limits set --site local in_flight=50 per_hour=200 --reason "the database is slow"
      cm limits set --campaign rc2 priority=5 windows="mon-fri 18:00-06:00, sat-sun" --reason "nights only"
      cm limits set --campaign rc2 --step step1 scouts=0 --reason "looked at by hand"
      cm limits reset --site local --reason "it is quick again"
    """  # noqa: D301  (click wants the character \b)


def _scope_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say what the settings are of."""
    for option in (
        click.option("--step", metavar="NAME", help="A step of the campaign."),
        click.option("--campaign", metavar="NAME", help="The settings of a campaign."),
        click.option("--site", metavar="NAME", help="The settings of a site."),
    ):
        command = option(command)
    return sites_option(command)


@limits.command(short_help="Show what holds now, what is used of it, and who has set what.")
@_scope_options
@json_option
def show(site: str | None, campaign: str | None, step: str | None, sites_file: Path | None, as_json: bool) -> None:
    """Show what holds now, what is used of it, and who has set what; of all sites and campaigns, or of one.

    Of steps only what was set is shown, but for that of --step.
    """
    with ledger() as instance:
        lines = [
            {**setting.to_json(), "used": used.get(setting.key)}
            for scope, spec in _scopes(instance, site, campaign, step, sites_file)
            for used in [_used(instance, scope, sites_file)]
            for setting in _settings(instance, scope, spec)
        ]
    if as_json:
        write_json(lines)
        return
    drawn = table("of", "setting", "now", "used", "file", "set by", "when", "why", whole=("of", "setting", "when"))
    for line in lines:
        by = line["set"] or {}
        drawn.add_row(
            _of(line),
            line["setting"],
            _text(line["value"]),
            _text(line["used"]) if line["used"] is not None else "",
            _text(line["file"]) if by else "",
            by.get("user", ""),
            by.get("time", ""),
            by.get("reason", ""),
        )
    console().print(drawn)


def _of(line: dict[str, Any]) -> str:
    kind = "site" if "site" in line else "campaign"
    return f"{kind} {line[kind]}" + (f" {line['step']}" if "step" in line else "")


def _text(value: Any) -> str:
    if value is None or value == []:
        return "none"
    return ", ".join(value) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else str(value)


def _scopes(
    instance: dg.DagsterInstance, site: str | None, campaign: str | None, step: str | None, sites_file: Path | None
) -> Iterable[tuple[Scope, SiteSpec | None]]:
    """Give what is to be shown: what was named, else all sites, all campaigns and all steps."""
    from cm_dagster.ledger import campaigns
    from cm_dagster.spec.overrides import Scope

    if site or campaign or step:
        yield _scope(site, campaign, step, sites_file)
    if not (site or campaign or step):
        known = known_sites(sites_file)
        yield from ((Scope("site", name), spec) for name, spec in (known.sites if known else {}).items())
        yield from ((Scope("campaign", name), None) for name in campaigns.load_all(instance))
    if not (site or step):
        for name, found in campaigns.load_all(instance).items():
            if campaign in (None, name):
                yield from ((Scope("campaign", name, each), None) for each in found.spec.order())


def _settings(instance: dg.DagsterInstance, scope: Scope, site: SiteSpec | None) -> list[Setting]:
    from cm_dagster.control.limits import settings

    named = click.get_current_context().params["step"]
    return [each for each in settings(instance, scope, site) if each.override or named or not scope.step]


def _used(instance: dg.DagsterInstance, scope: Scope, sites_file: Path | None) -> dict[str, int]:
    """Say what is used of the limits of a site or a campaign, as far as the site file tells which sites there are."""
    from cm_dagster.control.floor import Floor
    from cm_dagster.ledger import campaigns

    known = known_sites(sites_file)
    if scope.step or known is None:
        return {}
    if scope.kind == "site":
        return Floor(instance, scope.name, known.sites[scope.name]).used()
    site = next((name for name in campaigns.find(instance, scope.name).spec.sites if name in known.sites), None)
    return Floor(instance, site, known.sites[site]).used(scope.name) if site else {}


def _scope(
    site: str | None, campaign: str | None, step: str | None, sites_file: Path | None
) -> tuple[Scope, SiteSpec | None]:
    """Read from the options what is meant.

    Raises
    ------
    click.UsageError
        If they do not name one thing.
    LedgerError
        If there is no such site.
    """
    from cm_dagster.spec.overrides import Scope

    if bool(site) == bool(campaign) or (step and not campaign):
        raise click.UsageError("name one: --site NAME, --campaign NAME, or --campaign NAME --step NAME")
    if campaign:
        return Scope("campaign", campaign, step or ""), None
    return Scope("site", site or ""), site_named(sites_file, site or "")


@limits.command("set", short_help="Set limits at run time.")
@_scope_options
@click.argument("settings", nargs=-1, required=True, metavar="NAME=VALUE...")
@reason_option
@json_option
def set_limits(
    site: str | None,
    campaign: str | None,
    step: str | None,
    sites_file: Path | None,
    settings: tuple[str, ...],
    reason: str,
    as_json: bool,
) -> None:
    """Set limits; they hold from the next tick on, until they are set again or reset.

    `cm limits show` lists the names. The value `none` is no limit; several windows have commas between.
    """
    from cm_dagster.control.limits import change

    if wrong := [text for text in settings if "=" not in text]:
        raise click.UsageError(f"{wrong[0]!r} is not of the form NAME=VALUE")
    texts = {name.strip(): value for name, _, value in (text.partition("=") for text in settings)}
    scope, spec = _scope(site, campaign, step, sites_file)
    with ledger() as instance:
        changed = change(instance, scope, texts, user=user(), reason=reason, site=spec)
    if as_json:
        write_json([{**now.to_json(), "before": before} for now, before in changed])
        return
    for now, before in changed:
        click.echo(f"{scope}: {now.key} is {_text(now.value)} (was {_text(before)})")
    click.echo("it holds from the next tick on")


@limits.command(short_help="Let the files hold again.")
@_scope_options
@click.argument("settings", nargs=-1, metavar="[NAME...]")
@reason_option
@json_option
def reset(
    site: str | None,
    campaign: str | None,
    step: str | None,
    sites_file: Path | None,
    settings: tuple[str, ...],
    reason: str,
    as_json: bool,
) -> None:
    """Take back what was set at run time, so that the file holds again from the next tick on; by default all of it."""
    from cm_dagster.control.limits import reset as take_back

    scope, spec = _scope(site, campaign, step, sites_file)
    with ledger() as instance:
        changed = take_back(instance, scope, settings, user=user(), reason=reason, site=spec)
    if as_json:
        write_json([setting.to_json() for setting in changed])
        return
    for setting in changed:
        click.echo(f"{scope}: {setting.key} is {_text(setting.value)}, as in the file")
    if not changed:
        click.echo(f"{scope}: nothing was set")
