"""Runs of a step's asset that reach a worker, because the coordinator was passed by: refused with the reason."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from cm_dagster.ledger import campaigns
from cm_dagster.ledger.plans import Plan, save_plan
from cm_dagster.plan.groups import Group
from cm_dagster_tests.system.rig import SITE, Case, Rig

_REASON = "A workflow is run by BPS, never by a Dagster worker, and this run has reached one, so nothing was submitted."


def _materialize(case: Case, home: Path) -> str:
    what = ("--select", "/".join(case.key()), "--partition", "g0000")
    words = ("dagster", "asset", "materialize", "-m", "cm_dagster.definitions", *what)
    return case.rig.program(*words, code=1, DAGSTER_HOME=str(home))


def _check_refused(case: Case, instance: dg.DagsterInstance, output: str) -> None:
    assert _REASON in output
    runs = instance.get_runs(dg.RunsFilter(tags={"dagster/partition": "g0000"}))
    own = [run.status for run in runs if run.asset_selection == {dg.AssetKey(case.key())}]
    assert own == [dg.DagsterRunStatus.FAILURE]
    assert not case.submitted()
    assert not (case.rig.deployment.submit_area(SITE) / case.name).exists()


def test_instance_without_our_coordinator_says_so(rig: Rig) -> None:
    case = rig.describe("stock", visits=[1])
    home = rig.deployment.folder / "stock_home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(home)) as stock:
        campaigns.create(stock, case.spec(), user="pilot")
        group = Group("g0000", "visit = 1", 1, None, "visit 1", "local")
        save_plan(stock, Plan(case.name, "step1", (group,)), begun=False)
        output = _materialize(case, home)
        _check_refused(case, stock, output)
    assert "does not use cm_dagster's run coordinator" in output


def test_materialize_command_beside_the_coordinator_says_so(rig: Rig) -> None:
    case = rig.campaign("beside", visits=[1])
    group = Group("g0000", "visit = 1", 1, None, "visit 1", "local")
    save_plan(rig.instance, Plan(case.name, "step1", (group,)), begun=False)
    output = _materialize(case, rig.deployment.home)
    _check_refused(case, rig.instance, output)
    assert "instead of `dagster asset materialize`, which passes the coordinator by" in output
