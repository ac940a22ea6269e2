"""Counting SQL statements of this process, and what its PostgreSQL server uses for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import process_time

import sqlalchemy as sa

from cm_dagster_tests.bench.processes import used

__all__ = ["Cost", "cost"]


@dataclass
class Cost:
    """What a piece of work cost."""

    cpu: float = 0.0
    """CPU seconds of this process."""
    server: float = 0.0
    """CPU seconds of PostgreSQL."""
    statements: int = 0

    def __truediv__(self, times: int) -> Cost:
        return Cost(self.cpu / times, self.server / times, round(self.statements / times))


@contextmanager
def cost(postmaster: int) -> Iterator[Cost]:
    """Measure a piece of work.

    Parameters
    ----------
    postmaster
        Process id of the PostgreSQL server.
    """
    found = Cost()

    def count(*_: object) -> None:
        found.statements += 1

    sa.event.listen(sa.Engine, "before_cursor_execute", count)
    server, began = used(postmaster).total, process_time()
    try:
        yield found
    finally:
        found.cpu, found.server = process_time() - began, used(postmaster).total - server
        sa.event.remove(sa.Engine, "before_cursor_execute", count)
