"""Which queued attempts are handed to a run of the submit job now, and what becomes of such runs that died."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from cm_dagster.control.dispatch import take_again, take_queued
from cm_dagster.control.floor import Floor
from cm_dagster.control.health import read_health
from cm_dagster.control.lifeline import living, tidy
from cm_dagster.control.site import Site
from cm_dagster.control.waiting import put_off, wait_of
from cm_dagster.ledger.attempts import UNFINISHED, Attempt
from cm_dagster.ledger.refusal import turn_away
from cm_dagster.ledger.stuck import queue_stuck
from cm_dagster.policy.states import SHOWN_AS, RunStatus

__all__ = ["Batch", "batches", "in_work"]

_AGAIN = 60.0
"""Seconds after which the same attempts may be handed out again."""
_REMEMBERED = timedelta(days=1)
"""How long an attempt is handed out alone after a run that held it has died."""
_DEAD = 200
"""Most dead runs of a job that are looked at."""


@dataclass(frozen=True)
class Batch:
    """Attempts that one run of a job takes."""

    run_ids: tuple[str, ...]
    run_key: str
    """Makes Dagster request it once, if a tick is repeated after a crash."""

    @classmethod
    def of(cls, run_ids: list[str]) -> Batch:
        """Make a batch; the same attempts have another key a while later, since a batch may die half-way."""
        digest = hashlib.sha256(" ".join(run_ids).encode()).hexdigest()[:16]
        return cls(tuple(run_ids), f"{digest} {int(time.time() // _AGAIN)}")

    def config(self, op: str) -> dict[str, Any]:
        """Configuration of a run of a job with this only op, for these attempts."""
        return {"ops": {op: {"config": {"attempts": list(self.run_ids)}}}}

    @staticmethod
    def attempts(run: dg.DagsterRun) -> list[str]:
        """Read the attempts from a run's configuration."""
        config: Any = run.run_config
        return [run_id for op in config["ops"].values() for run_id in op["config"]["attempts"]]


def in_work(instance: dg.DagsterInstance, site: Site, job: str) -> set[str]:
    """Attempts that unfinished runs of a job hold; runs whose worker died are reported as failed first.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        The site.
    job
        Name of a job whose op takes ``attempts``.
    """
    records = instance.get_run_records(dg.RunsFilter(job_name=job, statuses=UNFINISHED))
    return {run_id for record in living(instance, site, records) for run_id in Batch.attempts(record.dagster_run)}


def batches(instance: dg.DagsterInstance, site: Site, job: str) -> list[Batch]:
    """Choose the attempts to submit at a site now, in batches of the site's size.

    Attempts that are in the site's hands without a workflow (their submission was interrupted, or its outcome is
    unknown) come first; they hold their slots already. One that waits is left out until its time has come.
    """
    tidy(instance, site)
    queue_stuck(instance, site.name)
    if not read_health(instance, [site.name])[site.name].answers:
        return []  # no look-up is possible; the watch sensor says when the WMS is back
    busy = in_work(instance, site, job)
    floor = Floor(instance, site.name, site.spec, busy)
    attempts = floor.open
    free = [a for a in attempts if a.run_id not in busy and not a.wms_id and (_in_hands(a) or _waits(a))]
    alone, held = _after_deaths(instance, site, job, free)
    held |= {a.run_id for a in free if not _is_due(a)}
    lost = [a for a in free if _in_hands(a) and a.run_id not in held]
    going = [a for a in attempts if _in_hands(a) or a.run_id in busy]
    _turn_away_twins(instance, waiting=[a for a in attempts if _waits(a)], going=going)
    taken = {(a.id.step, a.id.group) for a in going}
    waiting = [a for a in free if _waits(a) and a.run_id not in held and (a.id.step, a.id.group) not in taken]
    again = take_again(floor, lost)
    return _batched(again + take_queued(floor, waiting), alone, site.spec.submit.batch)


def _batched(run_ids: Iterable[str], alone: set[str], size: int) -> list[Batch]:
    """Put attempts into batches, in order; some of them go alone, after the others."""
    together = [run_id for run_id in run_ids if run_id not in alone]
    batches_ = [Batch.of(together[i : i + size]) for i in range(0, len(together), size)]
    return batches_ + [Batch.of([run_id]) for run_id in run_ids if run_id in alone]


def _is_due(attempt: Attempt) -> bool:
    wait = wait_of(attempt)
    return wait is None or wait.is_due(time.time())


def _after_deaths(
    instance: dg.DagsterInstance, site: Site, job: str, attempts: Iterable[Attempt]
) -> tuple[set[str], set[str]]:
    """Find the attempts whose submission died: any of a batch may have killed it, so each is tried alone.

    Returns
    -------
    alone, held
        Runs of the attempts that go alone, and of those on which one run after another died, so that they wait now.
    """
    dead = _dead_runs(instance, job)
    alone, held = {a.run_id for a in attempts if a.run_id in dead}, set()
    for attempt in attempts:
        runs, wait = dead.get(attempt.run_id, []), wait_of(attempt)
        if not runs or (len(runs) == 1 and wait is None):
            continue
        last = runs[0].dagster_run.run_id
        if wait is None or (last not in wait.cause and (runs[0].end_time or 0.0) > wait.last):
            put_off(instance, site, attempt, f"the process that submits it died again and again, last with run {last}")
            held.add(attempt.run_id)
    return alone, held


def _dead_runs(instance: dg.DagsterInstance, job: str) -> dict[str, list[dg.RunRecord]]:
    """Give the runs of a job that died lately, the latest first, by the attempts that they held."""
    failed = [dg.DagsterRunStatus.FAILURE]
    wanted = dg.RunsFilter(job_name=job, statuses=failed, updated_after=datetime.now(UTC) - _REMEMBERED)
    found: dict[str, list[dg.RunRecord]] = defaultdict(list)
    for record in instance.get_run_records(wanted, limit=_DEAD):
        # One that failed by itself has said why, on its attempts.
        if record.dagster_run.tags.get("dagster/failure_reason") != "STEP_FAILURE":
            for run_id in Batch.attempts(record.dagster_run):
                found[run_id].append(record)
    return found


def _turn_away_twins(instance: dg.DagsterInstance, *, waiting: list[Attempt], going: list[Attempt]) -> None:
    """Turn away the attempts whose group has another one on its way: two launches may pass the coordinator at once."""
    on_way = {(a.id.step, a.id.group): a for a in going}
    for twin in waiting:
        other = on_way.get((twin.id.step, twin.id.group))
        if other and other.run_id != twin.run_id:
            number, group = other.id.number, twin.id.group
            turn_away(
                instance, twin.run, f"attempt {number} at {group} (run {other.run_id}) was launched at the same time"
            )


def _waits(attempt: Attempt) -> bool:
    """Whether it is in the queue: one on its way there, taken now, would be put back by the coordinator."""
    return attempt.status is dg.DagsterRunStatus.QUEUED


def _in_hands(attempt: Attempt) -> bool:
    return SHOWN_AS[attempt.state] is RunStatus.STARTED
