"""Plots of what was measured, beside what the incumbent takes and what we are to reach.

The incumbent is lsst-dm/cm-service 0.8.0, measured on a machine of this class: CPU seconds, its daemon and PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

__all__ = ["Drawn", "draw_lives", "draw_polls"]

_GOAL, _INCUMBENT = 0.04, 0.25
"""CPU seconds for each group, from its request to its acceptance."""
_POLL_GOAL = {100: 0.1, 1000: 1.0, 5000: 5.0}
_POLL_INCUMBENT = {100: 2.85, 1000: 25.8, 5000: 130.0}
"""CPU seconds of one poll by the number of workflows in flight; that of 5,000 is an estimate."""


class Drawn(NamedTuple):
    """What a benchmark gives that can be drawn."""

    table: Table
    draw: Callable[[Path], None]
    """Writes a PNG file."""


def draw_lives(shapes: Sequence[str], cpu: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw what a group costs in campaigns of several shapes, by kind of process.

    Parameters
    ----------
    shapes
        Names of the campaigns.
    cpu
        CPU seconds for each group of theirs, by kind of process.
    path
        The file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.5 + 0.5 * len(shapes)), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(shapes)
    for kind in dict.fromkeys(kind for each in cpu for kind in each):
        width = [each.get(kind, 0.0) for each in cpu]
        axes.barh(list(shapes), width, left=left, label=kind)
        left = [before + more for before, more in zip(left, width, strict=True)]
    axes.axvline(_GOAL, color="green", linestyle="--", label=f"goal {_GOAL} s")
    axes.axvline(_INCUMBENT, color="black", linestyle=":", label=f"cm-service {_INCUMBENT} s")
    axes.invert_yaxis()
    axes.set_xlabel("CPU seconds for each group, from request to acceptance; bps apart")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def draw_polls(polls: Mapping[int, float], path: Path) -> None:
    """Draw what one poll of the WMS costs.

    Parameters
    ----------
    polls
        CPU seconds by the number of workflows in flight.
    path
        The file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.loglog(list(_POLL_INCUMBENT), list(_POLL_INCUMBENT.values()), "k:o", label="cm-service (5,000: estimate)")
    axes.loglog(list(_POLL_GOAL), list(_POLL_GOAL.values()), "g--", label="goal")
    axes.loglog(list(polls), list(polls.values()), "o-", label="cm_dagster, nothing changed")
    axes.set_xlabel("workflows in flight")
    axes.set_ylabel("CPU seconds of one poll")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
