"""Writing about many runs at once: in one transaction of a few statements where the storage can, else one by one.

Uses of ``dagster._core``: `DagsterEvent`, the pointer from a check to a materialization, and Dagster's clock. Dagster's
own way to write an event reads its run before and after; many at once are entries of the log, and changes of runs, for
our storage.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import dagster as dg
from dagster import EventLogEntry
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData as Target,
)
from dagster._core.events import DagsterEvent
from dagster._time import get_current_timestamp

from cm_dagster.ledger.bulk import Change

__all__ = ["Subject", "Target", "Writing", "entry", "writing"]


class Subject(Protocol):
    """What is written about: a run that is an attempt."""

    @property
    def run_id(self) -> str:
        """Id of the run."""

    @property
    def job(self) -> str:
        """Name of its job."""


class Writing:
    """Writes each thing as it comes.

    Parameters
    ----------
    instance
        The Dagster instance.
    """

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance

    def event(self, of: Subject, kind: dg.DagsterEventType, message: str, data: Any = None) -> None:
        """Write an event of a run, and what it makes of the run.

        Parameters
        ----------
        of
            The run.
        kind
            The kind of the event.
        message
            What people read.
        data
            What an event of this kind has besides.
        """
        self.instance.report_dagster_event(_event(of.job, kind, message, data), run_id=of.run_id)

    def tag(self, of: Subject, tags: Mapping[str, str]) -> None:
        """Write tags onto a run."""
        self.instance.add_run_tags(of.run_id, dict(tags))

    def flush(self) -> Mapping[str, Target]:
        """Have everything so far be where it can be read.

        Returns
        -------
        made
            The materializations that were written since the last call, by run, as far as the storage tells.
        """
        return {}


class _Gathered(Writing):
    """Writes everything at once."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        super().__init__(instance)
        self._entries: list[EventLogEntry] = []
        self._changes: dict[str, Change] = defaultdict(Change)

    def event(self, of: Subject, kind: dg.DagsterEventType, message: str, data: Any = None) -> None:
        made = entry(of.run_id, _event(of.job, kind, message, data))
        self._entries.append(made)
        self._changes[of.run_id].follow(kind, made.timestamp)

    def tag(self, of: Subject, tags: Mapping[str, str]) -> None:
        self._changes[of.run_id].tags.update(tags)

    def flush(self) -> Mapping[str, Target]:
        runs: Any = self.instance.run_storage
        log: Any = self.instance.event_log_storage
        ids = log.store_many(self._entries)
        runs.change_many(self._changes)
        made = {
            each.run_id: Target(storage_id=id_, run_id=each.run_id, timestamp=each.timestamp)
            for id_, each in zip(ids, self._entries, strict=True)
            if each.dagster_event and each.dagster_event.is_step_materialization
        }
        self._entries.clear()
        self._changes.clear()
        return made


@contextmanager
def writing(instance: dg.DagsterInstance, subjects: Collection[Subject]) -> Iterator[Writing]:
    """Write about some runs: all or nothing, and after all other writers of these runs, where the storage can.

    Parameters
    ----------
    instance
        The Dagster instance.
    subjects
        The runs.
    """
    begin = getattr(instance.run_storage, "one_transaction", None)  # see `cm_dagster.ledger.storage`
    if begin is None:
        yield Writing(instance)
    elif subjects:
        with begin(*(subject.run_id for subject in subjects)):
            writer = _Gathered(instance)
            yield writer
            writer.flush()
    else:
        yield _Gathered(instance)


def _event(job: str, kind: dg.DagsterEventType, message: str, data: Any) -> DagsterEvent:
    return DagsterEvent(event_type_value=kind.value, job_name=job, message=message, event_specific_data=data)


def entry(run_id: str, event: DagsterEvent, level: int = logging.INFO) -> EventLogEntry:
    """Make the entry of an event in the log, as Dagster makes it.

    Parameters
    ----------
    run_id
        The run.
    event
        The event.
    level
        How much it matters to the reader of a run's page.
    """
    return EventLogEntry(  # type: ignore[no-untyped-call]  # Dagster leaves it so
        error_info=None,
        level=level,
        user_message="",
        run_id=run_id,
        timestamp=get_current_timestamp(),
        step_key=event.step_key,
        job_name=event.job_name,
        dagster_event=event,
    )
