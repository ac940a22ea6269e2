"""A campaign of many small groups with nothing replaced: BPS, quantum graphs, jobs, Butler; from file to chain.

The campaign's only step has a group for each visit, of two quanta that do next to nothing. Both databases are
PostgreSQL, the WMS is the local one, and all runs on this machine: what it has used besides what is measured apart is
that of the workflows' jobs, of the WMS, and of the webserver.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from cm_dagster.control.steps import collected_key
from cm_dagster.ledger import campaigns
from cm_dagster.local.deployment import Deployment
from cm_dagster.services.butler import ButlerService
from cm_dagster.testing.postgres import PostgresServer
from cm_dagster_tests.bench.processes import machine, postmaster, used
from cm_dagster_tests.integration.databases import pooled
from cm_dagster_tests.system.rig import CODE, Rig, wait_for
from cm_dagster_tests.system.start import started

__all__ = ["bench", "measure"]

_GROUPS = 1000
_CORES = 2
"""Jobs of the WMS that run at a time."""
_PATIENCE = 600.0
_PATIENCE_EACH = 20.0
"""Seconds that the campaign may take, and those for each of its groups."""
_BPS: dict[str, Any] = {
    "site": {"local": {"cores": _CORES, "warm": True, "preload": "cm_dagster.local.minidrp.tasks"}},
    "requestMemory": 64,
    "finalJob": {"requestMemory": 64},
}
_NAME = "real"
_STEP = "step1"


@dataclass(frozen=True)
class Real:
    """What the campaign took."""

    groups: int
    wall: float
    """Seconds from the file to the chained step."""
    cpu: dict[str, float]
    """CPU seconds by kind of process."""
    chained: int
    """Images of the groups that are found in the step's chain."""


def bench(folder: Path) -> Table:
    """Measure a thousand groups; it takes half an hour."""
    return _table(measure(folder, _GROUPS))


def measure(folder: Path, groups: int) -> Real:
    """Have a campaign of so many groups go from its file to its end.

    Parameters
    ----------
    folder
        Where the deployment is to be.
    groups
        Number of its groups.
    """
    with ExitStack() as stack:
        dagsters, butlers = stack.enter_context(PostgresServer()), stack.enter_context(PostgresServer())
        rig = stack.enter_context(
            started(
                Deployment(folder / "land"),
                visits=groups,
                registry=butlers.create("registry", extensions=["btree_gist"]).url,
                storage=pooled(dagsters.create("dagster")),
                site={"bps": _BPS, "limits": {"in_flight": 100}},
            )
        )
        servers = {"Dagster's PostgreSQL": postmaster(dagsters), "the Butler's PostgreSQL": postmaster(butlers)}
        return _run(rig, servers, groups)


def _run(rig: Rig, servers: dict[str, int], groups: int) -> Real:
    case = rig.describe(_NAME, visits=range(1, 1 + groups), steps=[_STEP])
    roots = {"daemon": rig.servers.running["daemon"].pid, **servers}
    code = rig.servers.running[CODE].pid
    before, code_before, all_before = {kind: used(pid) for kind, pid in roots.items()}, used(code), machine()
    began = time.monotonic()
    campaigns.create(rig.instance, case.spec(), user="bench", reason="bench")
    case.start()
    wait_for("the end of the campaign", lambda: _is_collected(rig), _PATIENCE + _PATIENCE_EACH * groups, every=2.0)
    wall = time.monotonic() - began
    cpu = {kind: used(pid).since(before[kind]).total for kind, pid in roots.items()}
    code_server = used(code).since(code_before)
    cpu |= {"code server": code_server.living, "op runs, with BPS": code_server.ended}
    cpu["jobs, WMS, web"] = machine() - all_before - sum(cpu.values())
    with closing(ButlerService(str(rig.survey.root))) as butler:
        chained = butler.dataset_count("calexp", [f"u/test/{_NAME}/{_STEP}"])
    return Real(groups, wall, cpu, chained)


def _is_collected(rig: Rig) -> bool:
    records = rig.instance.get_asset_records([collected_key(_NAME, _STEP)])
    return any(record.asset_entry.last_materialization_storage_id for record in records)


def _table(real: Real) -> Table:
    made = Table(title=f"{real.groups:,} groups with real BPS, WMS, jobs and Butler, from file to chain; CPU seconds")
    for column in ("", "all", "a group"):
        made.add_column(column, justify="right")
    for kind, seconds in {**real.cpu, "all": sum(real.cpu.values())}.items():
        made.add_row(kind, f"{seconds:.0f}", f"{seconds / real.groups:.3f}")
    made.add_row("wall", f"{real.wall:.0f} s", "")
    made.add_row("images in the chain", f"{real.chained:,}", "")
    return made
