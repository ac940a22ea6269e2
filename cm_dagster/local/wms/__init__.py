"""A workflow management system for one machine, as a plugin of BPS.

Named in a BPS configuration, it serves all of ``bps submit|report|status|cancel|restart|ping``::

    wmsServiceClass: cm_dagster.local.wms.LocalWmsService
    computeSite: local
    site:
      local:
        cores: 2               # jobs that run at once on this machine, of all workflows together
        warm: true             # jobs are forked from a process that has imported the stack already
        preload: "my.tasks"    # more modules to import there

Its state is one SQLite file in ``$CM_LOCAL_WMS_HOME`` (default ``~/.cm_local_wms``), which must be a local file
system. Four kinds of process take part::

    bps submit ──inserts the run, pokes──▶ server        one per stack, ends when idle; imports once   (server.py)
                                             │ forks
                                             ▼
                                           runner        one per run, its own session                  (runner.py)
                                             │ forks
                                             ▼
                                           job           one per try, its own session, dies with its runner

None depends on the one before it to stay alive, except that jobs die with their runner. A run whose runner died is
FAILED and can be restarted; one that nobody has begun is PENDING and is begun by the next command that asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cm_dagster.local.wms.service import LocalWmsService

__all__ = ["LocalWmsService"]


def __getattr__(name: str) -> Any:
    # Lazy: the runner and the server must not import BPS.
    if name == "LocalWmsService":
        from cm_dagster.local.wms.service import LocalWmsService

        return LocalWmsService
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
