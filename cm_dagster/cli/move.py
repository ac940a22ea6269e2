"""``cm group move`` and ``cm step rebalance``: which site processes which groups, while a step runs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from cm_dagster.cli.output import console, json_option, table, write_json
from cm_dagster.cli.root import EXIT_FAILURE
from cm_dagster.cli.setting import ledger, reason_option, site_health, user
from cm_dagster.errors import LedgerError
from cm_dagster.policy.states import GroupState

if TYPE_CHECKING:
    from cm_dagster.control.move import MoveResult

__all__ = ["move", "rebalance"]

_ABANDON = "Also groups whose cancelled workflow the old WMS may still run: it does not answer."


@click.command(short_help="Have another site process groups.")
@click.argument("campaign")
@click.argument("step")
@click.argument("names", metavar="[GROUP|PATTERN]...", nargs=-1)
@click.option("--to", required=True, metavar="SITE", help="The site that is to process them.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([state.value for state in GroupState]),
    help="Only groups in this state; repeatable.",
)
@click.option("--from", "source", metavar="SITE", help="Only groups of this site.")
@reason_option
@click.option("--abandon", is_flag=True, help=_ABANDON)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@json_option
def move(
    campaign: str,
    step: str,
    names: tuple[str, ...],
    to: str,
    states: tuple[str, ...],
    source: str | None,
    reason: str,
    abandon: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Have another site process groups of a STEP that are not done.

    What waits in the queue of the old site is withdrawn; what runs there must be cancelled first, or end. The inputs
    are brought to the new site by themselves. The old site is not asked, so that it may be away. Without GROUP all
    groups in the given --state, or of the site given by --from. Exit code 1 if any was refused.
    """
    if not names and not states and not source:
        raise click.UsageError("which groups? name them, or give a pattern such as 'g00*', or --state, or --from")
    with ledger() as instance:
        from cm_dagster.control.move import MoveOrder
        from cm_dagster.control.move import move as move_groups
        from cm_dagster.control.steps import load_boards
        from cm_dagster.control.verbs import choose

        chosen = choose(instance, campaign, step, names, states, site_health(instance, campaign))
        plan = load_boards(instance, [campaign])[0].plans.get(step)
        chosen = [name for name in chosen if plan is None or not source or plan.group(name).site == source]
        if not chosen:
            raise LedgerError(f"no such group of {campaign}/{step}", advice=f"cm group list {campaign} --step {step}")
        order = MoveOrder(user(), reason, abandon=abandon, dry=dry_run)
        results = move_groups(instance, campaign, step, dict.fromkeys(chosen, to), order)
    _report(campaign, step, results, done=not dry_run, as_json=as_json)


@click.command(short_help="Move groups between sites so that their shares fit again.")
@click.argument("campaign")
@click.argument("step")
@click.option(
    "--share",
    "shares",
    multiple=True,
    metavar="SITE=NUMBER",
    help="Share of a site from now on, in place of the file's; repeatable. Of 0: it gives all away that it can.",
)
@reason_option
@click.option("--yes", is_flag=True, help="Do it; without it the moves are only shown.")
@json_option
def rebalance(campaign: str, step: str, shares: tuple[str, ...], reason: str, yes: bool, as_json: bool) -> None:
    """Move groups of a STEP that are not begun, or failed, so that what is left fits the shares of its sites.

    Without --yes nothing is done: the moves are shown. Groups that are accepted or under way stay where they are, and
    count. The whole weight of the step is shared out, so a site that was slow keeps what it has done.
    """
    given = dict(map(_share, shares))
    with ledger() as instance:
        from cm_dagster.control.move import MoveOrder, propose
        from cm_dagster.control.move import move as move_groups
        from cm_dagster.ledger import campaigns

        spec = campaigns.find(instance, campaign).spec
        if step not in spec.steps:
            raise LedgerError(
                f"campaign {campaign} has no step {step!r}", advice=f"its steps: {', '.join(spec.order())}"
            )
        known = {name: each.share or 0.0 for name, each in spec.sites_of(step).items()}
        wanted = {name: number for name, number in {**known, **given}.items() if number > 0}
        if not wanted:
            raise click.UsageError("no site is left: give one of them a share")
        where = propose(instance, campaign, step, wanted)
        order = MoveOrder(user(), reason, dry=not yes)
        results = move_groups(instance, campaign, step, where, order) if where else []
    _report(campaign, step, results, done=yes, as_json=as_json)
    if results and not yes and not as_json:
        click.echo("nothing was done; --yes does it")


def _share(text: str) -> tuple[str, float]:
    site, _, number = text.partition("=")
    try:
        share = float(number)
    except ValueError:
        share = -1.0
    if not site or share < 0:
        raise click.BadParameter(f"{text!r} is not SITE=NUMBER", param_hint="--share")
    return site, share


def _report(campaign: str, step: str, results: list[MoveResult], *, done: bool, as_json: bool) -> None:
    if as_json:
        write_json({"campaign": campaign, "step": step, "done": done, "groups": [each.to_json() for each in results]})
    else:
        _draw(results, done)
    if not all(result.done for result in results):
        raise SystemExit(EXIT_FAILURE)


def _draw(results: list[MoveResult], done: bool) -> None:
    from rich.text import Text

    if not results:
        click.echo("nothing is to be moved")
        return
    good, bad = ("moved", "refused") if done else ("would be moved", "would be refused")
    drawn = table("group", "from", "to", "weight", "", "what", right=("weight",), whole=("group", "from", "to", ""))
    for each in results:
        word = Text(good, "green") if each.done else Text(bad, "red")
        said = f"{each.said} ({each.advice})" if each.advice else each.said
        drawn.add_row(each.group, each.before, each.after, str(each.weight), word, said)
    console().print(drawn)
    sums: Counter[tuple[str, str]] = Counter()
    for each in results:
        sums[each.before, each.after] += each.done
    text = ", ".join(f"{number} from {before} to {after}" for (before, after), number in sums.items() if number)
    click.echo(f"{good}: {text or 'none'}; {sum(not each.done for each in results)} {bad}")
