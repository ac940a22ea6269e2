"""A workflow that has ended and was judged: its group's quanta, the verdict on them, and what people see of both."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg

from cm_dagster.control.taskrows import TaskRow, counted, group_rows, metadata_table, quanta_table, usage_table
from cm_dagster.ledger import events
from cm_dagster.ledger.attempts import Attempt
from cm_dagster.ledger.checks import Check
from cm_dagster.policy.judge import Ended, Outcome, TaskCount, Verdict, judge, threshold_of
from cm_dagster.services.quanta import QuantaSummary
from cm_dagster.services.wms import WorkflowReport
from cm_dagster.spec.models import Accept

__all__ = ["Judged"]


@dataclass(frozen=True)
class Judged:
    """What is known of a workflow that has ended, and the verdict."""

    attempt: Attempt
    report: WorkflowReport
    quanta: QuantaSummary
    rescued: Mapping[str, int]
    """Quanta of earlier attempts at the group that this one has skipped and the registry has, by task."""
    accept: Accept
    """When the group is accepted."""

    @cached_property
    def rows(self) -> list[TaskRow]:
        """The group's quanta by task."""
        return group_rows(self.quanta, self.rescued)

    @property
    def expected(self) -> int:
        """Quanta of the group: what was left to do, and what was rescued, even if that has gone meanwhile."""
        return self.quanta.expected + max(self.attempt.recipe.done, sum(self.rescued.values()))

    @property
    def registered(self) -> int | None:
        """Quanta of the group that the registry has; None if the workflow's RUN collection is absent."""
        own = self.quanta.registered_total
        return None if own is None else own + sum(self.rescued.values())

    @cached_property
    def verdict(self) -> Verdict:
        """What is to be done: of a rescue the group counts, not what was left to do of it."""
        own = self.quanta.succeeded
        ended = Ended(
            wms_state=self.report.state,
            expected=self.expected,
            succeeded=None if own is None else own + sum(self.rescued.values()),
            registered=self.registered,
            finalized=self.attempt.finalized,
            tasks={row.task: TaskCount(row.all_expected, row.all_registered) for row in self.rows},
        )
        return judge(ended, self.accept.quanta, self.accept.per_task)

    def metadata(self, report: WorkflowReport | None = None) -> events.Metadata:
        """Say what the pilot sees of the ended attempt.

        Parameters
        ----------
        report
            The WMS's report on the workflow, if more is known by now.
        """
        attempt, quanta = self.attempt, self.quanta
        usage = usage_table(quanta)
        return {
            "verdict": self.verdict.reason,
            "source": quanta.source,
            "workflow": attempt.wms_id,
            "attempt": attempt.id.number,
            "run collection": quanta.run,
            "submit directory": dg.MetadataValue.path(attempt.submit_dir),
            "quanta expected": quanta.expected,
            "quanta registered": quanta.registered_total or 0,
            "quanta": quanta_table(self.rows, quanta),
            **({"resources": usage} if usage.records else {}),
            "wall time (minutes)": round((time.time() - (attempt.started or attempt.created)) / 60, 2),
            "jobs": dg.MetadataValue.json({k: dict(counts) for k, counts in (report or self.report).tasks.items()}),
            "BPS configuration": dg.MetadataValue.md(_fenced(Path(attempt.folder) / "bps.yaml")),
        }

    def check(self) -> Check:
        """Say how the group's quanta look, for its asset check."""
        passed = self.verdict.outcome is Outcome.ACCEPT
        caveats: Counter[str] = Counter()
        for task in self.quanta.tasks.values():
            caveats.update(task.caveats)
        metadata: dict[str, Any] = {
            "verdict": self.verdict.reason,
            "source": self.quanta.source,
            "attempt": self.attempt.id.number,
            "threshold": self.accept.quanta,
            "quanta expected": self.expected,
            "quanta registered": self.registered or 0,
            **({"caveats": counted(caveats)} if caveats else {}),
            "quanta": metadata_table(self._check_row(row) for row in self.rows),
        }
        flawed = bool(caveats) or self.registered != self.expected
        return Check(passed, flawed, f"{self.verdict.reason}.", metadata)

    def _check_row(self, row: TaskRow) -> dict[str, Any]:
        task = self.quanta.tasks.get(row.task)
        own = threshold_of(row.task, self.accept.per_task)
        return {
            "task": row.task,
            "threshold": "" if own is None else f"{own:.1%}",
            **row.whole(),
            "caveats": counted(task.caveats if task else {}),
        }


def _fenced(path: Path) -> str:
    return f"```yaml\n{path.read_text()}```" if path.exists() else f"{path} is gone"
