"""``cm demo`` and ``cm ui``."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cm_dagster.cli.output import console, table
from cm_dagster.errors import CmError

if TYPE_CHECKING:
    import dagster as dg

    from cm_dagster.control.overview import CampaignView
    from cm_dagster.local.demo import Demo

__all__ = ["demo", "ui"]

_SERVERS = {
    "web": "webserver",
    "daemon": "daemon",
}

_folder_option = click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=lambda: os.environ.get("CM_DEMO_DIR", ".demo"),
    show_default=".demo, or $CM_DEMO_DIR",
    help="Folder of the demo.",
)


@click.command
@_folder_option
@click.option("--fault", is_flag=True, help="Let one quantum fail once and another one always.")
@click.option("--timeout", type=float, default=900.0, show_default=True, help="Give up after this many seconds.")
def demo(folder: Path, fault: bool, timeout: float) -> None:
    """Run a campaign on real survey records on this machine, from file to output collection.

    Eleven visits of real HSC records go through four steps, as Dagster runs of real BPS workflows on the embedded local
    WMS; nothing is asked of you. What a former demo left in the folder is removed first. `cm ui` shows the result in
    the web UI. With --fault the campaign ends blocked, as it should: `cm status` says why.
    """
    from cm_dagster.local.demo import Demo

    made = Demo(folder.absolute(), fault=fault)
    with _stoppable():
        click.echo(f"demo in {made.deployment.folder}: making the survey")
        with made.timed("survey and files"):
            made.prepare()
        with made.timed("campaign created"):
            _start_campaign(made)
        try:
            view = _follow(made, timeout)
        finally:
            made.stop()
    _report(made, view)
    expected = "blocked" if fault else "done"
    if view.state != expected:
        raise CmError(f"the demo's campaign is {view.state}, not {expected}", advice=f"see the logs in {folder}/logs")


@click.command
@_folder_option
@click.option("--port", type=int, default=0, help="Port of the web UI; by default any free one.")
def ui(folder: Path, port: int) -> None:
    """Start the web UI and the daemon on what `cm demo` left, until Ctrl-C."""
    from cm_dagster.local.deployment import Deployment
    from cm_dagster.local.servers import Servers, free_port

    deployment = Deployment(folder.absolute())
    if not deployment.sites.exists():
        raise CmError(f"there is no demo in {folder}", advice="run `cm demo` (or `make demo`) first")
    with _stoppable(), Servers(deployment, port=port or free_port()) as servers:
        click.echo(f"{servers.url}  (Ctrl-C ends it)")
        while True:
            time.sleep(1.0)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM end us as Ctrl-C does, so that the servers are stopped."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start_campaign(made: Demo) -> None:
    """Make the campaign known, and let it go."""
    import dagster as dg

    from cm_dagster.ledger import campaigns
    from cm_dagster.spec import load_campaign, load_sites

    spec = load_campaign(made.campaign_file, load_sites(made.deployment.sites))
    with dg.DagsterInstance.get() as instance:
        campaigns.create(instance, spec, user="demo", reason="demo")
        campaigns.start(instance, spec.campaign, user="demo", reason="demo")


def _follow(made: Demo, timeout: float) -> CampaignView:
    """Run the servers until the campaign is at its end; print a line whenever something has changed."""
    import dagster as dg

    from cm_dagster.local.demo import Timing
    from cm_dagster.local.servers import Servers

    with made.timed("servers started"):
        servers = Servers(made.deployment).__enter__()
    with servers, dg.DagsterInstance.get() as instance:
        click.echo(f"web UI: {servers.url}")
        with made.timed("campaign"):
            view = _until_end(instance, timeout)
        made.timings += [Timing(f"  {_server(name)}", 0.0, cpu) for name, cpu in servers.cpu().items()]
        return view


def _server(name: str) -> str:
    return _SERVERS.get(name) or f"{name}: code server, sensors and runs (bps submit among them)"


def _until_end(instance: dg.DagsterInstance, timeout: float) -> CampaignView:
    from cm_dagster.control.overview import overview
    from cm_dagster.local.demo import CAMPAIGN

    begun = time.monotonic()
    shown = ""
    while True:
        view = overview(instance, [CAMPAIGN])[0]
        line = "  ".join(_words(view))
        if line != shown:
            click.echo(f"{time.monotonic() - begun:5.0f} s  {line}")
            shown = line
        late = time.monotonic() - begun > timeout
        if late or view.state in ("done", "blocked"):
            return view
        time.sleep(1.0)


def _words(view: CampaignView) -> Iterator[str]:
    for step in view.steps:
        counts = {str(state): count for state, count in step.groups.items() if count}
        inside = ", ".join(f"{count} {state}" for state, count in counts.items())
        yield f"{step.step}: {step.state}{f' ({inside})' if inside else ''}"


def _report(made: Demo, view: CampaignView) -> None:
    import dagster as dg

    from cm_dagster.cli.status import page

    out = console()
    out.print()
    with dg.DagsterInstance.get() as instance:
        for part in page(instance, [view], out):
            out.print(part)
    costs = table("part", "wall", "CPU", right=("wall", "CPU"))
    for timing in made.timings:
        costs.add_row(timing.part, f"{timing.wall:.1f} s" if timing.wall else "", f"{timing.cpu:.1f} s")
    out.print()
    out.print(costs)
    out.print(
        f"\nlook at the outputs:  butler query-datasets {made.repo} --collections {view.output} objectTable_tract"
    )
    out.print(f"look at the web UI:   cm ui --dir {made.deployment.folder}")
