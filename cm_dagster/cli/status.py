"""``cm status``."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from cm_dagster.cli.output import STYLES, age, bar, console, json_option, state_text, table, write_json
from cm_dagster.cli.setting import ledger, site_specs
from cm_dagster.policy.states import GroupState

if TYPE_CHECKING:
    import dagster as dg
    from rich.console import Console, RenderableType
    from rich.text import Text

    from cm_dagster.control.overview import CampaignView, Failure, StepView

__all__ = ["page", "status"]

_TICK = 5.0
_NAMES = 3
"""Most groups that are named of those that failed alike."""
_NUMBER = re.compile(r"\d+")
_CAUSE = 400
"""Most characters of a cause; `cm group show` has the whole of it."""


@click.command
@click.argument("name", required=False, metavar="[CAMPAIGN]")
@click.option(
    "--watch",
    is_flag=False,
    flag_value=f"{_TICK:g}",
    metavar="[SECONDS]",
    help=f"Look again every so often (default {_TICK:g} s), until all is done or Ctrl-C.",
)
@json_option
def status(name: str | None, watch: str | None, as_json: bool) -> None:
    """Show how far campaigns are: a bar for each step, what it waits for, what failed and why.

    \b
    The bar:  █ accepted   ▒ running   ░ queued or submitted   · planned
              ✗ failed     ‖ held      ? unknown (the WMS or the whole site does not answer)

    --json gives an object for one CAMPAIGN, a list without; with --watch an object or a list in each line.
    """  # noqa: D301  (click wants the character \b)
    if watch is not None and name is None and watch[:1].isalpha():
        name, watch = watch, f"{_TICK:g}"  # `cm status --watch CAMPAIGN`
    every = None if watch is None else _seconds(watch)
    with ledger() as instance:
        if every is None:
            _once(instance, name, as_json)
        else:
            _follow(instance, name, every, as_json)


def _seconds(text: str) -> float:
    try:
        every = float(text)
    except ValueError:
        every = 0.0
    if not 1.0 <= every < math.inf:
        raise click.BadParameter(f"{text!r} is not a number of seconds, at least 1", param_hint="--watch")
    return every


def _once(instance: dg.DagsterInstance, name: str | None, as_json: bool) -> None:
    views = _views(instance, name)
    if as_json:
        write_json(_document(views, name))
        return
    out = console()
    for part in page(instance, views, out):
        out.print(part)


def _views(instance: dg.DagsterInstance, name: str | None) -> list[CampaignView]:
    from cm_dagster.control.overview import overview

    return overview(instance, None if name is None else [name], site_specs())


def _document(views: list[CampaignView], name: str | None) -> Any:
    return [view.to_json() for view in views] if name is None else views[0].to_json()


def _follow(instance: dg.DagsterInstance, name: str | None, every: float, as_json: bool) -> None:
    """Show the status again and again, until everything is done."""
    import json

    from rich.console import Group
    from rich.live import Live

    out = console()
    try:
        if as_json or not out.is_terminal:
            for views in _looks(instance, name, every):
                if as_json:
                    click.echo(json.dumps(_document(views, name), ensure_ascii=False))
                else:
                    for part in page(instance, views, out):
                        out.print(part)
            return
        with Live(console=out, auto_refresh=False, vertical_overflow="crop") as live:
            for views in _looks(instance, name, every):
                stamp = f"{time.strftime('%H:%M:%S')}, again every {every:g} s; Ctrl-C ends this, not the campaign"
                live.update(Group(*page(instance, views, out), stamp), refresh=True)
    except KeyboardInterrupt:
        return


def _looks(instance: dg.DagsterInstance, name: str | None, every: float) -> Iterator[list[CampaignView]]:
    while True:
        views = _views(instance, name)
        yield views
        if views and all(view.state == "done" for view in views):
            return
        time.sleep(every)


def page(instance: dg.DagsterInstance, views: list[CampaignView], out: Console) -> Iterator[RenderableType]:
    """Write where campaigns stand, as lines and tables for a console.

    Parameters
    ----------
    instance
        The Dagster instance, of which it is said if nothing moves for lack of a daemon.
    views
        The campaigns.
    out
        The console, whose width counts.
    """
    from cm_dagster.cli.checks_dagster import check_daemon

    if not views:
        yield "no campaigns; cm campaign create FILE makes one"
    for place, view in enumerate(views):
        if place:
            yield ""
        yield _headline(view)
        yield from _steps(view, out)
        yield from _failures(view)
        yield from _sites(view)
    if any(view.started and view.state != "done" for view in views):
        for found in check_daemon(instance):
            if found.level == "fail":
                yield _coloured(f"nothing moves: {found.message} ({found.advice})", "bold red")


def _headline(view: CampaignView) -> Text:
    from rich.text import Text

    accepted = sum(step.groups[GroupState.ACCEPTED] for step in view.steps)
    total = sum(step.total for step in view.steps)
    done = sum(step.state == "done" for step in view.steps)
    head = Text.assemble((view.campaign, "bold"), "  ", (str(view.state), STYLES.get(view.state, "")))
    groups = f", {accepted} of {total} planned groups accepted" if total else ""
    head.append(f"  {done} of {len(view.steps)} steps done{groups}", "dim")
    if view.state == "done":
        head.append(f"\noutput collection: {view.output}")
    return head


def _steps(view: CampaignView, out: Console) -> Iterator[RenderableType]:
    """Draw a row for each step; reasons that are too long for it come below, over the whole width."""
    from rich.text import Text

    drawn = table("step", "state", "groups", "accepted", "now", whole=("step", "state", "groups"), right=("accepted",))
    width = max(10, min(40, out.width - 66))
    room = out.width - width - max(len(step.step) for step in view.steps) - 26
    below = []
    for step in view.steps:
        style = "red" if step.state == "blocked" else "dim"
        notes = Text(_numbers(step))
        if step.reason and not notes and len(step.reason) <= room:
            notes.append(step.reason, style)
        elif step.reason:
            below.append(Text.assemble((f"{step.step}: ", "bold"), (_shortened(step.reason), style)))
        share = f"{step.groups[GroupState.ACCEPTED]}/{step.total}" if step.total else ""
        drawn.add_row(step.step, state_text(step.state), bar(step.groups, width, ascii_only=_ascii(out)), share, notes)
    yield drawn
    if below:
        yield ""
        yield from below


def _ascii(out: Console) -> bool:
    return not out.encoding.startswith("utf")


def _numbers(step: StepView) -> str:
    """Say how many groups are in which state, but for those that the bar's own numbers tell."""
    parts = [
        f"{count} {state}"
        for state, count in step.groups.items()
        if count and state not in (GroupState.ACCEPTED, GroupState.PLANNED)
    ]
    total = sum(step.jobs.values())
    if total:
        parts.append(f"jobs {step.jobs.get('succeeded', 0)}/{total}")
    return ", ".join(parts)


