"""The run launcher: attempts have no worker, all other runs go to the deployment's own launcher.

Uses of ``dagster._core``: the base class of launchers and its result types, which Dagster documents only by the
launchers that it ships; a launcher named in dagster.yaml is its extension point.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import dagster as dg
import yaml
from dagster._core.launcher.base import (
    CheckRunHealthResult,
    LaunchRunContext,
    ResumeRunContext,
    RunLauncher,
    WorkerStatus,
)
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from cm_dagster.ledger import events, tags
from cm_dagster.ledger.wish import HOW_TO_CANCEL, UnwishedError, is_attempt, is_wished

__all__ = ["CampaignRunLauncher"]


class CampaignRunLauncher(RunLauncher, ConfigurableClass):
    """Leaves attempts alone and hands all other runs to an inner launcher.

    Parameters
    ----------
    inner
        The deployment's own launcher (default: Dagster's).
    inst_data
        Dagster's record of how this object was configured.
    """

    def __init__(self, inner: RunLauncher, inst_data: ConfigurableClassData | None = None) -> None:
        self._inner = inner
        self._inst_data = inst_data
        super().__init__()  # type: ignore[no-untyped-call]  # Dagster leaves it so

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """Dagster's record of how this object was configured."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Describe the configuration in dagster.yaml: ``inner: {module, class, config}``."""
        inner = {
            "module": dg.Field(str, default_value="dagster._core.launcher"),
            "class": dg.Field(str, default_value="DefaultRunLauncher"),
            "config": dg.Field(dict, default_value={}),
        }
        return {"inner": dg.Field(inner, is_required=False)}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """Make the launcher from its configuration."""
        inner = config_value["inner"]
        data = ConfigurableClassData(inner["module"], inner["class"], yaml.safe_dump(dict(inner["config"])))
        return cls(data.rehydrate(as_type=RunLauncher), inst_data)  # type: ignore[type-abstract]

    @property
    def inner(self) -> RunLauncher:
        """The launcher of all runs that are not attempts."""
        return self._inner

    def register_instance(self, instance: dg.DagsterInstance) -> None:
        """Give both launchers their instance."""
        super().register_instance(instance)
        self._inner.register_instance(instance)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Launch a run that is not an attempt.

        Raises
        ------
        dagster.DagsterInvariantViolationError
            For an attempt: the queue must never hand one over.
        """
        if is_attempt(context.dagster_run):
            raise dg.DagsterInvariantViolationError(
                "an attempt at a workflow was handed to the run launcher; run_coordinator.config in dagster.yaml lacks"
                f" the rule tag_concurrency_limits: [{{key: {tags.KIND}, value: {tags.WORKFLOW}, limit: 0}}]"
            )
        self._inner.launch_run(context)

    def terminate(self, run_id: str) -> bool:
        """Ask for the cancellation of an attempt whose backfill a person cancelled, or terminate another run.

        Dagster's daemons call this; a person's Terminate goes to the run coordinator. The watch sensor cancels.

        Raises
        ------
        UnwishedError
            For an attempt that no person wants cancelled. Returning False would have the daemon ask again at once,
            for ever.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or not is_attempt(run):
            return self._inner.terminate(run_id)
        if run.is_finished:
            return False
        if not is_wished(self._instance, run):
            raise UnwishedError(f"the workflow of run {run_id} goes on", advice=HOW_TO_CANCEL)
        # The run must leave STARTED here, or the cancellation of a backfill never ends.
        events.ask_cancel(self._instance, run, "Its backfill was cancelled; its workflow will be cancelled at the WMS.")
        return True

    def dispose(self) -> None:
        """Release what the inner launcher holds."""
        self._inner.dispose()

    def join(self, timeout: int = 30) -> None:
        """Wait for the inner launcher's workers."""
        self._inner.join(timeout)

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Always, since run monitoring must hear of attempts that all is well."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Say that an attempt is well (it has no worker), or what the inner launcher says of another run."""
        if is_attempt(run) or not self._inner.supports_check_run_worker_health:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return self._inner.check_run_worker_health(run)

    def get_run_worker_debug_info(self, run: dg.DagsterRun, include_container_logs: bool | None = True) -> str | None:
        """Give the inner launcher's notes on a run's worker; an attempt has none."""
        return None if is_attempt(run) else self._inner.get_run_worker_debug_info(run, include_container_logs)

    @property
    def supports_resume_run(self) -> bool:
        """As the inner launcher."""
        return self._inner.supports_resume_run

    def resume_run(self, context: ResumeRunContext) -> None:
        """Resume a run's worker by the inner launcher."""
        self._inner.resume_run(context)
