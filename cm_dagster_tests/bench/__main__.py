"""``make bench``: run the benchmarks that are named (``ARGS="poll submit"``), or all but the long ones."""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, RenderableType

from cm_dagster_tests.bench import gap, life, poll, real, sites, soak, submission, tick, views
from cm_dagster_tests.bench.plots import Drawn

_ALL: dict[str, Callable[[Path], RenderableType | Drawn]] = {
    "poll": poll.bench,
    "submit": submission.bench,
    "sites": sites.bench,
    "tick": tick.bench,
    "views": views.bench,
    "life": life.bench,
    "flight": life.bench_flight,
    "life-large": life.bench_large,
    "release": life.bench_release,
    "flight-large": life.bench_flight_large,
    "gap": gap.bench,
    "real": real.bench,
    "soak": soak.bench,
}
_LONG = ("flight-large", "gap", "life-large", "real", "release", "soak")
_WIDE = 240
"""Width of the tables in a file."""


def main() -> None:
    """Run the benchmarks, each in a folder of its own."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one of {', '.join(_ALL)}; by default all but {', '.join(_LONG)}"
    )
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw what can be drawn, as FOLDER/NAME.png")
    given = parser.parse_args()
    names = given.names or [name for name in _ALL if name not in _LONG]
    if unknown := set(names) - set(_ALL):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(_ALL)}")
    out = Console() if sys.stdout.isatty() else Console(width=_WIDE)
    out.print(f"Python {platform.python_version()}, {platform.machine()}; CPU seconds, with those of children")
    for name in names:
        with tempfile.TemporaryDirectory(prefix=f"cm-bench-{name}-") as folder:
            found = _ALL[name](Path(folder))
            out.print(found.table if isinstance(found, Drawn) else found)
            if isinstance(found, Drawn) and given.plots:
                given.plots.mkdir(parents=True, exist_ok=True)
                found.draw(given.plots / f"{name}.png")


main()
