"""One tick of the watch sensor with N workflows of 67 jobs in flight at the real local WMS."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from cm_dagster.control.dispatch import wishes
from cm_dagster.control.queue import batches
from cm_dagster.control.site import Site
from cm_dagster.control.watch import watch
from cm_dagster.ledger import events, tags
from cm_dagster.local.wms import store
from cm_dagster.local.wms.definition import Job, Options, Workflow
from cm_dagster.plan.names import AttemptId
from cm_dagster.policy.states import State
from cm_dagster_tests.bench.measure import measured
from cm_dagster_tests.integration.ledger_rig import FINALIZE, LOG, SITE, STEP1, SUBMIT, Rig, make_blank, open_rig

__all__ = ["bench"]

_SIZES = (10, 200)
_TICKS = 10
_JOBS = 67


def bench(folder: Path) -> Table:
    """Measure a tick for each size."""
    table = Table(title=f"one tick, CPU seconds (mean of {_TICKS}; {_JOBS} jobs a workflow; SQLite)")
    for column in ("workflows in flight", "watch, first", "watch, nothing new", "dispatch", "submit"):
        table.add_column(column, justify="right")
    for size in _SIZES:
        place = folder / str(size)
        place.mkdir()
        with open_rig(place, make_blank(folder / f"blank-{size}")) as rig:
            table.add_row(str(size), *(f"{seconds:.3f}" for seconds in _measure(rig, size)))
    return table


def _measure(rig: Rig, size: int) -> list[float]:
    site = Site(SITE, rig.site.spec)  # with its real WMS
    rig.create()
    for group in rig.plan(size + 1)[:size]:
        _fly(rig, site, AttemptId(STEP1, group, 1))
    site.wms.ping()  # imports the plugin
    with measured() as first:
        watch(rig.instance, site, LOG, FINALIZE)
    costs = [first.own]
    for tick in (
        lambda: watch(rig.instance, site, LOG, FINALIZE),
        lambda: wishes(rig.instance, site),
        lambda: batches(rig.instance, site, SUBMIT),
    ):
        with measured() as cpu:
            for _ in range(_TICKS):
                tick()
        costs.append(cpu.own / _TICKS)
    return costs


def _fly(rig: Rig, site: Site, attempt: AttemptId) -> None:
    """Put a running workflow into the WMS, and an attempt that it belongs to into the ledger."""
    jobs = tuple(Job(f"job{n}", f"task{n % 3}", "true", {}, f"log{n}") for n in range(_JOBS))
    attributes = {"bps_operator": site.operator, "bps_run": attempt.workflow}
    with store.connect() as db:
        number = store.insert(db, Workflow(attempt.workflow, attributes, "", Options(1, False), jobs), site.area, "")
        store.claim(db, number)
    run_id = rig.queue(attempt.group, 1, attempt.step)
    taken = rig.attempt(run_id)
    events.start(rig.instance, taken)
    submit_dir = str(attempt.folder(site.area) / "submit-1")
    events.submitted(rig.instance, events.Sent(taken, str(number), submit_dir, "run"))
    rig.instance.add_run_tags(run_id, {tags.STATE: State.SUBMITTED.value})
