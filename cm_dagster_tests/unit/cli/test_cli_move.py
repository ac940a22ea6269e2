"""``cm group move`` and ``cm step rebalance``."""

from __future__ import annotations

import dagster as dg
import pytest

from cm_dagster.control.steps import inputs_key
from cm_dagster.ledger.plans import Plan, load_plan, save_plan
from cm_dagster.plan.groups import Group
from cm_dagster.policy.states import State
from cm_dagster_tests.unit.cli.conftest import Cm, Rig

WHY = ("--reason", "south is down")


@pytest.fixture
def two(rig: Rig) -> Rig:
    """A step of four groups, all at the first of two sites; the first has failed, the second runs."""
    rig.create("two", lambda text: text.replace("sites: local", "sites: {local: 0.5, south: 0.5}"))
    rig.start()
    groups = tuple(Group(f"g000{n}", f"visit = {n}", 1, None, "", "local", 10) for n in range(4))
    save_plan(rig.instance, Plan("two", "step1", groups), begun=False)
    rig.instance.report_runless_asset_event(dg.AssetMaterialization(inputs_key("two", "step1")))
    rig.attempt("step1", 0, State.FAILED)
    rig.attempt("step1", 1, State.RUNNING)
    return rig


def sites(rig: Rig) -> list[str]:
    plan = load_plan(rig.instance, "two", "step1")
    assert plan is not None
    return [group.site for group in plan.groups]


def test_groups_are_moved_or_refused_with_the_reason(two: Rig, cm_run: Cm) -> None:
    ran = cm_run("group", "move", "two", "step1", "g000*", "--to", "south", *WHY)
    assert ran.code == 1
    assert "moved: 3 from local to south; 1 refused" in ran.out
    assert "its attempt 1 is running at local (cancel it first" in " ".join(ran.out.split())
    assert sites(two) == ["south", "local", "south", "south"]


def test_a_dry_run_and_json(two: Rig, cm_run: Cm) -> None:
    ran = cm_run("group", "move", "two", "step1", "g0000", "--to", "south", "--dry-run", "--json", *WHY)
    assert ran.code == 0
    (group,) = ran.json["groups"]
    assert (group["group"], group["before"], group["after"], group["done"]) == ("g0000", "local", "south", True)
    assert group["said"] == "attempt 2 is its next"
    assert sites(two) == ["local"] * 4


def test_rebalancing_shows_first_and_moves_with_yes(two: Rig, cm_run: Cm) -> None:
    ran = cm_run("step", "rebalance", "two", "step1", *WHY)
    assert "nothing was done; --yes does it" in ran.out
    assert sites(two) == ["local"] * 4
    ran = cm_run("step", "rebalance", "two", "step1", "--yes", *WHY)
    assert ran.code == 0
    assert sorted(sites(two)) == ["local", "local", "south", "south"]
    assert cm_run("step", "rebalance", "two", "step1", *WHY).out == "nothing is to be moved\n"


def test_a_site_is_emptied_of_what_is_not_under_way(two: Rig, cm_run: Cm) -> None:
    assert cm_run("step", "rebalance", "two", "step1", "--share", "local=0", "--yes", *WHY).code == 0
    assert sites(two) == ["south", "local", "south", "south"]


def test_what_is_asked_for_must_make_sense(two: Rig, cm_run: Cm) -> None:
    ran = cm_run("group", "move", "two", "step1", "--to", "south", *WHY)
    assert (ran.code, "which groups?" in ran.err) == (2, True)
    ran = cm_run("group", "move", "two", "step1", "g0000", "--to", "nowhere", *WHY)
    assert (ran.code, "campaign two has no site 'nowhere'" in ran.err) == (1, True)
    ran = cm_run("step", "rebalance", "two", "step1", "--share", "local=x", *WHY)
    assert (ran.code, "'local=x' is not SITE=NUMBER" in ran.err) == (2, True)
    assert cm_run("step", "rebalance", "two", "step9", *WHY).code == 1
