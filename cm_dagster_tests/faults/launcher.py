"""Run workers as forks of the daemon under test: real processes with their own instance, cheap to start."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import dagster as dg
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from cm_dagster.control import site as sites

__all__ = ["ForkRunLauncher"]


class ForkRunLauncher(RunLauncher, ConfigurableClass):
    """Starts each run in a fork and waits for it; a lock says whether a run's worker lives."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        return cls(inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        run_id = context.dagster_run.run_id
        sys.stdout.flush()
        sys.stderr.flush()
        if (pid := os.fork()) == 0:
            code = 1
            try:
                code = self._work(run_id)
            finally:
                os._exit(code)
        os.waitpid(pid, 0)

    def _work(self, run_id: str) -> int:
        self._lock(run_id)
        # Connections must not be shared with the process that was forked.
        sites.current_site.cache_clear()
        from cm_dagster_tests.faults.life import prepare_site, repository

        with dg.DagsterInstance.get() as instance:
            prepare_site()
            run = instance.get_run_by_id(run_id)
            assert run is not None
            job = repository().get_job(run.job_name)
            if run.asset_selection:
                job = job.get_subset(asset_selection=set(run.asset_selection))
            return 0 if execute_run(InMemoryJob(job), run, instance).success else 1

    def _path(self, run_id: str) -> Path:
        return Path(self._instance.root_directory) / "workers" / run_id

    def _lock(self, run_id: str) -> None:
        self._path(run_id).parent.mkdir(exist_ok=True)
        lock = os.open(self._path(run_id), os.O_RDWR | os.O_CREAT)  # until this process ends
        fcntl.flock(lock, fcntl.LOCK_EX)

    def terminate(self, run_id: str) -> bool:
        return False

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        path = self._path(run.run_id)
        if not path.exists():
            return CheckRunHealthResult(WorkerStatus.FAILED, "it never began")
        with path.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, "it is dead")
