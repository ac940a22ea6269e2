"""The assets of a step, when they are materialized by hand."""

from __future__ import annotations

import dagster as dg
import pytest
from lsst.daf.butler import Butler

from cm_dagster.assets.jobs import site_jobs, step_jobs
from cm_dagster.assets.steps import step_assets
from cm_dagster.control.steps import Document, chained_key, collected_key, inputs_key
from cm_dagster.control.travel import journeys_of
from cm_dagster.errors import CmError
from cm_dagster.local.survey import Survey
from cm_dagster.sensors import all_sensors
from cm_dagster_tests.integration.ledger_rig import SITE, STEP1, Rig, make_spec


def materialize(rig: Rig, key: dg.AssetKey, group: str | None = None) -> dg.ExecuteInProcessResult:
    assets = step_assets(make_spec(), "step1", site=SITE, home=True)
    return dg.materialize(assets, selection=[key], partition_key=group, instance=rig.instance, raise_on_error=False)


def message(result: dg.ExecuteInProcessResult) -> str:
    (event,) = [event for event in result.all_events if event.is_step_failure]
    data = event.step_failure_data
    return (data.user_failure_data.description if data.user_failure_data else None) or ""


def test_a_workflow_is_not_run_by_a_worker(rig: Rig) -> None:
    """`dagster asset materialize` passes the coordinator by."""
    rig.create()
    rig.plan(1)
    result = materialize(rig, dg.AssetKey(STEP1.asset), "g0000")
    assert not result.success
    assert "nothing was submitted" in message(result)
    assert rig.wms.asked == {}


def test_a_group_that_is_not_accepted_is_not_chained(rig: Rig, hsc_repo: Survey) -> None:
    rig.create()
    rig.plan(2)
    rig.accept("g0000")
    with Butler.from_config(str(hsc_repo.root), writeable=True) as butler:
        butler.collections.register("u/camp/step1/g0000/a01/run")
    with pytest.MonkeyPatch.context() as patch:
        spec = rig.site.spec.model_copy(update={"butler": str(hsc_repo.root)})
        patch.setattr("cm_dagster.assets.steps.current_site", lambda: rig.site)
        rig.site.spec = spec
        bad = materialize(rig, chained_key(STEP1), "g0001")
        assert not bad.success
        assert message(bad) == "not accepted, so not chained: g0001"
        assert Document.CHAINED.read(rig.instance, [STEP1]) == {}
        assert materialize(rig, chained_key(STEP1), "g0000").success
    assert Document.CHAINED.read(rig.instance, [STEP1]) == {STEP1.tag: {"g0000": 1}}
    assert rig.instance.get_materialized_partitions(chained_key(STEP1)) == {"g0000"}
    rig.site.butler(make_spec()).close()


def test_collecting_by_hand_says_what_is_missing(rig: Rig, hsc_repo: Survey) -> None:
    rig.create()
    rig.plan(2)
    rig.site.spec = rig.site.spec.model_copy(update={"butler": str(hsc_repo.root)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cm_dagster.assets.steps.current_site", lambda: rig.site)
        result = materialize(rig, collected_key("camp", "step1"))
    assert not result.success
    assert message(result).startswith("2 of 2 groups of step1 are not accepted and at the home site: g0000, g0001")
    rig.site.butler(make_spec()).close()


@pytest.mark.parametrize("transient", [False, True])
def test_only_what_may_pass_is_tried_again(rig: Rig, monkeypatch: pytest.MonkeyPatch, transient: bool) -> None:
    rig.create()
    tries: list[int] = []

    def fail(*_: object) -> None:
        tries.append(1)
        raise CmError("the Butler has a cold", advice="wait", transient=transient)

    monkeypatch.setattr("cm_dagster.assets.steps.prepare_inputs", fail)
    monkeypatch.setattr("cm_dagster.assets.steps.RETRY", dg.RetryPolicy(max_retries=2, delay=0))
    result = materialize(rig, inputs_key("camp", "step1"))
    assert not result.success
    assert len(tries) == (3 if transient else 1)
    assert transient or message(result) == "the Butler has a cold"


def test_what_follows_a_look_at_the_wms_is_looked_for_three_times_as_often(rig: Rig) -> None:
    made = all_sensors(
        rig.site, jobs=site_jobs(SITE, journeys_of(rig.site)), step_jobs=step_jobs([make_spec()], SITE), names=["camp"]
    )
    every = {sensor.name.removesuffix(f"_{SITE}"): sensor.minimum_interval_seconds for sensor in made}
    assert {name for name, seconds in every.items() if seconds == 30} == {"watch", "campaigns"}
    assert {name for name, seconds in every.items() if seconds == 10} == {"chain", "advance", "dispatch", "submit"}
