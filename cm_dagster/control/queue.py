"""Which queued attempts are handed to a run of the submit job now, and what becomes of such runs that died."""

from __future__ import annotations

import fcntl
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import dagster as dg

from cm_dagster.control.health import read_health
from cm_dagster.control.site import Site
from cm_dagster.crashpoints import crash_point
from cm_dagster.ledger.attempts import UNFINISHED, Attempt, index_of
from cm_dagster.ledger.refusal import turn_away
from cm_dagster.policy.dispatch import Waiting, order_waiting
from cm_dagster.policy.states import SHOWN_AS, RunStatus, State

__all__ = ["Batch", "batches", "hold_life_line", "in_work"]

_START = 60.0
"""Seconds within which the worker of a started run must hold its life line."""
_AGAIN = 60.0
"""Seconds after which the same attempts may be handed out again."""

_held: list[TextIO] = []


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


def _life_line(site: Site, run_id: str) -> Path:
    return site.area / "_runs" / run_id


def hold_life_line(site: Site, run_id: str) -> None:
    """Hold a lock until this process ends, by which others see that it lives.

    Dagster's default launcher does not notice when a worker dies together with its code server; the kernel does.
    """
    path = _life_line(site, run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{run_id}")
    file = draft.open("a")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    draft.rename(path)  # now: nobody must meet it unlocked
    _held.append(file)


def _is_dead(site: Site, record: dg.RunRecord) -> bool:
    """Whether the worker of a started run is gone."""
    if record.dagster_run.status is not dg.DagsterRunStatus.STARTED:
        return False
    try:
        with _life_line(site, record.dagster_run.run_id).open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return time.time() - (record.start_time or time.time()) > _START
    return True


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
    busy: set[str] = set()
    for record in instance.get_run_records(dg.RunsFilter(job_name=job, statuses=UNFINISHED)):
        run = record.dagster_run
        if _is_dead(site, record):
            now = instance.get_run_by_id(run.run_id)
            if now and not now.is_finished:
                instance.report_run_failed(now, "Its process is gone. Its attempts are taken up by another run.")
                crash_point("queue.dead-reported")
        else:
            busy.update(Batch.attempts(run))
    return busy


def batches(instance: dg.DagsterInstance, site: Site, job: str) -> list[Batch]:
    """Choose the attempts to submit at a site now, in batches of the site's size.

    Attempts that are in the site's hands without a workflow (their submission was interrupted, or its outcome is
    unknown) come first; they hold their slots already.
    """
    if not read_health(instance, [site.name])[site.name].answers:
        return []  # no look-up is possible; the watch sensor says when the WMS is back
    busy = in_work(instance, site, job)
    attempts = index_of(instance).open_at(site.name)
    lost = [a.run_id for a in attempts if _in_hands(a) and not a.wms_id and a.run_id not in busy]
    going = [a for a in attempts if _in_hands(a) or a.run_id in busy]
    waiting = [_waiting(a) for a in attempts if a.state is State.QUEUED and a.run_id not in busy]
    _turn_away_twins(instance, waiting=[a for a in attempts if a.state is State.QUEUED], going=going)
    taken = [(a.id.step.tag, a.id.group) for a in going]
    chosen = order_waiting(waiting, busy=taken, room=site.spec.limits.in_flight - len(going))
    run_ids = lost + [attempt.run_id for attempt in chosen]
    size = site.spec.submit.batch
    return [Batch.of(run_ids[i : i + size]) for i in range(0, len(run_ids), size)]


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


def _in_hands(attempt: Attempt) -> bool:
    return SHOWN_AS[attempt.state] is RunStatus.STARTED


def _waiting(attempt: Attempt) -> Waiting:
    return Waiting(
        run_id=attempt.run_id,
        step=attempt.id.step.tag,
        group=attempt.id.group,
        by_person=attempt.by_person,
        priority=attempt.priority,
        since=attempt.created,
    )
