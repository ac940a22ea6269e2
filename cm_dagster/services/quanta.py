"""What a workflow did, from what it left behind; and the cure where its final job did not run.

The WMS knows jobs, the provenance graph knows quanta, and only the registry knows what later steps will find: a
workflow whose final job did not run ends as succeeded while its RUN collection is absent or empty.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import yaml

from cm_dagster.errors import ServiceError
from cm_dagster.plan.render import PROVENANCE, READY_LINE, submit_script
from cm_dagster.services.causes import job_cause, passing_cause, setup_cause
from cm_dagster.services.provenance import TaskQuanta, read_tasks
from cm_dagster.services.report import REPORT, read_report, report_command
from cm_dagster.services.shell import kill, spawn, write_text
from cm_dagster.spec.models import StackSpec
from cm_dagster.spec.sites import SiteSpec

__all__ = [
    "FinalJobResult",
    "QuantaSummary",
    "RunCounts",
    "TaskQuanta",
    "final_job_command",
    "read_quanta",
    "run_final_job",
]


class RunCounts(Protocol):
    """The part of the Butler service that is needed here."""

    def run_counts(self, run: str, tasks: Sequence[str]) -> Mapping[str, int] | None:
        """Count the ``<task>_metadata`` datasets of a RUN collection for each task; None if there is no such RUN."""


@dataclass(frozen=True)
class QuantaSummary:
    """What became of the quanta of a workflow."""

    run: str
    """RUN collection of the workflow."""
    tasks: Mapping[str, TaskQuanta]
    """By task label."""
    provenance: bool
    """Whether there is a provenance graph; without one only what was expected is known of the tasks."""
    registered: Mapping[str, int] | None
    """Quanta whose outputs the registry has, by task label; None if the RUN collection is absent."""
    reported: bool = False
    """Whether, for want of a provenance graph, ``pipetask report`` has said what became of them."""

    @property
    def expected(self) -> int:
        """Quanta in the predicted graph."""
        return sum(task.expected for task in self.tasks.values())

    @property
    def succeeded(self) -> int | None:
        """Quanta that succeeded by the provenance graph; None without one."""
        return sum(task.succeeded for task in self.tasks.values()) if self.provenance else None

    @property
    def told(self) -> bool:
        """Whether it is known of quanta that did not succeed what became of them."""
        return self.provenance or self.reported

    @property
    def source(self) -> str:
        """What is known of the quanta from: ``provenance graph``, ``pipetask report``, or ``registry counts`` alone."""
        if self.provenance:
            return "provenance graph"
        return "pipetask report" if self.reported else "registry counts"

    @property
    def registered_total(self) -> int | None:
        """Quanta whose outputs the registry has; None if the RUN collection is absent."""
        return None if self.registered is None else sum(self.registered.values())

    @property
    def complete(self) -> bool:
        """Whether the registry has all that the workflow finished; without provenance, all that was expected."""
        if self.registered is None:
            return False
        want = {name: task.succeeded if self.provenance else task.expected for name, task in self.tasks.items()}
        return all(self.registered.get(name, 0) == number for name, number in want.items())


def read_quanta(submit_dir: Path, butler: RunCounts) -> QuantaSummary:
    """Say what a workflow did.

    Parameters
    ----------
    submit_dir
        Its submit directory.
    butler
        The site's Butler.

    Raises
    ------
    ServiceError
        If the submit directory has no quantum graph.
    ButlerError
        If the repository cannot be asked.
    """
    run, expected = _predicted(_quantum_graph(submit_dir))
    registered = butler.run_counts(run, list(expected))
    if (done := read_tasks(submit_dir / PROVENANCE, expected)) is not None:
        return QuantaSummary(run, done, provenance=True, registered=registered)
    if (done := read_report(submit_dir / REPORT, expected)) is not None:
        return QuantaSummary(run, done, provenance=False, registered=registered, reported=True)
    tasks = {label: TaskQuanta(number) for label, number in expected.items()}
    return QuantaSummary(run, tasks, provenance=False, registered=registered)


def _quantum_graph(submit_dir: Path) -> Path:
    """Find the predicted graph; BPS names it after the workflow."""
    found = sorted(path for path in submit_dir.glob("*.qg") if path.name != PROVENANCE)
    if not found:
        raise ServiceError(
            f"there is no quantum graph in {submit_dir}",
            advice="was the submit directory cleaned? Retry the group, or accept or reject it by hand",
        )
    return found[0]


def _predicted(path: Path) -> tuple[str, dict[str, int]]:
    """Read RUN collection and number of quanta per task from a graph's header, which is cheap at any size."""
    from lsst.pipe.base.quantum_graph import PredictedQuantumGraph

    with PredictedQuantumGraph.open(path) as reader:
        return reader.header.output_run, dict(reader.header.n_task_quanta)


