"""An independent judge of campaigns: what was lost, done twice, done again, or done too early.

It compares what the WMS says with Dagster's own runs and events, the plans and the Butler's chains, and knows nothing
of how cm_dagster decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

import dagster as dg

from cm_dagster.services.wms import WorkflowReport
from cm_dagster.testing.oracle.facts import Facts
from cm_dagster.testing.oracle.findings import KINDS, Finding, Findings
from cm_dagster.testing.oracle.rules import judge
from cm_dagster.testing.oracle.sources import (
    attempts_in,
    chains_in,
    fake_workflows,
    reported_workflows,
    steps_in,
    unmarked_in,
)

__all__ = ["KINDS", "Finding", "Findings", "examine"]


def examine(
    wms: Path | Iterable[WorkflowReport],
    dagster: Path | dg.DagsterInstance,
    *,
    butler: str | None = None,
    running: bool = False,
    campaigns: Iterable[str] = (),
) -> Findings:
    """Examine campaigns.

    Parameters
    ----------
    wms
        Home of a fake WMS; or what the plugin of another one reports of all workflows.
    dagster
        ``DAGSTER_HOME``, or the instance.
    butler
        Butler repository whose chains are looked at; None for none.
    running
        Whether the campaigns are under way, so that only what is wrong already counts; else they are taken to claim
        that they are complete.
    campaigns
        Their names; by default all that were started.

    Raises
    ------
    FileNotFoundError
        If there is no fake WMS in the folder, or a workflow's submit directory is gone.
    """
    workflows = fake_workflows(wms) if isinstance(wms, Path) else reported_workflows(wms)
    opened = dg.DagsterInstance.from_config(str(dagster)) if isinstance(dagster, Path) else nullcontext(dagster)
    with opened as instance:
        steps = steps_in(instance, campaigns)
        names = {step.campaign for step in steps}
        attempts = [each for each in attempts_in(instance) if each.key.campaign in names]
        unmarked = unmarked_in(instance, steps)
    chains = chains_in(butler, [step.output for step in steps]) if butler else None
    return judge(Facts(workflows, attempts, steps, unmarked, chains), running=running)
