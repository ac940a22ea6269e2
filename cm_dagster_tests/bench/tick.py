"""A tick of each sensor of a site with N workflows in flight, when nothing has changed and when one group has."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent
from rich.table import Table

from cm_dagster.control.advance import chains_due, moves
from cm_dagster.control.dispatch import look
from cm_dagster.control.queue import batches
from cm_dagster.control.site import Site
from cm_dagster.control.steps import Document, collected_key
from cm_dagster.control.telling import tell
from cm_dagster.control.watch import watch
from cm_dagster.ledger import events, store, tags
from cm_dagster.ledger.attempts import index_of
from cm_dagster.plan.names import AttemptId, StepId
from cm_dagster.policy.states import State
from cm_dagster.services.quanta import QuantaSummary, TaskQuanta
from cm_dagster.testing.fakewms.store import HOME, FakeWms
from cm_dagster.testing.postgres import Database, PostgresServer
from cm_dagster_tests.bench.bulk import FIRST_ID, copy_attempts, copy_workflows, new_id
from cm_dagster_tests.bench.plots import Drawn, draw_polls
from cm_dagster_tests.bench.processes import postmaster
from cm_dagster_tests.bench.statements import Cost, cost
from cm_dagster_tests.integration.databases import BlankDatabase, pooled
from cm_dagster_tests.integration.ledger_rig import FINALIZE, LOG, SITE, SUBMIT, Rig, make_blank, make_spec, open_rig

__all__ = ["LIVE", "Case", "Stage", "bench", "open_stage"]

_TICKS = 5
_DAY = 86400.0
"""Seconds since the workflows of collected steps have ended."""
_JOBS = '{"isr": 30, "calibrate": 30, "summary": 7}'
_STATES = {State.RUNNING: "RUNNING", State.ACCEPTED: "SUCCEEDED", State.FAILED: "FAILED"}
LIVE = "live"
"""The step that is under way."""


@dataclass(frozen=True)
class Case:
    """How much there is."""

    planned: int
    flying: int
    accepted: int = 0
    finished: int = 0
    """Steps of 1,000 groups each that are collected."""
    failed: int = 0

    def __str__(self) -> str:
        beside = f", {self.finished} x 1,000 collected" if self.finished else ""
        return f"{self.planned:,} planned, {self.accepted:,} accepted, {self.flying:,} in flight{beside}"


_CASES = [
    Case(100, 100),
    Case(1000, 1000),
    Case(1000, 1000, finished=4),
    Case(5000, 5000),
    Case(10_000, 500, 4_500),
    Case(10_000, 500, 4_500, finished=4),
]


@dataclass
class Stage:
    """A site in such a case."""

    rig: Rig
    site: Site
    wms: FakeWms
    database: Database
    postmaster: int
    flying: list[tuple[str, str, int]]
    """Of each attempt in flight its group, its run, and the id of its workflow."""

    def accept_one(self) -> None:
        """Have an attempt accepted, of which the WMS is not asked."""
        _, run_id, _ = self.flying.pop()
        events.accept(self.rig.instance, events.Acceptance(self.rig.attempt(run_id), "good", {}))

    def end_one(self) -> None:
        """Have the WMS end a workflow."""
        self.wms.set(str(self.flying.pop()[2]), "SUCCEEDED")

    def settle(self) -> None:
        """Let all chains be set."""
        step = StepId("camp", LIVE, SITE)
        store.put(self.rig.instance, Document.CHAINED.key(step), index_of(self.rig.instance).accepted(step))


def bench(folder: Path) -> Drawn:
    """Measure all cases."""
    polls: dict[int, float] = {}
    columns = ["watch", "dispatch", "submit", "chain", "chain, not home", "advance"]
    table = Table(title="one tick: CPU ms here + of PostgreSQL, SQL statements; nothing changed / one group changed")
    for column in ("", *columns):
        table.add_column(column, justify="right")
    with PostgresServer() as server:
        blank = BlankDatabase.make(server, folder / "tables")
        for number, case in enumerate(_CASES):
            with blank.copied() as database, open_stage(folder / str(number), case, server, database) as stage:
                costs = list(_measure(stage))
                table.add_row(str(case), *(f"{_shown(still)}\n{_shown(one)}" for still, one in costs))
                if case.flying == case.planned and not case.finished:
                    polls[case.flying] = costs[0][0].cpu + costs[0][0].server
    return Drawn(table, lambda path: draw_polls(polls, path))


def _shown(found: Cost) -> str:
    return f"{found.cpu * 1e3:.0f} + {found.server * 1e3:.0f}, {found.statements}"


def _measure(stage: Stage) -> Iterator[tuple[Cost, Cost]]:
    instance, site = stage.rig.instance, stage.site
    away = Site(SITE, site.spec.model_copy(update={"home": False}))
    ticks: list[tuple[Callable[[], object], Callable[[], None]]] = [
        (lambda: watch(instance, site, LOG, FINALIZE), stage.end_one),
        (lambda: tell(instance, look(instance, site)), stage.accept_one),
        (lambda: batches(instance, site, SUBMIT), stage.accept_one),
        (lambda: chains_due(instance, site), stage.accept_one),
        (lambda: chains_due(instance, away), stage.accept_one),
        (lambda: moves(instance, site), stage.accept_one),
    ]
    for tick, change in ticks:
        stage.settle()
        tick()  # what is read once in a process's life
        with cost(stage.postmaster) as still:
            for _ in range(_TICKS):
                tick()
        change()
        with cost(stage.postmaster) as one:
            tick()
        yield still / _TICKS, one


# ------------------------------------------------------------------------------------------------------ making it


@contextmanager
def open_stage(folder: Path, case: Case, server: PostgresServer, database: Database) -> Iterator[Stage]:
    """Make a site with so much in flight.

    Parameters
    ----------
    folder
        Where its files are to be; it is made.
    case
        How much.
    server, database
        PostgreSQL, with Dagster's tables.
    """
    folder.mkdir()
    wms, storage = FakeWms(folder / "wms"), pooled(database)
    settings = {
        "wms": {"service": "cm_dagster.testing.fakewms.service.FakeWmsService", "compute_site": "fake", "settle": 0.0},
        "limits": {"in_flight": case.flying},
        "env": {HOME: str(wms.home)},
    }
    blank = make_blank(folder / "blank", storage)
    with open_rig(folder, blank, settings, storage) as rig, pytest.MonkeyPatch.context() as patch:
        patch.setattr("cm_dagster.control.judge.read_quanta", _read_quanta)
        steps = [f"done{number}" for number in range(1, case.finished + 1)]
        made = {step: {"pipeline": f"#{step}"} for step in (*steps, LIVE)}
        rig.create(make_spec(steps={**made, "last": {"pipeline": "#last", "needs": [LIVE]}}))
        for step in steps:
            _fill(rig, database, wms, step, 1000, {State.ACCEPTED: 1000}, ended=time.time() - _DAY)
            rig.materialize(collected_key("camp", step))
        number = {State.ACCEPTED: case.accepted, State.FAILED: case.failed, State.RUNNING: case.flying}
        flying = _fill(rig, database, wms, LIVE, case.planned, number)
        stage = Stage(rig, Site(SITE, rig.site.spec), wms, database, postmaster(server), flying)
        stage.settle()
        yield stage


def _read_quanta(submit_dir: Path, *_: object) -> QuantaSummary:
    return QuantaSummary(str(submit_dir), {"isr": TaskQuanta(4, 4)}, provenance=True, registered={"isr": 4})


def _fill(
    rig: Rig,
    database: Database,
    wms: FakeWms,
    step: str,
    groups: int,
    number: Mapping[State, int],
    ended: float | None = None,
) -> list[tuple[str, str, int]]:
    """Plan a step and make attempts in each state, in the order of groups; gives those in the last state."""
    names, copies = rig.plan(groups, step), []
    id_, begin = StepId("camp", step, SITE), 0
    for state, many in number.items():
        own, begin = names[begin : begin + many], begin + many
        if not own:
            continue
        run_id = _template(rig, AttemptId(id_, own[0], 1), state)
        copies = copy_attempts(database, run_id, own[0], own[1:])
        flows = [(wms_id, AttemptId(id_, name, 1).workflow) for name, _, wms_id in copies]
        copy_workflows(wms, flows, _STATES[state], _JOBS, ended)
        if state is State.ACCEPTED:
            store.put(rig.instance, Document.CHAINED.key(id_), dict.fromkeys(own, 1))
        _forget_template(rig, wms, run_id, AttemptId(id_, own[0], 1), state)
    return copies


def _template(rig: Rig, attempt: AttemptId, state: State) -> str:
    """Make an attempt as usual; with what Dagster says of its asset when it makes a run, which the web UI counts."""
    run_id, key = rig.queue(attempt.group, 1, attempt.step), dg.AssetKey(attempt.step.asset)
    planned = DagsterEvent.build_asset_materialization_planned_event(
        attempt.step.job, "__".join(key.path), AssetMaterializationPlannedData(key, attempt.group)
    )
    rig.instance.report_dagster_event(planned, run_id=run_id)
    events.start(rig.instance, rig.attempt(run_id))
    folder = attempt.folder(rig.site.area)
    sent = events.Sent(rig.attempt(run_id), str(FIRST_ID), str(folder / "submit-1"), attempt.run("u/camp"))
    events.submitted(rig.instance, sent)
    rig.instance.add_run_tags(run_id, {tags.STATE: State.RUNNING.value})
    if state is State.ACCEPTED:
        events.accept(
            rig.instance, events.Acceptance(rig.attempt(run_id), "good", {"quanta": json.loads(_JOBS)["isr"]})
        )
    if state is State.FAILED:
        events.fail(rig.instance, rig.attempt(run_id), "bad: 3 of 30 quanta failed")
    return run_id


def _forget_template(rig: Rig, wms: FakeWms, run_id: str, attempt: AttemptId, state: State) -> None:
    """Give the template a workflow of its own, since the next one takes its id."""
    wms_id = new_id()
    copy_workflows(wms, [(wms_id, attempt.workflow)], _STATES[state], _JOBS)
    rig.instance.add_run_tags(run_id, {tags.WMS_ID: str(wms_id)})
