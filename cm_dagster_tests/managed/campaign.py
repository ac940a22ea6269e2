"""The campaigns: what goes wrong in each group, and how each is to end by its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cm_dagster.local.minidrp import PIPELINE
from cm_dagster.local.survey import Survey

__all__ = ["BUILDING", "CLASSES", "GROUPS", "IN_FLIGHT", "RULES", "Fate", "big", "faults_of", "small"]

GROUPS = 60
_SIZE = 2
"""Visits of a group: 2 quanta of isr and 2 of calibrateImage, with one detector."""
IN_FLIGHT = 6
BUILDING = 4
_TRIES = 3
"""How often the WMS tries a job, see `cm_dagster_tests.system.start`."""

RULES = [
    {"name": "clouds", "task": "calibrate*", "text": "no stars", "min_done": 0.75, "action": "accept"},
    {"name": "node-lost", "text": "node lost", "action": "restart"},
    {"name": "odd-exit", "exit": 139, "action": "rescue"},
    {"name": "too-large", "text": "exceeded its time", "action": "split"},
    {"name": "would-hold", "text": "not this time", "action": "hold", "passive": True},
    {"name": "flaky", "text": "not this time", "action": "retry"},
]


class Fate(NamedTuple):
    """What goes wrong in a group, and what comes of it."""

    fault: Mapping[str, Any]
    attempts: int = 1
    """Number of attempts that it takes."""
    rule: str = ""
    """Error rule that decides."""
    action: str = ""
    """What the rule does."""
    quanta: int = 4
    """Quanta that the registry has of it in the end."""


def _raise(message: str, times: int | None = _TRIES, exception: str = "builtins.RuntimeError") -> dict[str, Any]:
    return {"task": "isr", "action": "raise", "message": message, "times": times, "exception": exception}


CLASSES: Mapping[str, Fate] = {
    "a quantum that fails once": Fate(_raise("once", 1)),
    "a quantum that always fails, enough others": Fate(
        {"task": "calibrateImage", "action": "raise", "message": "no stars"}, 1, "clouds", "accept", quanta=3
    ),
    "too little memory": Fate({"task": "isr", "action": "memory", "megabytes": 100}, 2, "memory-exit", "more-memory"),
    "an odd exit code": Fate({"task": "isr", "action": "exit", "code": 139, "times": _TRIES}, 2, "odd-exit", "rescue"),
    "the database away in a job": Fate(
        _raise("server closed the connection unexpectedly", exception="builtins.ConnectionError"),
        2,
        "database-lost",
        "rescue",
    ),
    "a node that dies": Fate(_raise("node lost"), 1, "node-lost", "restart"),
    "a group that is too large": Fate(_raise("exceeded its time"), 1, "too-large", "split"),
    "what passes": Fate(_raise("not this time"), 2, "flaky", "retry"),
    "nothing to do": Fate({"task": "isr", "action": "nowork", "message": "no light"}),
}
"""By what goes wrong: in this order, the first visit of each group from the first one on; all others are well."""


def faults_of(fates: Sequence[Fate]) -> list[dict[str, Any]]:
    """Write the fault of the first visit of each group, as tasks read it."""
    dimension = {"isr": "exposure", "calibrateImage": "visit"}
    return [
        {**fate.fault, "where": f"{dimension[fate.fault['task']]}={1 + place * _SIZE}"}
        for place, fate in enumerate(fates)
    ]


def big(survey: Survey, faults: str) -> dict[str, Any]:
    """Describe the campaign of sixty groups and a step after them."""
    first = {"pipeline": "#step1", "group_by": {"dimension": "visit", "dataset": "raw", "size": _SIZE}}
    then = {"pipeline": "#step2", "needs": ["step1"], "group_by": {"dimension": "visit", "count": 1}}
    return {
        **_head("big", survey, faults, range(1, 1 + GROUPS * _SIZE)),
        "limits": {"in_flight": IN_FLIGHT, "building": BUILDING},
        "defaults": {"rules": RULES},
        "steps": {"step1": first, "step2": then},
    }


def small(name: str, survey: Survey, faults: str, groups: int, **settings: Any) -> dict[str, Any]:
    """Describe a campaign of some groups in one step."""
    limits = settings.pop("limits", {})
    cut = {"dimension": "visit", "dataset": "raw", "size": _SIZE}
    head = _head(name, survey, faults, range(1, 1 + groups * _SIZE))
    return {**head, "limits": limits, "steps": {"step1": {"pipeline": "#step1", "group_by": cut, **settings}}}


def _head(name: str, survey: Survey, faults: str, visits: range) -> dict[str, Any]:
    return {
        "campaign": name,
        "butler": {
            "input": [survey.defaults],
            "output": f"u/test/{name}",
            "where": f"{survey.where} AND visit IN ({', '.join(map(str, visits))})",
        },
        "pipeline": str(PIPELINE),
        "sites": "local",
        "bps": {"environment": {"CM_MINIDRP_FAULTS": faults}, "requestMemory": 64},
    }
