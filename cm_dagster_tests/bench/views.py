"""What people wait for with 10,000 groups: making them, ``cm status``, ``cm group list``, the pages of the web UI."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner
from rich.console import Group
from rich.table import Table

from cm_dagster.cli import cm
from cm_dagster.control import desk, steps
from cm_dagster.control.inputs import look_at_inputs, prepare_inputs
from cm_dagster.control.site import Site
from cm_dagster.ledger import attempts, latest, rows
from cm_dagster.local.deployment import Deployment
from cm_dagster.local.servers import Servers, code_server
from cm_dagster.local.survey import Survey, make_synthetic_survey
from cm_dagster.local.survey_raws import RawFiles
from cm_dagster.plan.names import StepId
from cm_dagster.testing.graphql import WebUi
from cm_dagster.testing.postgres import PostgresServer
from cm_dagster_tests.bench.processes import postmaster, used
from cm_dagster_tests.bench.statements import Cost, cost
from cm_dagster_tests.bench.tick import LIVE, Case, Stage, open_stage
from cm_dagster_tests.bench.ui import questions
from cm_dagster_tests.integration.databases import BlankDatabase, connected, pooled
from cm_dagster_tests.integration.ledger_rig import SITE, Rig, make_blank, make_spec, open_rig

__all__ = ["bench"]

_SIZES = (100, 1000, 5000, 10_000)
_CASE = Case(10_000, 500, 9_000, failed=100)
_TIMES = 3
_COMMANDS = {
    "cm status --json": ["status", "camp", "--json"],
    "cm status": ["status", "camp"],
    "cm group list (100 rows)": ["group", "list", "camp", "--step", LIVE, "--limit", "100"],
    "cm group list --json (all)": ["group", "list", "camp", "--step", LIVE, "--limit", "0", "--json"],
    "cm group show": ["group", "show", "camp", LIVE, "g5000", "--json"],
}


def bench(folder: Path) -> Group:
    """Measure all of it."""
    with PostgresServer() as server:
        blank = BlankDatabase.make(server, folder / "tables")
        planning = _planning(folder, server, blank)
        with blank.copied() as database, open_stage(folder / "views", _CASE, server, database) as stage:
            commands, pages = _commands(stage), _pages(stage)
            size = _size(stage)
    return Group(planning, commands, pages, size)


# ------------------------------------------------------------------------------------------------------ making groups


def _planning(folder: Path, server: PostgresServer, blank: BlankDatabase) -> Table:
    table = Table(title="making the N groups of a step (a group a visit; PostgreSQL): CPU seconds, SQL statements")
    for column in ("groups", "checked and cut", "all, here", "PostgreSQL", "statements", "again"):
        table.add_column(column, justify="right")
    registry = server.create("registry", extensions=["btree_gist"])
    survey = make_synthetic_survey(
        folder / "repo",
        visits=max(_SIZES),
        detectors=1,
        tracts=1,
        patches=1,
        raws=RawFiles.SHARED,
        # SQLite would join its tables row by row: 1 ms for each visit where there are 10,000.
        db_url=registry.url,
    )
    with connected(registry) as connection:
        connection.execute("ANALYZE")  # as in any repository that has been there for more than a minute
    for size in _SIZES:
        place = folder / f"plan-{size}"
        place.mkdir()
        with blank.copied() as database:
            block = pooled(database)
            settings = {"butler": str(survey.root)}
            with open_rig(place, make_blank(place / "blank", block), settings, block) as rig:
                look, made, again = _plan(rig, survey, size, postmaster(server))
        row = (f"{size:,}", f"{look.cpu:.2f}", f"{made.cpu:.2f}", f"{made.server:.2f}", str(made.statements))
        table.add_row(*row, f"{again.cpu:.2f}")
    return table


def _plan(rig: Rig, survey: Survey, size: int, server: int) -> tuple[Cost, Cost, Cost]:
    """Cut a step; then make its groups, and once more."""
    cut = {"dimension": "visit", "dataset": "raw", "size": 1}
    butler = {"input": [survey.defaults], "output": "u/camp", "where": f"{survey.where} AND visit <= {size}"}
    spec = rig.create(make_spec(butler=butler, steps={LIVE: {"pipeline": f"#{LIVE}", "group_by": cut}}))
    site = Site(SITE, rig.site.spec)
    site.butler(spec).exists(survey.defaults)  # connects
    with cost(server) as look:
        found = look_at_inputs(site, spec, LIVE)
    if len(found.groups) != size:
        raise RuntimeError(f"{len(found.groups)} groups of {size}")
    with cost(server) as made:
        prepare_inputs(rig.instance, site, spec, LIVE)
    with cost(server) as again:
        prepare_inputs(rig.instance, site, spec, LIVE)
    return look, made, again


# ----------------------------------------------------------------------------------------------------- command line


def _commands(stage: Stage) -> Table:
    table = Table(title=f"{_CASE}, {_CASE.failed} failed: CPU seconds here + of PostgreSQL, SQL statements")
    for column in ("command", "in a new process, imports apart", "in one that knows all attempts"):
        table.add_column(column, justify="right")
    for name, words in _COMMANDS.items():
        _run(words)  # imports
        _forget()
        with cost(stage.postmaster) as cold:
            _run(words)
        with cost(stage.postmaster) as warm:
            for _ in range(_TIMES):
                _run(words)
        table.add_row(name, _shown(cold), _shown(warm / _TIMES))
    return table


def _run(words: Sequence[str]) -> None:
    done = CliRunner().invoke(cm, list(words), catch_exceptions=False)
    if done.exit_code:
        raise RuntimeError(f"cm {' '.join(words)}: {done.output}")


def _forget() -> None:
    """Forget what only a process that has run for a while knows."""
    attempts._INDEXES.clear()
    desk._DESKS.clear()
    steps._PLANS.clear()
    latest._READ.clear()
    rows.read_run.cache_clear()


def _shown(found: Cost) -> str:
    return f"{found.cpu:.2f} + {found.server:.2f}, {found.statements}"


# --------------------------------------------------------------------------------------------------------- web pages


class _Servers(Servers):
    """Code server and web server alone."""

    @property
    def names(self) -> list[str]:
        return [code_server(SITE), "web"]


@dataclass
class _Page:
    """What a page cost, on an average."""

    web: float = 0.0
    server: float = 0.0
    wall: float = 0.0


def _pages(stage: Stage) -> Table:
    table = Table(title="the same in the web UI: CPU seconds of web server + PostgreSQL, and wall")
    for column in ("page", "at first", f"then (mean of {_TIMES})"):
        table.add_column(column, justify="right")
    with _Servers(Deployment(stage.rig.folder / "deployment")) as servers:
        ui = WebUi(servers.url, location=SITE)
        web, step = servers.running["web"].pid, StepId("camp", LIVE, SITE)
        for name, (document, variables) in questions(step, "g5000").items():
            cells = []
            for times in (1, _TIMES):
                with _page(web, stage.postmaster) as page:
                    _repeat(times, lambda: ui.call(document, **variables))  # noqa: B023  # called at once
                cells.append(f"{page.web / times:.2f} + {page.server / times:.2f}, {page.wall / times:.2f} s")
            table.add_row(name, *cells)
        shown = ui.partitions(step.asset)
    if (len(shown.materialized), len(shown.failed)) != (_CASE.accepted, _CASE.failed):
        raise RuntimeError("the web UI does not show the groups as they are")
    return table


def _repeat(times: int, ask: Callable[[], object]) -> None:
    for _ in range(times):
        ask()


@contextmanager
def _page(web: int, server: int) -> Iterator[_Page]:
    page, began = _Page(), (used(web).total, used(server).total, time.monotonic())
    yield page
    page.web, page.server = used(web).total - began[0], used(server).total - began[1]
    page.wall = time.monotonic() - began[2]


def _size(stage: Stage) -> str:
    with connected(stage.database) as connection:
        row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    return f"Dagster's database: {(row[0] if row else 0) / 1e6:.0f} MB"
