"""``cm site``: sites looked at, stopped for a downtime and started again, and checked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cm_dagster.cli.output import age, console, json_option, state_text, table, write_json
from cm_dagster.cli.setting import known_sites, ledger, reason_option, site_named, sites_option, user

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cm_dagster.control.sitepage import SitePage

__all__ = ["site"]


@click.group
def site() -> None:
    """Look at sites; stop one for a downtime, and start it again; check one.

    \b
      cm site list
      cm site stop usdf --reason "disks are exchanged" --until "2026-12-01 08:00"
      cm site start usdf --reason "the disks are new"
    """  # noqa: D301  (click wants the character \b)


@site.command("list", short_help="List the sites: which are up, stopped or silent, and what they have.")
@sites_option
@json_option
def list_sites(sites_file: Path | None, as_json: bool) -> None:
    """List the sites: which are up, stopped or silent, how many groups they have in flight, and how many wait."""
    pages = _pages(sites_file)
    if as_json:
        write_json([page.to_json() for page in pages])
        return
    drawn = table("site", "state", "in flight", "waiting", "unknown", "notes", whole=("site", "state", "in flight"))
    for page in pages:
        limit = next(each.value for each in page.limits if each.key == "in_flight")
        name = f"{page.site} (home)" if page.home else page.site
        flight = f"{page.used['in_flight']} of {limit}"
        alarms = [f"{len(page.alarms)} alarms in the last week"] if page.alarms else []
        notes = "; ".join([*page.notes, *alarms])
        waiting, unknown = _count(page, "planned", "queued"), _count(page, "unknown")
        drawn.add_row(name, state_text(page.state), flight, str(waiting), str(unknown), notes)
    console().print(drawn)


def _count(page: SitePage, *states: str) -> int:
    return sum(count for counts in page.groups.values() for state, count in counts.items() if state in states)


def _pages(sites_file: Path | None, name: str | None = None) -> list[SitePage]:
    """Look at a site, or at all."""
    from cm_dagster.control.sitepage import site_pages

    if name is not None:
        site_named(sites_file, name)
    known = known_sites(sites_file)
    if known is None:
        raise click.UsageError("which sites there are is not known: give --sites FILE, or set CM_SITES")
    with ledger() as instance:
        return site_pages(instance, known, list(known.sites) if name is None else [name])


@site.command(short_help="Show all that is known of a site.")
@click.argument("name", metavar="SITE")
@sites_option
@json_option
def show(name: str, sites_file: Path | None, as_json: bool) -> None:
    """Show a SITE: whether it is stopped or silent, its WMS, limits, sensors, alarms, and its groups by campaign."""
    (page,) = _pages(sites_file, name)
    if as_json:
        write_json(page.to_json())
        return
    out = console()
    for part in _drawn(page):
        out.print(part)


def _drawn(page: SitePage) -> Iterator[RenderableType]:
    from rich.text import Text

    yield Text.assemble((page.site, "bold"), "  ", state_text(page.state), "  home" if page.home else "")
    yield from page.notes
    if page.full and not page.notes:
        yield page.full
    yield from (f"ALARM: workflow {alarm.twin} was a twin of {alarm.own} ({alarm.workflow})" for alarm in page.alarms)
    limits = table("limit", "now", "used", right=("now", "used"))
    for each in page.limits:
        used = page.used.get(each.key)
        limits.add_row(each.key, str(each.value), "" if used is None else str(used))
    yield limits
    sensors = table("sensor", "", "last tick", "error")
    for tick in page.sensors:
        last = f"{age(time.time() - tick.time)} ago" if tick.time else "never"
        sensors.add_row(tick.sensor, "on" if tick.on else "off", last, tick.error)
    yield sensors if page.sensors else "its code server was never heard of"
    if page.groups:
        states = [str(state) for state in next(iter(page.groups.values()))]
        groups = table("campaign", *states, right=tuple(states))
        for campaign, counts in page.groups.items():
            groups.add_row(campaign, *(str(count or "") for count in counts.values()))
        yield groups


def _time(context: click.Context, option: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    try:
        given = datetime.fromisoformat(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a time, e.g. 2026-12-01 08:00 (UTC)") from error
    seconds = (given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp()
    if seconds <= time.time():
        raise click.BadParameter(f"{value!r} is over already (times are in UTC)")
    return seconds


@site.command(short_help="Declare a downtime: the site takes nothing new.")
@click.argument("name", metavar="SITE")
@click.option("--until", metavar="TIME", callback=_time, help="When it ends by itself, e.g. '2026-12-01 08:00' (UTC).")
@reason_option
@sites_option
@json_option
def stop(name: str, until: float | None, reason: str, sites_file: Path | None, as_json: bool) -> None:
    """Declare a downtime of a SITE: nothing new is requested or submitted there, whoever asks for it.

    What runs there goes on and is watched, judged and chained. Groups that wait say why. Another `stop` takes the place
    of the one before.
    """
    from cm_dagster.control import downtime

    site_named(sites_file, name)
    with ledger() as instance:
        before = downtime.stop(instance, name, user=user(), reason=reason, until=until)
        now = downtime.read_downtime(instance, name)
    if as_json:
        write_json({"site": name, "stopped": now.to_json() if now else None, "changed": before is None})
        return
    click.echo(f"site {name} is {now}")
    if before:
        click.echo(f"it was {before}")
    click.echo("what runs there goes on; nothing new is submitted from the next tick on")


@site.command(short_help="End a downtime.")
@click.argument("name", metavar="SITE")
@reason_option
@sites_option
@json_option
def start(name: str, reason: str, sites_file: Path | None, as_json: bool) -> None:
    """End the downtime of a SITE: it takes groups again from the next tick on."""
    from cm_dagster.control import downtime

    site_named(sites_file, name)
    with ledger() as instance:
        before = downtime.start(instance, name, user=user(), reason=reason)
    if as_json:
        write_json({"site": name, "stopped": None, "changed": before is not None})
    elif before:
        click.echo(f"site {name} takes groups again; it was {before}")
    else:
        click.echo(f"site {name} was not stopped")


@site.command(short_help="Check a site: its services, its code server, sensors and pool.")
@click.argument("name", metavar="SITE")
@sites_option
@json_option
def doctor(name: str, sites_file: Path | None, as_json: bool) -> None:
    """Check a SITE, from this host, and say what to do about what is wrong.

    Looks at its Butler, WMS and submit area, at its code server where workspace.yaml has it, at its sensors, at
    Dagster's daemon and storage, and at the pool of its submissions. Nothing is changed. Exit code 1 if anything fails.
    """
    from cm_dagster.cli.doctor import report, site_findings

    report(site_findings(name, site_named(sites_file, name)), as_json=as_json)