def _failures(view: CampaignView) -> Iterator[RenderableType]:
    """Write what failed, and why; groups that failed alike are put together."""
    from rich.text import Text

    shown = [(step.step, failure) for step in view.steps for failure in step.failures]
    if not shown:
        return
    yield ""
    alike: dict[tuple[str, ...], list[Failure]] = {}
    for step, failure in shown:
        alike.setdefault((step, failure.site, failure.state, _NUMBER.sub("#", failure.cause)), []).append(failure)
    for (step, site, state, _), failures in alike.items():
        head = f"{step} {_named([failure.group for failure in failures])} at {site}: "
        yield Text.assemble((head, STYLES[state]), _shortened(failures[0].cause or state))
    hidden = sum(step.groups[GroupState.FAILED] + step.groups[GroupState.HELD] for step in view.steps) - len(shown)
    if hidden > 0:
        yield f"and {hidden} more groups"
    step, failure = shown[0]
    yield _coloured(f"details: cm group show {view.campaign} {step} {failure.group}", "dim")


def _named(groups: list[str]) -> str:
    if len(groups) <= _NAMES:
        return ", ".join(groups)
    return f"{', '.join(groups[:_NAMES])} and {len(groups) - _NAMES} more"


def _shortened(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _CAUSE else f"{flat[: _CAUSE - 3]}..."


def _sites(view: CampaignView) -> Iterator[RenderableType]:
    for site in view.sites:
        if site.alarms:
            last = site.alarms[-1]
            twins = "1 twin" if len(site.alarms) == 1 else f"{len(site.alarms)} twins"
            text = f"ALARM: {twins} cancelled at site {site.site} in the last week; the latest was workflow {last.twin}"
            yield _coloured(f"{text} beside {last.own} ({last.workflow}), see run {last.run_id}", "bold red")
        wms, silence = site.health.wms, site.health.silence
        if site.health.downtime:
            yield _coloured(f"site {site.site} is {site.health.downtime}", "yellow")
        if silence:
            since = age(time.time() - silence.since)
            yield _coloured(f"site {site.site} is silent for {since}, what it has is unknown: {silence}", "magenta")
        elif not wms.answers:
            since = age(time.time() - wms.since)
            asked = f" (asked {wms.asked} times)" if wms.asked > 1 else ""
            text = f"the WMS of site {site.site} has not answered for {since}{asked}; what it holds is unknown"
            yield _coloured(f"{text}: {wms.cause}", "magenta")


def _coloured(text: str, style: str) -> Text:
    from rich.text import Text

    return Text(text, style)
