"""From BPS's generic workflow to ours."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path

from lsst.ctrl.bps import (
    BpsConfig,
    GenericWorkflow,
    GenericWorkflowJob,
    GenericWorkflowNode,
    GenericWorkflowNodeType,
)

from cm_dagster.local.wms.definition import Job, Options, Workflow

__all__ = ["translate"]

_ENVIRONMENT = re.compile(r"<ENV:(\S+?)>")
_FILE = re.compile(r"<FILE:(\S+?)>")


def translate(config: BpsConfig, generic: GenericWorkflow, folder: Path) -> Workflow:
    """Translate a workflow.

    Parameters
    ----------
    config
        BPS's configuration of the submission.
    generic
        The workflow.
    folder
        Its submit directory.

    Raises
    ------
    NotImplementedError
        If the workflow has nodes that are neither jobs nor no-ops (BPS: ``ordering`` of another type than ``sort`` by
        no-ops).
    """
    jobs = [_job(config, generic, generic.get_job(name), folder, tuple(generic.predecessors(name))) for name in generic]
    final = generic.get_final()
    if final is not None:
        jobs.append(_job(config, generic, final, folder, (), is_final=True))
    counts = dict(generic.job_counts)
    return Workflow(
        name=generic.name,
        attributes={key: str(value) for key, value in generic.run_attrs.items()},
        summary=";".join(f"{label}:{count}" for label, count in counts.items()),
        options=_options(config),
        jobs=tuple(jobs),
    )


def _options(config: BpsConfig) -> Options:
    def setting(name: str, default: object) -> object:
        site = {"curr_site": config["computeSite"]} if "computeSite" in config else {}
        return config.search(name, opt={"curvals": site, "default": default})[1]

    modules = str(setting("preload", "")).replace(",", " ").split()
    return Options(
        cores=int(str(setting("cores", os.cpu_count() or 1))), warm=bool(setting("warm", True)), preload=tuple(modules)
    )


def _job(
    config: BpsConfig,
    generic: GenericWorkflow,
    node: GenericWorkflowNode | GenericWorkflow,
    folder: Path,
    parents: tuple[str, ...],
    *,
    is_final: bool = False,
) -> Job:
    kind = getattr(node, "node_type", None)
    if kind is GenericWorkflowNodeType.NOOP:
        return Job(node.name, node.label, "", {}, str(folder / "logs" / node.name), parents)
    if kind is not GenericWorkflowNodeType.PAYLOAD:
        raise NotImplementedError(f"the local WMS runs jobs and no-ops, not {node.name!r} of {type(node).__name__}")
    exits = node.retry_unless_exit
    memory = int(node.request_memory or 2048)
    return Job(
        name=node.name,
        label=node.label,
        command=_command(generic, node),
        environment={name: _shell(str(value)) for name, value in node.environment.items()},
        log=_log(config, node, folder),
        parents=parents,
        cores=int(node.request_cpus or 1),
        retries=int(node.number_of_retries or 0),
        final_exits=(exits,) if isinstance(exits, int) else tuple(exits or ()),
        memory=memory,
        memory_factor=float(node.memory_multiplier or 1.0),
        memory_limit=int(node.request_memory_max or memory),
        is_final=is_final,
    )


def _command(generic: GenericWorkflow, job: GenericWorkflowJob) -> str:
    """Put a job's command line together; values may hold placeholders again."""
    files = {file.name: file.src_uri for file in generic.get_job_inputs(job.name)}
    text: str = f"{job.executable.src_uri} {job.arguments or ''}".strip().format(**job.cmdvals)
    while (expanded := _FILE.sub(lambda match: files[match[1]], _shell(text))) != text:
        text = expanded
    return text


def _shell(text: str) -> str:
    return _ENVIRONMENT.sub(r"${\1}", text)


def _log(config: BpsConfig, job: GenericWorkflowJob, folder: Path) -> str:
    """Tell where BPS wants a job's logs; parts of the template that the job has no value for are left out."""
    _, template = config.search("subDirTemplate", opt={"replaceVars": False, "default": "{label}"})
    values = defaultdict(str, {name: str(value) for name, value in job.tags.items()} | {"label": job.label})
    return os.path.normpath(str(folder / "logs" / str(template).format_map(values) / str(job.name)))
