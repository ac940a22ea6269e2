"""One life of a deployment's host: daemons, sensors, code location and workers, in processes that can be killed.

The daemons' own loops run here as they are; only their order is fixed. The code location is loaded in the process, and
runs are forks of it (`ForkRunLauncher`).
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from mmap import mmap
from typing import Any

import dagster as dg
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon import sensor as sensor_daemon
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from cm_dagster import definitions
from cm_dagster.assets import jobs
from cm_dagster.assets import steps as step_assets
from cm_dagster.control import finalize, judge
from cm_dagster.control import site as sites
from cm_dagster.control.audit import Audit, audit
from cm_dagster.control.overview import overview
from cm_dagster.control.steps import collected_key
from cm_dagster.crashpoints import set_crash_hook
from cm_dagster.errors import ButlerError
from cm_dagster.ledger.attempts import index_of
from cm_dagster.sensors import dispatch
from cm_dagster.services.butler import ButlerService
from cm_dagster_tests.faults.world import CAMPAIGN, LAST, SITE, World
from cm_dagster_tests.quick_sqlite import spare_sqlite

__all__ = ["HOST", "PAUSE", "WORKER", "Death", "Life", "begin", "prepare_site", "repository"]

LOG = logging.getLogger("cm_dagster_tests.faults")
HOST = "host"
"""All processes of the host die at once."""
WORKER = "worker"
"""Only the process dies that comes to the point."""
PAUSE = "paused:"
"""How the line begins that tells of a pause, where others tell of a death."""
_TICK = 20.0
"""Seconds by which the clock goes on in a round."""
_NIGHT = 3600.0
"""Seconds by which it goes on until the audit."""

# What each life would import anew.
_SHARED = [
    "cm_dagster.ledger.coordinator",
    "cm_dagster.ledger.instance",
    "cm_dagster.ledger.launcher",
    "cm_dagster.testing.fakewms.service",
    "dagster._core.execution.plan.active",
    "dagster._core.executor.in_process",
    "dagster._core.instance.runs.run_domain",
    "dagster._core.storage.local_compute_log_manager",
]
for _name in _SHARED:
    importlib.import_module(_name)

spare_sqlite()

_world: World | None = None
_repository: dg.RepositoryDefinition | None = None


def prepare_site() -> None:
    """Have this process's site talk to the world's cluster where it would read what only real workflows leave."""
    world = _world
    assert world is not None
    vars(judge)["read_quanta"] = world.read_quanta
    vars(finalize)["run_final_job"] = world.run_final_job
    open_butler = ButlerService._butler

    @contextmanager
    def switchable(self: ButlerService, doing: str, *, writeable: bool = False) -> Iterator[Any]:
        if world.orders().get("butler"):
            raise ButlerError(f"the Butler does not answer ({doing}): it is switched off", transient=True)
        with open_butler(self, doing, writeable=writeable) as found:
            yield found

    if not hasattr(open_butler, "switchable"):
        switchable.switchable = True  # type: ignore[attr-defined]
        ButlerService._butler = switchable  # type: ignore[method-assign]


def repository() -> dg.RepositoryDefinition:
    """The definitions of this process, loaded when its life began."""
    assert _repository is not None
    return _repository


@dataclass(frozen=True)
class Death:
    """How a life is to end."""

    points: tuple[str, ...]
    """Crash points, any of which will do."""
    nth: int = 1
    """The how manieth time that any process of the life comes to one of them."""
    how: int = signal.SIGKILL
    """Signal: SIGKILL, SIGTERM, or SIGSTOP."""
    who: str = HOST


class _Hook:
    """Kills at a crash point."""

    def __init__(self, world: World, death: Death) -> None:
        self.world, self.death = world, death
        self.host = os.getpid()
        self.passed = mmap(-1, 8)  # shared with all forks

    @property
    def struck(self) -> bool:
        """Whether it has killed."""
        return self.passed[0] >= self.death.nth

    def __call__(self, name: str) -> None:
        if name not in self.death.points:
            return
        self.passed[0] += 1  # one process at a time comes here
        if self.passed[0] != self.death.nth:
            return
        with self.world.crashes.open("a") as file:
            file.write(f"{PAUSE if self.death.how == signal.SIGSTOP else ''}{name}\n")
        struck = {self.host, os.getpid()} if self.death.who == HOST else {os.getpid()}
        for pid in sorted(struck, key=os.getpid().__eq__):  # itself last, and once: it would pause again when it wakes
            os.kill(pid, self.death.how)


class Life:
    """A life under way."""

    def __init__(
        self, world: World, instance: dg.DagsterInstance, context: WorkspaceProcessContext, hook: _Hook | None
    ) -> None:
        self.world, self.instance, self.context, self._hook = world, instance, context, hook
        self._queue = QueuedRunCoordinatorDaemon(interval_seconds=1)

    def round(self) -> None:
        """Let everything that runs by itself do so once."""
        for work in (
            self._work,
            lambda: _exhaust(sensor_daemon.execute_sensor_iteration(self.context, LOG, None, None)),
            lambda: _exhaust(self._queue.run_iteration(self.context)),
            lambda: _exhaust(execute_run_monitoring_iteration(self.context, LOG)),
        ):
            work()
        self.world.clock.advance(_TICK)

    def _work(self) -> None:
        self.world.work({each.wms_id for each in index_of(self.instance).everything()})

    def audit(self) -> Audit:
        """Do what the nightly run does."""
        self.world.clock.advance(_NIGHT)
        return audit(self.instance, sites.current_site(), LOG, fix_by="the nightly audit")

    def is_done(self) -> bool:
        """Whether the campaign is."""
        made = self.instance.get_latest_materialization_event(collected_key(CAMPAIGN, LAST))  # cheap, most often enough
        return made is not None and overview(self.instance, [CAMPAIGN])[0].state == "done"

    def go(self, rounds: int) -> bool:
        """Live until the campaign is done, for a number of rounds, or until a worker has died as it was to.

        Returns
        -------
        done : `bool`
            Whether the campaign is.
        """
        for _ in range(rounds):
            if self.is_done():
                return True
            self.round()
            if self._hook is not None and self._hook.struck:
                break
        return self.is_done()


def _exhaust(daemon: Iterator[Any]) -> None:
    for error in daemon:
        if error is not None and hasattr(error, "message"):
            LOG.error("%s", error.to_string())


def begin(world: World, live: Callable[[Life], bool], death: Death | None = None) -> int:
    """Begin a life in a new process."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 2
    try:
        code = _live(world, live, death)
    except BaseException:
        logging.getLogger().exception("a life ended by an error")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _live(world: World, live: Callable[[Life], bool], death: Death | None) -> int:
    global _world, _repository
    _world = world
    log = os.open(world.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.setsid()
    os.write(log, f"==== life {os.getpid()} at {time.time():.1f}: {asdict(death) if death else 'quiet'}\n".encode())
    os.environ.update(world.environment())
    world.clock.install()
    sites.known_sites.cache_clear()
    sites.current_site.cache_clear()
    prepare_site()
    vars(sensor_daemon)["is_under_min_interval"] = lambda *_: False  # a round is a tick of each
    # Waiting in a process is waiting in vain here: the clock moves between rounds alone.
    for module in (step_assets, jobs):
        vars(module)["RETRY"] = dg.RetryPolicy(max_retries=0)
    vars(dispatch)["FIRST"] = 1  # so that most of a step's few groups get copies of an attempt, on PostgreSQL
    target = LoadableTargetOrigin(
        executable_path=sys.executable, module_name="cm_dagster.definitions", attribute="defs"
    )
    origin = InProcessCodeLocationOrigin(target, location_name=SITE)
    with dg.DagsterInstance.get() as instance:
        # Dagster opens an instance for each tick, at a tenth of a second each.
        setattr(dg.SensorEvaluationContext, "instance", property(lambda _: instance))  # noqa: B010
        _repository = definitions.defs().get_repository_def()
        with WorkspaceProcessContext(instance, InProcessWorkspaceLoadTarget(origin)) as context:
            hook = _Hook(world, death) if death else None
            set_crash_hook(hook)
            return 0 if live(Life(world, instance, context, hook)) else 1
