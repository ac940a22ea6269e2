"""Whole campaigns of N groups x K steps, from start to end, with a WMS that answers at once: CPU seconds by process.

All is real but three things: the WMS, which ends each workflow as soon as it sees it; BPS, of which the batch submitter
imports a stand-in; and the reading of quantum graphs, which these workflows do not have.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import dagster as dg
from rich.table import Table

from cm_dagster.ledger import tags
from cm_dagster_tests.bench.land import AT_ONCE, SITE, TICK, open_land
from cm_dagster_tests.bench.plots import Drawn, draw_lives
from cm_dagster_tests.bench.processes import Peaks, Used, used
from cm_dagster_tests.bench.stand_in_bps import CpuFiles

__all__ = ["bench", "bench_flight", "bench_flight_large", "bench_large", "bench_release"]

_QUICK = [(100, 1, True), (100, 2, True), (100, 3, True), (32, 4, True), (100, 1, False)]
_LARGE = [(1000, 1, True), (1000, 2, True), (5000, 1, True), (10000, 1, True)]
"""Groups of each step, steps, and whether on PostgreSQL (else SQLite)."""
_FLIGHTS = ((100, 100), (1000, 1000), (10_000, 500))
_FLIGHTS_LARGE = ((5000, 5000), (10_000, 10_000))
"""Groups of the step, and how many of them may be in flight."""
_SITES = (SITE, "east", "north", "west")
_REST = 60.0
"""Seconds for which a deployment is watched that has nothing to do."""
_PATIENCE = 600.0
_PATIENCE_EACH = 5.0
"""Seconds that a campaign may take, and those for each of its groups."""


@dataclass(frozen=True)
class Life:
    """What a campaign took."""

    shape: str
    lives: int
    """Number of attempts, each from request to acceptance."""
    wall: float
    cpu: Mapping[str, float]
    """CPU seconds by kind of process."""
    bps: float
    """CPU seconds of the submitting processes."""
    peaks: Mapping[str, float]
    """Memory in MB by kind of process."""
    size: float
    """By how much Dagster's storage has grown, in MB."""
    transactions: int
    ops: Counter[str]
    """Number of runs that are no attempts, by kind."""
    gaps: Sequence[float]
    """Seconds from the end of a step's last group to the first request of the next step."""
    rest: float
    """CPU seconds of a second of the same deployment in which there is nothing to do."""

    @property
    def each(self) -> float:
        """CPU seconds for each group, without BPS."""
        return sum(self.cpu.values()) / self.lives

    @property
    def own(self) -> float:
        """The same without what would have been used in this time anyway."""
        return self.each - self.rest * self.wall / self.lives


def bench(folder: Path) -> Drawn:
    """Measure the small shapes."""
    return _bench(folder, _QUICK)


def bench_large(folder: Path) -> Drawn:
    """Measure the large shapes; it takes an hour."""
    return _bench(folder, _LARGE)


def _bench(folder: Path, shapes: Sequence[tuple[int, int, bool]]) -> Drawn:
    return _drawn([measure(folder / f"{n}-{k}-{pg}", n, k, postgres=pg) for n, k, pg in shapes])


def _drawn(lives: Sequence[Life]) -> Drawn:
    costs = [{kind: seconds / life.lives for kind, seconds in life.cpu.items()} for life in lives]
    return Drawn(table(lives), lambda path: draw_lives([life.shape for life in lives], costs, path))


def bench_release(folder: Path) -> Drawn:
    """Measure a campaign as long as a data release, whose workflows end one by one; it takes an hour and a half."""
    life = measure(folder / "release", 2000, 5, in_flight=125, sites=_SITES, rate=2.0)
    return _drawn([life])


def bench_flight(folder: Path) -> Table:
    """Measure a deployment whose workflows never end."""
    return _flights(folder, _FLIGHTS)


def bench_flight_large(folder: Path) -> Table:
    """Measure one in which thousands never end; it takes half an hour until they are submitted."""
    return _flights(folder, _FLIGHTS_LARGE)


def _flights(folder: Path, shapes: Sequence[tuple[int, int]]) -> Table:
    made = Table(title=f"Workflows that never end, a tick each {TICK:.0f} s; CPU ms a tick of all sensors, peak MB")
    for column in ("groups", "in flight", "ticks", "daemon", "code server", "PostgreSQL", "all", "peak MB"):
        made.add_column(column, justify="right")
    for groups, flying in shapes:
        with open_land(folder / f"{groups}-{flying}", groups, in_flight=flying) as land:
            land.create(groups, 1)
            land.start()
            land.wait_for_flight(flying, _PATIENCE + _PATIENCE_EACH * flying)
            with Peaks(land.roots) as peaks:
                began = land.ticks()
                rates = _rates(land.roots)
                ticks = land.ticks() - began
        cost = {kind: each * _REST / ticks * 1e3 for kind, each in rates.items()}
        kinds = (f"{cost[kind]:.0f}" for kind in ("daemon", "code server", "PostgreSQL"))
        most = ", ".join(f"{kind} {peak:.0f}" for kind, peak in peaks.most.items() if kind in cost)
        made.add_row(f"{groups:,}", f"{flying:,}", f"{ticks:.1f}", *kinds, f"{sum(cost.values()):.0f}", most)
    return made


