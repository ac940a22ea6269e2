"""``cm group retry``, ``cm group accept`` and the other verbs: what a pilot does about groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cm_dagster.cli.group import group
from cm_dagster.cli.move import move
from cm_dagster.cli.output import console, json_option, table, write_json
from cm_dagster.cli.root import EXIT_FAILURE
from cm_dagster.cli.setting import ledger, site_health, user
from cm_dagster.errors import LedgerError
from cm_dagster.policy.states import GroupState
from cm_dagster.policy.verbs import Verb
from cm_dagster.spec.rules import MAX_PARTS

if TYPE_CHECKING:
    from cm_dagster.control.verbs import Result

__all__ = ["group"]

_HELP = {
    Verb.RETRY: "Have groups that failed, or were cancelled, processed again from scratch.",
    Verb.RESTART: "Have the failed jobs of the workflows of groups run again (`bps restart`); the attempts go on.",
    Verb.RESCUE: "Have groups that failed processed again, but for the quanta that the registry has.",
    Verb.ACCEPT: "Accept groups that failed, or were cancelled, with what is in the registry.",
    Verb.REJECT: "Take back the acceptance of groups; they leave the step's output.",
    Verb.CANCEL: "Cancel the workflows of groups, or withdraw what was asked for.",
    Verb.HOLD: "Keep groups from getting further attempts by themselves.",
    Verb.RELEASE: "End the hold of groups; those whose attempt was cancelled get another.",
    Verb.SPLIT: "Replace groups by parts of them.",
}
_LATER = {Verb.RETRY, Verb.RESCUE, Verb.RELEASE}
"""Verbs whose attempt is requested at the next tick of the sensor `dispatch`."""


def _add(verb: Verb) -> None:
    """Make the command of a verb."""

    def run(
        campaign: str,
        step: str,
        names: tuple[str, ...],
        states: tuple[str, ...],
        reason: str,
        who: str | None,
        dry_run: bool,
        as_json: bool,
        parts: int = 2,
    ) -> None:
        if not reason.strip():
            raise click.UsageError("--reason is empty")
        if not names and not states:
            raise click.UsageError("which groups? name them, or give a pattern such as 'g00*', or --state")
        results = _act(verb, campaign, step, names, states, reason, who or user(), dry_run, parts)
        if as_json:
            found = [result.to_json() for result in results]
            write_json({"campaign": campaign, "step": step, "verb": verb, "dry_run": dry_run, "groups": found})
        else:
            _show(verb, results, dry_run)
        if not all(result.done for result in results):
            raise SystemExit(EXIT_FAILURE)

    command = click.Command(str(verb), callback=run, params=_options(verb), help=_help(verb), short_help=_HELP[verb])
    json_option(command)
    group.add_command(command)


def _options(verb: Verb) -> list[click.Parameter]:
    """Give a command its arguments and options."""
    state = click.Choice([state.value for state in GroupState])
    options: list[click.Parameter] = [
        click.Argument(["campaign"]),
        click.Argument(["step"]),
        click.Argument(["names"], metavar="[GROUP|PATTERN]...", nargs=-1),
        click.Option(["--state", "states"], multiple=True, type=state, help="Only groups in this state; repeatable."),
        click.Option(["--reason"], required=True, help="Why; kept with the user and the time on the group's page."),
        click.Option(["--user", "who"], help="Who decides; by default CM_USER, else the account."),
        click.Option(["--dry-run"], is_flag=True, help="Say what would be done, and do nothing."),
    ]
    if verb is Verb.SPLIT:
        number = click.IntRange(2, MAX_PARTS)
        options.append(click.Option(["--parts"], type=number, default=2, show_default=True, help="Number of parts."))
    return options


def _help(verb: Verb) -> str:
    return (
        f"{_HELP[verb]}\n\nWithout GROUP all groups of the STEP in the given --state. Each group is done as a whole or"
        " refused with the reason; the exit code is 1 if any was refused."
    )


def _act(
    verb: Verb,
    campaign: str,
    step: str,
    names: tuple[str, ...],
    states: tuple[str, ...],
    reason: str,
    who: str,
    dry_run: bool,
    parts: int,
) -> list[Result]:
    from cm_dagster.control.site import current_site
    from cm_dagster.control.verbs import Order, act, choose

    with ledger() as instance:
        chosen = choose(instance, campaign, step, names, states, site_health(instance, campaign))
        if not chosen:
            which = " or ".join(states)
            raise LedgerError(f"no group of {campaign}/{step} that was named is {which}", advice="cm group list")
        order = Order(verb, who, reason.strip(), parts=parts, dry=dry_run)
        return act(instance, current_site(), campaign, step, chosen, order)


def _show(verb: Verb, results: list[Result], dry_run: bool) -> None:
    from rich.text import Text

    good, bad = ("would be done", "would be refused") if dry_run else ("done", "refused")
    drawn = table("group", str(verb), "what", whole=("group", str(verb)))
    for result in results:
        word = Text(good, "green") if result.done else Text(bad, "red")
        said = f"{result.said} ({result.advice})" if result.advice else result.said
        drawn.add_row(result.group, word, said)
    console().print(drawn)
    done = sum(result.done for result in results)
    click.echo(f"{done} {good}, {len(results) - done} {bad}")
    if done and verb in _LATER and not dry_run:
        click.echo("the sensor `dispatch` requests them at its next tick; cm group list says where they are")


for _verb in Verb:
    _add(_verb)
group.add_command(move)
