"""Runs of ours begin warm: as forks of a process that has imported everything, and not as new programs.

Dagster's code server starts each run as a new interpreter, which imports Dagster, the Butler and us for 3 s before it
works for a tenth of one. Python's fork server does that once. It is a process of its own that has no threads, which a
code server has, and it has loaded no definitions: each run reads the campaigns of its own time. It ends with its code
server, and is started anew should it die.

Uses of ``dagster._grpc``: the context in which the server starts processes, for which Dagster has no setting.
"""

from __future__ import annotations

import multiprocessing
import sys

__all__ = ["warm_runs"]

_SERVER = "dagster._grpc.server"
_PRELOAD = [
    "dagster._cli",
    "dagster._core.execution.api",
    "dagster._core.executor.in_process",
    "dagster._core.instance.runs.run_domain",
    "dagster._core.storage.defs_state.blob_storage_state_storage",
    "dagster._core.storage.local_compute_log_manager",
    "upath.core",
    "dagster._grpc.impl",
    "cm_dagster.definitions",
    "cm_dagster.ledger.coordinator",
    "cm_dagster.ledger.instance",
    "cm_dagster.ledger.launcher",
    "cm_dagster.ledger.storage",
    "lsst.ctrl.bps",
    "lsst.daf.butler.direct_butler",
    "lsst.daf.butler.registry.databases.sqlite",
    "lsst.daf.butler.registry.databases.postgresql",
    "lsst.daf.butler.datastores.fileDatastore",
]
"""What a run imports; what is not installed is left out."""


def warm_runs() -> None:
    """Have the code server that loads this module start its runs as forks; of no effect in any other process."""
    server = sys.modules.get(_SERVER)
    if server is None:
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    # On the class, where it outweighs what the server has set on itself before it loaded us.
    server.DagsterApiServer._mp_ctx = property(lambda _: context, lambda *_: None)