def measure(
    folder: Path,
    groups: int,
    steps: int,
    *,
    postgres: bool = True,
    in_flight: int = 500,
    sites: Sequence[str] = _SITES[:1],
    rate: float = AT_ONCE,
) -> Life:
    """Run a campaign to its end.

    Parameters
    ----------
    folder
        Where the deployment is to be.
    groups
        Groups of each step.
    steps
        Steps, each of which needs the one before.
    postgres
        Whether Dagster's storage is PostgreSQL, or SQLite.
    in_flight
        Most workflows at each site at a time.
    sites
        Names of the sites; the first one is the home site.
    rate
        How many workflows end in a second, at most.
    """
    where = f"{len(sites)} sites, " if len(sites) > 1 else ""
    shape = f"{groups} x {steps}, {where}{'PostgreSQL' if postgres else 'SQLite'}"
    with open_land(folder, groups, postgres=postgres, in_flight=in_flight, sites=sites) as land:
        names = land.create(groups, steps)
        roots, cpus = land.roots, [CpuFiles(wms.home) for wms in land.wms.values()]
        size, transactions = land.size(), land.transactions()
        rest = sum(_rates(roots).values())
        before, began = {kind: used(pid) for kind, pid in roots.items()}, time.monotonic()
        with Peaks(roots) as peaks, land.answering(rate):
            land.start()
            land.wait_for_end(names[-1], _PATIENCE + _PATIENCE_EACH * groups * steps)
        wall = time.monotonic() - began
        after = {kind: used(pid).since(before[kind]) for kind, pid in roots.items()}
        transactions, size = land.transactions() - transactions, land.size() - size
        runs = land.instance.get_run_records(ascending=True)
    lives, ops = _sort(runs)
    if len(lives) != groups * steps:
        raise RuntimeError(f"{len(lives)} attempts at {groups} x {steps} groups")
    bps = sum(cpu.total() for cpu in cpus)
    by_kind = _by_kind(after, bps)
    return Life(shape, len(lives), wall, by_kind, bps, peaks.most, size, transactions, ops, _gaps(lives, names), rest)


def _rates(roots: Mapping[str, int]) -> dict[str, float]:
    """Measure the CPU seconds of a second, by kind of process, in which there is nothing to do."""
    before = {kind: used(pid).total for kind, pid in roots.items()}
    time.sleep(_REST)
    return {kind: (used(pid).total - before[kind]) / _REST for kind, pid in roots.items()}


def _by_kind(after: Mapping[str, Used], bps: float) -> dict[str, float]:
    """Tell what the code server has used from what the runs have that it has started."""
    codes = [each for kind, each in after.items() if kind.startswith("code server")]
    others = {kind: each.total for kind, each in after.items() if not kind.startswith("code server")}
    own = {"code server": sum(each.living for each in codes), "op runs": sum(each.ended for each in codes) - bps}
    return {**others, **own}


def _sort(runs: Sequence[dg.RunRecord]) -> tuple[list[dg.RunRecord], Counter[str]]:
    lives = [each for each in runs if each.dagster_run.tags.get(tags.KIND) == tags.WORKFLOW]
    others = (each.dagster_run for each in runs if each not in lives)
    return lives, Counter(run.tags.get(tags.KIND, run.job_name) for run in others)


def _gaps(lives: Sequence[dg.RunRecord], names: Sequence[str]) -> list[float]:
    def of(step: str) -> list[dg.RunRecord]:
        return [each for each in lives if each.dagster_run.tags[tags.STEP].split("/")[1] == step]

    return [
        min(each.create_timestamp.timestamp() for each in of(after)) - max(each.end_time or 0.0 for each in of(before))
        for before, after in pairwise(names)
    ]


def table(lives: Sequence[Life]) -> Table:
    """Show what campaigns took."""
    made = Table(title=f"N groups x K steps, a WMS that answers at once, a tick each {TICK:.0f} s; CPU seconds")
    kinds = ["daemon", "code server", "op runs", "PostgreSQL"]
    columns = [
        "N x K",
        "wall",
        *kinds,
        "a group",
        "but for rest",
        "bps",
        "op runs: n",
        "peak MB",
        "storage MB",
        "trans. a group",
    ]
    for column in [*columns, "next step after"]:
        made.add_column(column, justify="right")
    for life in lives:
        made.add_row(
            life.shape,
            f"{life.wall:.0f}",
            *(f"{life.cpu[kind]:.1f}" if kind in life.cpu else "-" for kind in kinds),
            f"{life.each:.3f}",
            f"{life.own:.3f}",
            f"{life.bps:.1f}",
            ", ".join(f"{kind} {number}" for kind, number in sorted(life.ops.items())),
            ", ".join(f"{kind} {peak:.0f}" for kind, peak in life.peaks.items() if kind != "PostgreSQL"),
            f"{life.size:.1f}",
            f"{life.transactions / life.lives:.0f}" if life.transactions else "-",
            ", ".join(f"{gap:.0f} s" for gap in life.gaps) or "-",
        )
    return made
