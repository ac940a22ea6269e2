"""``cm campaign``: make, start and look at campaigns."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cm_dagster.cli.output import console, json_option, local_time, state_text, table, write_json
from cm_dagster.cli.root import EXIT_INPUT
from cm_dagster.cli.setting import known_sites, ledger, reason_option, sites_option, user
from cm_dagster.errors import LedgerError, SpecError

if TYPE_CHECKING:
    import dagster as dg

    from cm_dagster.control.overview import CampaignView

__all__ = ["campaign"]

_FILE = click.Path(path_type=Path)


@click.group
def campaign() -> None:
    """Make, start and look at campaigns.

    \b
    The usual order:  cm campaign draft     write a file for a pipeline, to be edited
                      cm campaign validate  check the file
                      cm plan FILE          look at the groups
                      cm campaign create    make the campaign known; nothing runs yet
                      cm campaign start     let it go
    """  # noqa: D301  (click wants the character \b)


@campaign.command(short_help="Check a campaign file.")
@click.argument("file", type=_FILE)
@sites_option
@json_option
def validate(file: Path, sites_file: Path | None, as_json: bool) -> None:
    """Check a campaign FILE and report all that is wrong with it.

    Faults go to stderr, one line each: file:line, the place, what is wrong and what was expected; the exit code is 2.
    With the site file (--sites or CM_SITES) the campaign's sites are checked as well.
    """
    from cm_dagster.spec import load_campaign

    try:
        spec = load_campaign(file, known_sites(sites_file))
    except SpecError as error:
        if as_json:
            write_json({"file": str(file), "valid": False, "faults": [vars(fault) for fault in error.faults]})
            raise SystemExit(EXIT_INPUT) from error
        raise
    if as_json:
        write_json({"file": str(file), "valid": True, "faults": []})
        return
    click.echo(f"{file}: campaign {spec.campaign}, {len(spec.steps)} steps: good")
    if sites_file is None:
        click.echo("(its sites were not checked: give --sites FILE, or set CM_SITES)")


@campaign.command(short_help="Make a campaign known; nothing runs yet.")
@click.argument("file", type=_FILE)
@click.option("--reason", default="", help="Why; kept in the campaign's history.")
@sites_option
@json_option
def create(file: Path, reason: str, sites_file: Path | None, as_json: bool) -> None:
    """Make the campaign of a FILE known; it does nothing until it is started.

    Doing it again with the same file changes nothing. A campaign that exists with another specification is never
    changed: what was planned or run is bound to it.
    """
    from cm_dagster.spec import load_campaign

    spec = load_campaign(file, known_sites(sites_file))
    with ledger() as instance:
        from cm_dagster.ledger import campaigns

        made = campaigns.create(instance, spec, user=user(), reason=reason)
        started = campaigns.find(instance, spec.campaign).started
    name = spec.campaign
    if as_json:
        write_json({"campaign": name, "created": made})
        return
    click.echo(f"campaign {name} {'is created' if made else 'was there already, the same'}")
    click.echo(f"next: cm status {name}" if started else f"next: cm plan {name}, then cm campaign start {name}")


@campaign.command(short_help="Let a campaign go.")
@click.argument("name")
@click.option("--reason", default="", help="Why; kept in the campaign's history.")
@json_option
def start(name: str, reason: str, as_json: bool) -> None:
    """Let a campaign go: its first steps are planned and submitted from the next tick on."""
    with ledger() as instance:
        from cm_dagster.ledger import campaigns

        _check_ours(instance)
        changed = campaigns.start(instance, name, user=user(), reason=reason)
        daemon = _daemon_warning(instance)
    if as_json:
        write_json({"campaign": name, "started": True, "changed": changed})
    else:
        click.echo(f"campaign {name} {'is started' if changed else 'was started before'}")
        click.echo(f"next: cm status {name} --watch")
    if daemon:
        click.echo(f"warning: {daemon}", err=True)


def _check_ours(instance: dg.DagsterInstance) -> None:
    """Refuse an instance on which attempts would be run as ordinary Dagster runs."""
    from cm_dagster.cli.checks import apart
    from cm_dagster.cli.checks_dagster import check_coordinator, check_launcher

    for check in (check_coordinator, check_launcher):
        for found in apart(check.__name__, partial(check, instance)):
            if found.level != "fail":
                continue
            raise LedgerError(f"{found.check}: {found.message}; nothing was started", advice=found.advice)


def _daemon_warning(instance: dg.DagsterInstance) -> str:
    from cm_dagster.cli.checks_dagster import check_daemon

    return next((found.message for found in check_daemon(instance) if found.level == "fail"), "")


@campaign.command("list", short_help="List all campaigns, with how far they are.")
@json_option
def list_campaigns(as_json: bool) -> None:
    """List all campaigns, with how far they are."""
    with ledger() as instance:
        from cm_dagster.control.overview import overview
        from cm_dagster.ledger import campaigns

        known = campaigns.load_all(instance)
        views = overview(instance)
    if as_json:
        write_json([_line(view, known[view.campaign]) for view in views])
        return
    if not views:
        click.echo("no campaigns; cm campaign create FILE makes one")
        return
    drawn = table("campaign", "state", "steps done", "groups accepted", "last decision", whole=("campaign", "state"))
    for view in views:
        line = _line(view, known[view.campaign])
        decision = f"{local_time(known[view.campaign].changed)} {line['user']}: {line['action']}"
        drawn.add_row(
            view.campaign,
            state_text(view.state),
            f"{line['steps_done']} of {len(view.steps)}",
            f"{line['groups_accepted']} of {line['groups_total']}",
            decision,
        )
    console().print(drawn)


def _line(view: CampaignView, known: Any) -> dict[str, Any]:
    from cm_dagster.control.history import iso

    return {
        "campaign": view.campaign,
        "state": str(view.state),
        "description": known.spec.description,
        "ticket": known.spec.ticket,
        "steps_done": sum(step.state == "done" for step in view.steps),
        "steps_total": len(view.steps),
        "groups_accepted": sum(
            count for step in view.steps for state, count in step.groups.items() if state == "accepted"
        ),
        "groups_total": sum(step.total for step in view.steps),
        "action": known.action,
        "user": known.user,
        "changed": iso(known.changed),
    }


@campaign.command(short_help="Show a campaign's specification, or its history.")
@click.argument("name")
@click.option("--history", is_flag=True, help="Show who decided what, when and why, instead of the specification.")
@json_option
def show(name: str, history: bool, as_json: bool) -> None:
    """Show a campaign: its specification as YAML (what is left to defaults is left out), or its history."""
    with ledger() as instance:
        from cm_dagster.control.history import decisions
        from cm_dagster.control.overview import overview
        from cm_dagster.ledger import campaigns

        known = campaigns.find(instance, name)
        (view,) = overview(instance, [name])
        made = decisions(instance, name) if history or as_json else []
    if as_json:
        document = {
            "campaign": name,
            "state": str(view.state),
            "started": known.started,
            "signed_off": sorted(known.signed),
            "specification": known.spec.model_dump(mode="json"),
            "history": [decision.to_json() for decision in made],
        }
        write_json(document)
    elif history:
        drawn = table("when", "who", "what", "why", whole=("when", "who", "what"))
        for decision in made:
            drawn.add_row(local_time(decision.time), decision.user, decision.action, decision.reason)
        console().print(drawn)
    else:
        signed = f", signed off: {', '.join(sorted(known.signed))}" if known.signed else ""
        last = f"last decision: {known.action} by {known.user} at {local_time(known.changed)}"
        click.echo(f"# state: {view.state}{signed}\n# {last}{' (' + known.reason + ')' if known.reason else ''}")
        click.echo(_yaml(known.spec.model_dump(mode="json", exclude_defaults=True)), nl=False)


def _yaml(document: Any) -> str:
    import yaml

    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
    return text


@campaign.command(short_help="Write a campaign file for a pipeline.")
@click.option("--pipeline", required=True, metavar="FILE", help="Path or URI of the pipeline.")
@click.option("--repo", help="Butler repository, label or URI; by default the site's own.")
@click.option("--input", "inputs", multiple=True, metavar="COLLECTION", help="Input collection; may be repeated.")
@click.option("--output", metavar="COLLECTION", help="Output collection; by default u/USER/NAME.")
@click.option("--name", help="Name of the campaign; by default made from the pipeline's file name.")
@click.option("--site", default="local", show_default=True, help="Site that processes it.")
@click.option(
    "--subset", "subsets", multiple=True, help="Subset to make a step of, where the pipeline declares no steps."
)
@click.option("-o", "out", type=_FILE, help="File to write, which must not exist; by default the terminal.")
def draft(
    pipeline: str,
    repo: str | None,
    inputs: tuple[str, ...],
    output: str | None,
    name: str | None,
    site: str,
    subsets: tuple[str, ...],
    out: Path | None,
) -> None:
    """Write a campaign file for a pipeline, to be edited.

    Steps, what they need of each other, and how they can be cut into groups are read from the pipeline, whose packages
    must be importable here.
    """
    if out is not None and out.exists():
        raise click.UsageError(f"{out} exists and is not overwritten")
    from cm_dagster.services.pipeline import read_steps
    from cm_dagster.spec import draft_campaign

    name = name or re.sub(
        r"\W+", "_", f"c_{Path(pipeline).stem}" if Path(pipeline).stem[:1].isdigit() else Path(pipeline).stem
    )
    text = draft_campaign(
        name,
        pipeline,
        read_steps(pipeline, repo=repo, subsets=subsets),
        repo=repo,
        inputs=inputs or ["INPUT/COLLECTION"],
        output=output or f"u/{user()}/{name}",
        site=site,
    )
    if out is None:
        click.echo(text, nl=False)
        return
    try:
        with out.open("x", encoding="utf-8") as file:  # refuses also what has come up meanwhile
            file.write(text)
    except OSError as error:
        raise click.UsageError(f"{out} cannot be written: {error.strerror}") from error
    click.echo(f"{out} is written; edit it, then: cm campaign validate {out}", err=True)


@campaign.command(short_help="Have nothing more of a campaign submitted.")
@click.argument("name")
@reason_option
@json_option
def pause(name: str, reason: str, as_json: bool) -> None:
    """Have nothing more of a campaign submitted, whoever asks for it; what is at the sites goes on, and is judged."""
    with ledger() as instance:
        from cm_dagster.ledger import campaigns

        changed = campaigns.pause(instance, name, user=user(), reason=reason)
    if as_json:
        write_json({"campaign": name, "paused": True, "changed": changed})
    else:
        click.echo(f"campaign {name} {'is paused' if changed else 'was paused before'}")


@campaign.command(short_help="Let a paused campaign go on.")
@click.argument("name")
@reason_option
@json_option
def resume(name: str, reason: str, as_json: bool) -> None:
    """Let a paused campaign go on; steps that are paused themselves stay so."""
    with ledger() as instance:
        from cm_dagster.ledger import campaigns

        changed = campaigns.resume(instance, name, user=user(), reason=reason)
    if as_json:
        write_json({"campaign": name, "paused": False, "changed": changed})
    else:
        click.echo(f"campaign {name} {'goes on' if changed else 'was not paused'}")


@campaign.command("sign-off", short_help="Open the gate of a step.")
@click.argument("name")
@click.argument("step")
@click.option("--reason", required=True, help="What was looked at; kept in the campaign's history.")
@json_option
def sign_off(name: str, step: str, reason: str, as_json: bool) -> None:
    """Open the gate of a STEP (`gate: sign-off` in the campaign file), so that it begins when all it needs is there."""
    if not reason.strip():
        raise click.UsageError("--reason is empty")
    with ledger() as instance:
        from cm_dagster.ledger import campaigns

        changed = campaigns.sign_off(instance, name, step, user=user(), reason=reason)
    if as_json:
        write_json({"campaign": name, "step": step, "signed_off": True, "changed": changed})
    else:
        click.echo(f"step {step} of {name} {'is signed off' if changed else 'was signed off before'}")
