"""``cm audit``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from cm_dagster.cli.output import console, json_option, local_time, table, write_json
from cm_dagster.cli.root import EXIT_FAILURE, show_error
from cm_dagster.cli.setting import ledger, user
from cm_dagster.errors import CmError, SpecError

if TYPE_CHECKING:
    from cm_dagster.control.audit import Audit
    from cm_dagster.control.site import Site
    from cm_dagster.policy.findings import Finding, Kind

__all__ = ["EXIT_INCOMPLETE", "audit"]

EXIT_INCOMPLETE = 3
"""Not all sources could be asked."""

_SHOWN = 20
"""Most findings of a kind that are written for people."""


@click.command
@click.argument("campaigns", nargs=-1, metavar="[CAMPAIGN]...")
@click.option("--site", "site_name", help="The site; by default CM_SITE, or the only one of the site file.")
@click.option("--fix", is_flag=True, help="Cancel workflows that were submitted twice; the recorded one stays.")
@json_option
def audit(campaigns: tuple[str, ...], site_name: str | None, fix: bool, as_json: bool) -> None:
    """Compare ledger, submit area, WMS and Butler of a site, and say what does not fit, and what to do about it.

    Looks at all campaigns, or at those that are named. Nothing is changed without --fix.

    \b
    Exit codes: 0  all sources were asked, and nothing was found
                1  findings
                2  bad input
                3  a source could not be asked, so that not all may be found
    """  # noqa: D301  (click wants the character \b)
    from cm_dagster.control import audit as control

    try:
        site = _site(site_name)
        with ledger() as instance:
            log = logging.getLogger(__name__)
            who = f"{user()} (cm audit --fix)" if fix else ""
            found = control.audit(instance, site, log, campaigns=campaigns or None, fix_by=who)
    except SpecError:
        raise
    except CmError as error:
        show_error(error)
        raise SystemExit(EXIT_INCOMPLETE) from error
    if as_json:
        write_json(found.to_json())
    else:
        out = console()
        for part in _page(found):
            out.print(part)
    if found.gaps:
        raise SystemExit(EXIT_INCOMPLETE)
    if found.findings:
        raise SystemExit(EXIT_FAILURE)


def _site(name: str | None) -> Site:
    from cm_dagster.control.site import Site, current_site, known_sites

    if name is None:
        return current_site()
    sites = known_sites().sites
    if name not in sites:
        raise click.BadParameter(f"there is no site {name!r}; there are: {', '.join(sites)}", param_hint="--site")
    return Site(name, sites[name])


def _page(found: Audit) -> Iterator[Any]:
    """Write an audit for people: what was not done, then what was found, the most urgent first."""
    from rich.text import Text

    looked = ", ".join(f"{what} {count}" for what, count in found.looked_at.items())
    yield Text.assemble((f"audit of {found.site}", "bold"), f"  {local_time(found.began)}  ", (looked, "dim"))
    for gap in found.gaps:
        yield ""
        yield Text.assemble(("not done: ", "bold magenta"), f"{gap.part}: {gap.cause}")
        if gap.advice:
            yield f"what to do: {gap.advice}"
    for kind, count in found.counts.items():
        if count:
            yield ""
            yield from _kind(kind, [each for each in found.findings if each.kind is kind])
    yield ""
    if found.all_well:
        yield Text("all is well", "green")
    elif found.findings:
        yield f"{len(found.findings)} findings, {len(found.alarming)} of them alarming"
    else:
        yield "nothing was found in what could be asked"


def _kind(kind: Kind, findings: list[Finding]) -> Iterator[Any]:
    from rich.text import Text

    from cm_dagster.policy.findings import ALARMING, MEANING

    style = "bold red" if kind in ALARMING else "yellow"
    yield Text.assemble((f"{kind} ({len(findings)}): ", style), MEANING[kind])
    drawn = table("where", "what is seen, and what to do", whole=("where",))
    for each in findings[:_SHOWN]:
        since = f" (since {local_time(each.since)})" if each.since else ""
        text = Text.assemble(f"{each.seen}{since}\n", ("what to do: ", "bold"), each.advice)
        if each.done:
            text.append(f"\ndone: {each.done}", "green")
        drawn.add_row(each.where, text)
    yield drawn
    if len(findings) > _SHOWN:
        yield f"... and {len(findings) - _SHOWN} more: cm audit --json"
