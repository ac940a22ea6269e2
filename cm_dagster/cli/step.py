"""``cm step``: have a step stop and go on, and its sites share it anew."""

from __future__ import annotations

import click

from cm_dagster.cli.move import rebalance
from cm_dagster.cli.output import json_option, write_json
from cm_dagster.cli.setting import ledger, reason_option, user

__all__ = ["step"]


@click.group
def step() -> None:
    """Have a step stop and go on, or its groups go elsewhere, while the rest of its campaign runs."""


@step.command(short_help="Have nothing more of a step submitted.")
@click.argument("campaign")
@click.argument("name", metavar="STEP")
@reason_option
@json_option
def pause(campaign: str, name: str, reason: str, as_json: bool) -> None:
    """Have nothing more of a STEP submitted, whoever asks for it; what is at the sites goes on, and is judged."""
    with ledger() as instance:
        from cm_dagster.ledger import campaigns

        changed = campaigns.pause(instance, campaign, name, user=user(), reason=reason)
    if as_json:
        write_json({"campaign": campaign, "step": name, "paused": True, "changed": changed})
    else:
        click.echo(f"step {name} of {campaign} {'is paused' if changed else 'was paused before'}")


@step.command(short_help="Let a step go on that is paused, or that has stopped by itself.")
@click.argument("campaign")
@click.argument("name", metavar="STEP")
@reason_option
@json_option
def resume(campaign: str, name: str, reason: str, as_json: bool) -> None:
    """Let a STEP go on that is paused, or that has stopped since too much of it failed.

    What failed until now does not count any more for its brake. It does not go if the whole campaign is paused.
    """
    with ledger() as instance:
        from cm_dagster.ledger import campaigns

        campaigns.resume(instance, campaign, name, user=user(), reason=reason)
        still = campaigns.find(instance, campaign).pause(name) is not None
    if as_json:
        write_json({"campaign": campaign, "step": name, "paused": still})
    else:
        click.echo(f"step {name} of {campaign} goes on" if not still else f"campaign {campaign} itself is still paused")


step.add_command(rebalance)
