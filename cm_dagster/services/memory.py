"""The memory that the jobs of a workflow asked for, from the configuration that BPS leaves in the submit directory.

That file has everything merged: BPS's own defaults, included files, and what cm_dagster has written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from cm_dagster.policy.rules import Requested

__all__ = ["requested_memory"]

_KEY = "requestMemory"
_FINAL = "finalJob"


def requested_memory(submit_dir: Path, labels: Iterable[str]) -> dict[str, Requested]:
    """Say how much memory jobs asked for, and where in the BPS configuration that stands.

    Parameters
    ----------
    submit_dir
        Submit directory of the workflow.
    labels
        Labels of jobs as the WMS has them: tasks, clusters of tasks, ``finalJob``.

    Returns
    -------
    requested
        By label; one of which that is not known is left out.
    """
    configs = sorted(submit_dir.glob("*_config.yaml"))
    try:
        content = yaml.safe_load(configs[0].read_text(encoding="utf-8")) if configs else None
    except (OSError, yaml.YAMLError):
        content = None
    if not isinstance(content, Mapping):
        return {}
    found = {label: _of(content, label) for label in labels if label}
    return {label: requested for label, requested in found.items() if requested is not None}


def _of(config: Mapping[str, Any], label: str) -> Requested | None:
    """Look up the memory of a label, in BPS's order: cluster, task, site, all."""
    general = (_at(config, "site", str(config.get("computeSite", ""))), config)
    if label == _FINAL:
        return _first(_FINAL, _at(config, _FINAL), *general)
    cluster = label if label in _at(config, "cluster") else _cluster_of(config, label)
    if cluster:
        return _first(f"cluster/{cluster}", _at(config, "cluster", cluster), *general)
    return _first(f"pipetask/{label}", _at(config, "pipetask", label), *general)


def _cluster_of(config: Mapping[str, Any], task: str) -> str:
    """Find the cluster that says how much memory a task gets; a task alone has no say beside it."""
    for name, cluster in _at(config, "cluster").items():
        tasks = [each.strip() for each in str(_at(cluster).get("pipetasks", "")).split(",")]
        if task in tasks and _KEY in _at(cluster):
            return str(name)
    return ""


def _at(content: object, *path: str) -> Mapping[str, Any]:
    """Give the mapping at a path; an empty one if there is none."""
    for part in path:
        content = content.get(part) if isinstance(content, Mapping) else None
    return content if isinstance(content, Mapping) else {}


def _first(place: str, *sections: Mapping[str, Any]) -> Requested | None:
    """Take the first number of megabytes that any of some sections gives; an expression is not one."""
    value = next((section[_KEY] for section in sections if _KEY in section), None)
    try:
        return Requested(place, int(str(value)))
    except ValueError:
        return None