# ------------------------------------------------------------------------------------------------------ final job


@dataclass(frozen=True)
class FinalJobResult:
    """How a final job that was run again ended."""

    ok: bool
    log: Path
    wall: float
    """Seconds."""
    error: ServiceError | None = None


def final_job_command(submit_dir: Path) -> list[str]:
    """Give the command of a workflow's final job.

    BPS writes it as a script that takes the graph and the repository; where the workflow was made without a final job,
    the script is made now, from the workflow's own configuration. Running it any number of times does no harm.

    Parameters
    ----------
    submit_dir
        Submit directory of the workflow.

    Raises
    ------
    ServiceError
        If the submit directory is not complete.
    """
    graph, config = _quantum_graph(submit_dir), _configuration(submit_dir)
    script = submit_dir / "final_job.bash"
    if not script.exists():
        _write_final_job(config, submit_dir)
    return ["bash", str(script), str(graph), _repository(config)]


def _configuration(submit_dir: Path) -> Path:
    """Find the BPS configuration of a workflow."""
    configs = sorted(submit_dir.glob("*_config.yaml"))
    if not configs:
        raise ServiceError(
            f"there is no BPS configuration in {submit_dir}", advice="was the submit directory cleaned? Retry the group"
        )
    return configs[0]


def _repository(config: Path) -> str:
    return str(yaml.safe_load(config.read_text(encoding="utf-8"))["payload"]["butlerConfig"])


def _write_final_job(config: Path, submit_dir: Path) -> None:
    from lsst.ctrl.bps import BPS_SEARCH_ORDER, BpsConfig
    from lsst.ctrl.bps.transform import create_final_command

    create_final_command(BpsConfig(str(config), search_order=BPS_SEARCH_ORDER), str(submit_dir))


def run_final_job(
    submit_dir: Path, stack: StackSpec, site: SiteSpec, *, pass_fds: Sequence[int] = ()
) -> FinalJobResult:
    """Run a workflow's final job again, here, in the campaign's stack.

    Parameters
    ----------
    submit_dir
        Submit directory of the workflow.
    stack
        The campaign's stack.
    site
        The workflow's site; its ``submit.timeout`` holds here too.
    pass_fds
        File descriptors (locks) that the job keeps open.

    Raises
    ------
    ServiceError
        If the submit directory is not complete.
    """
    number = len(list(submit_dir.glob("final-*.log"))) + 1
    script, log = submit_dir / f"final-{number}.sh", submit_dir / f"final-{number}.log"
    stage = _Stage(stack, site, pass_fds)
    started = time.monotonic()
    code = stage.run(final_job_command(submit_dir), script, log)
    if code == 0:
        _report(submit_dir, stage)
    error = None if code == 0 else _final_job_error(log, code, stage.timeout)
    return FinalJobResult(code == 0, log, time.monotonic() - started, error)


def _report(submit_dir: Path, stage: _Stage) -> None:
    """Have ``pipetask report`` say what became of the quanta, where the final job has left no provenance graph.

    Nothing depends on it but what people and error rules are told, so it may fail; its log says why.
    """
    if read_tasks(submit_dir / PROVENANCE, {}) is not None:
        return
    repository = _repository(_configuration(submit_dir))
    command = report_command(repository, _quantum_graph(submit_dir), submit_dir / REPORT)
    stage.run(command, submit_dir / "report.sh", submit_dir / "report.log")


@dataclass(frozen=True)
class _Stage:
    """Where commands on a workflow are run: here, in the campaign's stack."""

    stack: StackSpec
    site: SiteSpec
    pass_fds: Sequence[int]

    @property
    def timeout(self) -> float:
        """Seconds that a command may take."""
        return self.site.submit.timeout * 60.0

    def run(self, command: list[str], script: Path, log: Path) -> int | None:
        """Run a command by a script; gives its exit code, None if it was not done in time."""
        write_text(script, submit_script(self.stack, self.site, command, path=[str(Path(sys.executable).parent)]))
        with log.open("wb") as out:
            process = spawn(script, stdout=out, stderr=out, pass_fds=self.pass_fds)
            try:
                return process.wait(self.timeout)
            except subprocess.TimeoutExpired:
                return None
            finally:
                kill(process)


def _final_job_error(log: Path, code: int | None, timeout: float) -> ServiceError:
    text = log.read_text(encoding="utf-8", errors="replace")
    if READY_LINE not in text:
        # It was not begun, in a stack that has made this very workflow: that says nothing about what it would do.
        why_not = setup_cause(text)
        return ServiceError(why_not.cause, advice=why_not.advice, transient=True)
    why = f"not done after {timeout:.0f} s, and killed" if code is None else job_cause(log)
    passing = code is None or passing_cause(why) is not None
    return ServiceError(f"the final job failed: {why}", advice=f"see {log}", transient=passing)
