"""What became of the quanta of a group, task by task: as a table of a group's page, and read back from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import dagster as dg

from cm_dagster.services.quanta import QuantaSummary

__all__ = ["TaskRow", "counted", "group_rows", "metadata_table", "quanta_table", "usage_table"]

_COUNTS = ("expected", "succeeded", "failed", "blocked", "no record", "registered", "rescued")
"""Columns of the table that are numbers of quanta."""


@dataclass(frozen=True)
class TaskRow:
    """A task of a group, or of many groups."""

    task: str
    expected: int = 0
    """Quanta in the workflow's graph."""
    succeeded: int = 0
    failed: int = 0
    blocked: int = 0
    no_record: int = 0
    registered: int = 0
    """Quanta of the workflow that the registry has."""
    rescued: int = 0
    """Quanta of earlier attempts at the group that the workflow has skipped; they count beside all others."""

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> TaskRow:
        """Read a row of a table; a column that an older release did not write is 0."""
        numbers = {name.replace(" ", "_"): int(record.get(name) or 0) for name in _COUNTS}
        return cls(str(record["task"]), **numbers)

    @property
    def all_expected(self) -> int:
        """Quanta of the group, those that were done by earlier attempts included."""
        return self.expected + self.rescued

    @property
    def all_registered(self) -> int:
        """Quanta of the group that the registry has, those of earlier attempts included."""
        return self.registered + self.rescued

    def whole(self) -> dict[str, int]:
        """Count the quanta of the group, whichever attempt did them."""
        return {
            "expected": self.all_expected,
            "succeeded": self.succeeded + self.rescued,
            "failed": self.failed,
            "blocked": self.blocked,
            "no record": self.no_record,
            "registered": self.all_registered,
        }

    def plus(self, other: TaskRow) -> TaskRow:
        """Add another group's quanta of the task."""
        both = zip(astuple(self)[1:], astuple(other)[1:], strict=True)
        return TaskRow(self.task, *(mine + more for mine, more in both))


def group_rows(quanta: QuantaSummary, rescued: Mapping[str, int]) -> list[TaskRow]:
    """Count the quanta of a group by task, in the order of the pipeline.

    Parameters
    ----------
    quanta
        What the workflow did.
    rescued
        Number of quanta that earlier attempts had done, by task.
    """
    registered = quanta.registered or {}
    # A task of which everything was rescued is not in the graph of the workflow that has skipped it.
    rows = [TaskRow(label, rescued=number) for label, number in rescued.items() if label not in quanta.tasks]
    for label, task in quanta.tasks.items():
        # Without a provenance graph the registry's is the last word on what has succeeded.
        succeeded = task.succeeded if quanta.provenance else registered.get(label, 0)
        lost = task.no_record if quanta.told else task.expected - succeeded
        rows.append(
            TaskRow(
                task=label,
                expected=task.expected,
                succeeded=succeeded,
                failed=task.failed,
                blocked=task.blocked,
                no_record=lost,
                registered=registered.get(label, 0),
                rescued=rescued.get(label, 0),
            )
        )
    return rows


def quanta_table(rows: Iterable[TaskRow], quanta: QuantaSummary) -> dg.TableMetadataValue:
    """Write what became of the quanta of a group, for its page.

    Parameters
    ----------
    rows
        The counts.
    quanta
        What the workflow did.
    """
    return metadata_table(_record(row, quanta) for row in rows)


def _record(row: TaskRow, quanta: QuantaSummary) -> dict[str, Any]:
    task = quanta.tasks.get(row.task)
    usage = task.usage if task else None
    return {
        "task": row.task,
        "expected": row.expected,
        "succeeded": row.succeeded,
        "failed": row.failed,
        "blocked": row.blocked,
        "no record": row.no_record,
        "caveats": counted(task.caveats if task else {}),
        "exceptions": counted(task.exceptions if task else {}),
        "registered": row.registered,
        "rescued": row.rescued,
        "memory max (MB)": round(usage.memory_max) if usage else 0,
        "time total (min)": round(usage.time_total / 60, 2) if usage else 0.0,
    }


def usage_table(quanta: QuantaSummary) -> dg.TableMetadataValue:
    """Write what the quanta of a workflow have used, for the tasks of which that is known."""
    found = [(label, task.usage) for label, task in quanta.tasks.items() if task.usage]
    return metadata_table(
        {
            "task": label,
            "memory max (MB)": round(usage.memory_max),
            "memory median (MB)": round(usage.memory_median),
            "time max (s)": round(usage.time_max, 1),
            "time median (s)": round(usage.time_median, 1),
            "time total (min)": round(usage.time_total / 60, 2),
            "CPU (h)": round(usage.cpu_total / 3600, 4),
        }
        for label, usage in found
    )


def metadata_table(rows: Iterable[Mapping[str, Any]]) -> dg.TableMetadataValue:
    """Write rows of the same columns as a table of a page."""
    records = [dg.TableRecord(dict(row)) for row in rows]
    # Dagster takes the columns from the first row, and asks for them where there is none.
    return dg.MetadataValue.table(records, schema=None if records else dg.TableSchema(columns=[]))


def counted(counts: Mapping[str, int]) -> str:
    """Write counts by name, e.g. ``2 x ValueError, 1 x KeyError``."""
    return ", ".join(f"{number} x {name}" for name, number in counts.items())
