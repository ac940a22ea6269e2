"""How the command line writes: tables for people, JSON for scripts."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from cm_dagster.policy.states import GroupState

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

__all__ = ["STYLES", "age", "bar", "console", "json_option", "local_time", "state_text", "table", "write_json"]

_WIDTH_OF_FILES = 160
"""Columns where the output is not a terminal, whose width would be known."""

STYLES: Mapping[str, str] = {
    "accepted": "green",
    "done": "green",
    "ok": "green",
    "running": "cyan",
    "finishing": "cyan",
    "planning": "cyan",
    "submitted": "blue",
    "queued": "blue",
    "created": "blue",
    "planned": "dim",
    "waiting": "dim",
    "gated": "yellow",
    "held": "yellow",
    "paused": "yellow",
    "stopped": "yellow",
    "up": "green",
    "silent": "magenta",
    "no WMS": "magenta",
    "warn": "yellow",
    "unknown": "magenta",
    "failed": "bold red",
    "blocked": "bold red",
    "fail": "bold red",
}
"""Colour of each state of groups, attempts, steps, campaigns, sites and checks."""

_BAR = (
    # What is done grows from the left, what needs a person comes next, what is not begun is at the right.
    (GroupState.ACCEPTED, "█", "#"),
    (GroupState.FAILED, "✗", "x"),
    (GroupState.HELD, "‖", "!"),
    (GroupState.UNKNOWN, "?", "?"),
    (GroupState.RUNNING, "▒", "="),
    (GroupState.SUBMITTED, "░", "-"),
    (GroupState.QUEUED, "░", "-"),
    (GroupState.PLANNED, "·", "."),
)
"""States in the order of the bar, with their sign in Unicode and in ASCII: it must be readable without colours."""


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Write JSON, for scripts; its keys stay.")(command)


def write_json(document: Any) -> None:
    """Write a document as JSON to stdout."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def console() -> Console:
    """Make a console of the terminal; written to a file, it is wide enough for scripts to read lines whole."""
    from rich.console import Console

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # for the root command, which ends well; rich would exit with 1

    made = Piped(highlight=False, emoji=False, markup=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = _WIDTH_OF_FILES
    return made


def table(*columns: str, title: str | None = None, right: tuple[str, ...] = (), whole: tuple[str, ...] = ()) -> Table:
    """Make an empty table.

    Parameters
    ----------
    columns
        Headings.
    title
        Line above the table.
    right
        Columns of numbers.
    whole
        Columns that are never wrapped.
    """
    from rich.table import Table

    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for column in columns:
        made.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=column in whole or column in right,
            overflow="fold",
        )
    return made


def state_text(state: str) -> Text:
    """Write a state in its colour."""
    from rich.text import Text

    return Text(state, style=STYLES.get(state, ""))


def bar(groups: Mapping[GroupState, int], width: int, *, ascii_only: bool = False) -> Text:
    """Draw the groups of a step as a bar.

    Parameters
    ----------
    groups
        Number of groups in each state.
    width
        Columns.
    ascii_only
        Whether the terminal takes ASCII alone.
    """
    from rich.text import Text

    drawn = Text()
    for (state, sign, plain), cells in zip(
        _BAR, _cells([groups.get(entry[0], 0) for entry in _BAR], width), strict=True
    ):
        drawn.append((plain if ascii_only else sign) * cells, STYLES[state])
    return drawn


def _cells(counts: list[int], width: int) -> list[int]:
    """Share out the columns of a bar: all of them, and at least one to each state that has any group."""
    total = sum(counts)
    if not total:
        return [0] * len(counts)
    spare = width - sum(1 for count in counts if count)
    cells = [1 + count * spare // total if count else 0 for count in counts]
    cells[counts.index(max(counts))] += width - sum(cells)
    return cells


def local_time(seconds: float | None) -> str:
    """Write a time for people, in the time zone of the terminal; empty if there is none."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else ""


def age(seconds: float) -> str:
    """Write a duration shortly, e.g. ``3 h 20 min``.

    Parameters
    ----------
    seconds
        The duration.
    """
    minutes = int(seconds // 60)
    if minutes < 1:
        return f"{int(seconds)} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"
