"""``cm quanta``: what became of the quanta of a campaign's accepted groups, step by step and task by task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from cm_dagster.cli.output import console, json_option, table, write_json
from cm_dagster.cli.setting import ledger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table
    from rich.text import Text

    from cm_dagster.control.quanta import StepQuanta

__all__ = ["quanta"]

_COUNTS = ("expected", "succeeded", "failed", "blocked", "no record", "registered")


@click.command
@click.argument("campaign")
@click.argument("step", required=False)
@json_option
def quanta(campaign: str, step: str | None, as_json: bool) -> None:
    """Show the quanta of CAMPAIGN (or of one STEP): of its accepted groups, by task, added up.

    \b
    expected    quanta of the groups, those included that earlier attempts did and a rescue has skipped
    registered  those whose outputs the registry has: what accepting rests on
    no record   left nothing: never started, or killed
    """  # noqa: D301  (click wants the character \b)
    with ledger() as instance:
        from cm_dagster.control.quanta import campaign_quanta

        found = campaign_quanta(instance, campaign, step)
    if as_json:
        steps = [each.to_json() for each in found]
        total = {name.replace(" ", "_"): count for name, count in _total(found).items()}
        write_json({"campaign": campaign, "steps": steps, "total": total})
        return
    out = console()
    out.print(_drawn(found))
    for line in _notes(found):
        out.print(line)


def _total(found: Sequence[StepQuanta]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in found:
        total.update(each.total)
    return {name: total[name] for name in _COUNTS}


def _drawn(found: Sequence[StepQuanta]) -> Table:
    drawn = table("step", "groups", "task", *_COUNTS, whole=("step", "task"), right=("groups", *_COUNTS))
    for each in found:
        head = [each.step, f"{each.accepted}/{each.groups}" if each.groups else "not planned"]
        for row in each.tasks.values():
            drawn.add_row(*head, row.task, *_numbers(row.whole()))
            head = ["", ""]
        if len(each.tasks) != 1:
            drawn.add_row(
                *head, "all" if each.tasks else "", *(_numbers(each.total) if each.tasks else ()), style="dim"
            )
    if len(found) > 1:
        drawn.add_row("total", "", "", *_numbers(_total(found)), style="bold")
    return drawn


def _numbers(counts: Mapping[str, Any]) -> list[str]:
    return [f"{counts[name]:,}" for name in _COUNTS]


def _notes(found: Sequence[StepQuanta]) -> Iterator[Text]:
    from rich.text import Text

    for each in found:
        if each.below:
            yield Text(f"{each.step}: {each.below} of the accepted groups lack some of their quanta", "yellow")
        if each.uncounted:
            yield Text(
                f"{each.step}: {each.uncounted} of the accepted groups are not counted: a person accepted them, and"
                " they were never judged",
                "yellow",
            )
