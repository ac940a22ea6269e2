"""The code location of a benchmark: that of cm_dagster, with a stand-in for what only real workflows leave.

Left out is the reading of a workflow's quantum graph and of its provenance; the registry is asked as ever.
"""

from __future__ import annotations

from pathlib import Path

from cm_dagster.control import judge
from cm_dagster.definitions import defs
from cm_dagster.services.quanta import QuantaSummary, RunCounts, TaskQuanta

__all__ = ["OUTPUT", "QUANTA", "defs", "read_quanta"]

OUTPUT = "u/bench"
"""Output collection of the benchmark's campaign."""
QUANTA = 4
"""Quanta of each workflow."""


def read_quanta(submit_dir: Path, butler: RunCounts) -> QuantaSummary:
    """Stand in for `cm_dagster.services.quanta.read_quanta`: all succeeded if the RUN collection exists."""
    *_, step, group, attempt, _ = submit_dir.parts
    run = f"{OUTPUT}/{step}/{group}/{attempt}/run"
    found = butler.run_counts(run, ["isr"])
    registered = None if found is None else {"isr": QUANTA}
    return QuantaSummary(run, {"isr": TaskQuanta(QUANTA, QUANTA)}, provenance=True, registered=registered)


vars(judge)["read_quanta"] = read_quanta
