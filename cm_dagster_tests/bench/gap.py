"""How long a step keeps the next one waiting, at the ticks that a site has by default: what each part of it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean

from rich.table import Table

from cm_dagster.ledger import tags
from cm_dagster.plan.names import AttemptId
from cm_dagster.spec.sites import SiteSpec
from cm_dagster.testing.fakewms.session import Workflow
from cm_dagster_tests.bench.land import SITE, Land, open_land

__all__ = ["bench"]

_GROUPS = 5
_STEPS = 7
_TICK = float(SiteSpec.model_fields["tick"].default)
_DEQUEUE = 10
"""Seconds between two looks of Dagster's daemon at its queue, as in ``dagster.yaml``."""
_PATIENCE = 300.0
"""Seconds that a step may take."""


def bench(folder: Path) -> Table:
    """Measure the way from step to step in a campaign of few groups."""
    with open_land(folder / "land", _GROUPS, tick=_TICK, dequeue=_DEQUEUE) as land:
        names = land.create(_GROUPS, _STEPS)
        with land.answering():
            land.start()
            land.wait_for_end(names[-1], _PATIENCE * _STEPS)
        return _table(_gaps(land, names))


def _gaps(land: Land, names: Sequence[str]) -> list[tuple[float, ...]]:
    """Give the times between the marks of each gap."""
    flows, runs = _flows(land), _runs(land)
    found: list[tuple[float, ...]] = []
    for before, after in pairwise(names):
        ended = max(flow.ended or 0.0 for flow in flows[before])
        accepted = max(end for _, end in runs[before])
        asked = min(made for made, _ in runs[after])
        sent = min(flow.submitted for flow in flows[after])
        found.append((accepted - ended, asked - accepted, sent - asked, sent - accepted, sent - ended))
    return found


def _flows(land: Land) -> Mapping[str, list[Workflow]]:
    found: dict[str, list[Workflow]] = {}
    for flow in land.wms[SITE].workflows():
        found.setdefault(AttemptId.from_workflow(flow.name).step.step, []).append(flow)
    return found


def _runs(land: Land) -> Mapping[str, list[tuple[float, float]]]:
    """Give when attempts were requested and accepted, by step."""
    found: dict[str, list[tuple[float, float]]] = {}
    for each in land.instance.get_run_records():
        if each.dagster_run.tags.get(tags.KIND) == tags.WORKFLOW:
            step = each.dagster_run.tags[tags.STEP].split("/")[1]
            found.setdefault(step, []).append((each.create_timestamp.timestamp(), each.end_time or 0.0))
    return found


def _table(gaps: Sequence[Sequence[float]]) -> Table:
    made = Table(title=f"From the end of a step at the WMS to the next step; a tick each {_TICK:.0f} s; seconds")
    for column in ("", "acceptance", "then first request", "then submission", "acceptance to submission", "all"):
        made.add_column(column, justify="right")
    parts = list(zip(*gaps, strict=True))
    rows = {f"{number} to {number + 1}": gap for number, gap in enumerate(gaps, 1)}
    for name, row in {**rows, "mean": list(map(mean, parts)), "most": list(map(max, parts))}.items():
        made.add_row(name, *(f"{part:.1f}" for part in row))
    return made
