"""What could not be chained, collected or planned: it is asked for again later and later, or waits for a person."""

from __future__ import annotations

import json
from collections.abc import Mapping
from unittest.mock import Mock

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent
from dagster._core.test_utils import create_run_for_test

from cm_dagster.assets.jobs import site_jobs
from cm_dagster.assets.steps import step_assets
from cm_dagster.control.advance import ADVANCE, Chain, chains_due, moves
from cm_dagster.control.again import failed
from cm_dagster.control.chain import Chained
from cm_dagster.control.lifeline import hold_life_line
from cm_dagster.control.steps import inputs_key
from cm_dagster.errors import ButlerError, LedgerError, NoInputsError
from cm_dagster.ledger import campaigns, tags
from cm_dagster_tests.integration.conftest import Clock
from cm_dagster_tests.integration.ledger_rig import SITE, STEP1, Rig, make_spec
from cm_dagster_tests.integration.test_control_chain import AT, next_moves, run_of

AWAY = ButlerError("no route to the database", transient=True)
BROKEN = ButlerError("no right to write", advice="ask the owner")


class Chainer:
    """Runs the chain job as the sensor asks for it, with a Butler that does as it is told."""

    def __init__(self, rig: Rig, patch: pytest.MonkeyPatch) -> None:
        self.rig, self.patch = rig, patch
        self.keys: list[str] = []
        patch.setattr("cm_dagster.assets.steps.RETRY", dg.RetryPolicy(max_retries=0))
        patch.setattr("cm_dagster.assets.jobs.RETRY", dg.RetryPolicy(max_retries=0))

    def due(self) -> list[Chain]:
        return chains_due(self.rig.instance, self.rig.site)

    def run(self, error: Exception | None = None) -> dg.DagsterRun:
        """Do what Dagster does of the sensor's request."""
        (chain,) = self.due()
        assert chain.run_key not in self.keys  # or Dagster would skip it for ever
        self.keys.append(chain.run_key)
        return self.execute({tags.STEP: chain.step.tag, **chain.tags}, error)

    def execute(self, run_tags: Mapping[str, str], error: Exception | None = None) -> dg.DagsterRun:
        result = Chained(STEP1, AT, {"g0000": run_of("g0000")}, ("g0000",), {"g0000": 1})
        self.patch.setattr("cm_dagster.assets.steps.chain", Mock(side_effect=error, return_value=result))
        config = {"ops": {"chain_step": {"config": {"step": STEP1.tag}}}}
        job = site_jobs(SITE)["chain"]
        done = job.execute_in_process(
            run_config=config, instance=self.rig.instance, tags=dict(run_tags), raise_on_error=False
        )
        return done.dagster_run


@pytest.fixture
def chainer(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Chainer:
    """A step with one accepted group of three, whose chain is due."""
    rig.create()
    rig.plan(3)
    rig.accept("g0000")
    return Chainer(rig, monkeypatch)


def test_a_chain_is_asked_for_again_later_and_later_until_the_butler_is_back(chainer: Chainer, clock: Clock) -> None:
    for least, most in [(54, 60), (108, 120), (216, 240), (432, 480), (810, 900), (810, 900)]:
        chainer.run(AWAY)
        assert chainer.due() == []
        clock.forward(least - 5)  # what the test itself takes is less
        assert chainer.due() == []
        clock.forward(most - least + 5)
        assert len(chainer.due()) == 1
    chainer.rig.accept("g0001")  # also with something new
    chainer.run()
    (fresh,) = chainer.due()  # g0001 was not chained by it
    assert json.loads(fresh.tags[tags.AGAIN])["tries"] == 0


def test_a_chain_that_waits_knows_since_when(chainer: Chainer, clock: Clock) -> None:
    first = chainer.run(AWAY)
    record = chainer.rig.instance.get_run_record_by_id(first.run_id)
    assert record is not None
    clock.forward(100)
    second = chainer.run(AWAY)
    record_of_second = chainer.rig.instance.get_run_record_by_id(second.run_id)
    assert record_of_second is not None
    found = failed(chainer.rig.instance, record_of_second, campaigns.find(chainer.rig.instance, "camp"))
    assert found is not None
    assert found.wait is not None
    assert (found.wait.tries, found.wait.since) == (2, record.end_time)
    assert "no route to the database" in found.wait.cause


def test_a_chain_that_failed_for_good_waits_for_a_decision(chainer: Chainer, clock: Clock) -> None:
    chainer.run(BROKEN)
    clock.forward(7 * 86400)
    assert chainer.due() == []
    chainer.rig.accept("g0001")
    assert chainer.due() == []
    campaigns.sign_off(chainer.rig.instance, "camp", "step3", user="pilot", reason="the rights are given")
    assert chainer.run(BROKEN).status is dg.DagsterRunStatus.FAILURE  # with another key
    assert chainer.due() == []


def test_a_chain_that_failed_for_good_goes_on_after_a_person_ran_it(chainer: Chainer) -> None:
    broken = chainer.run(BROKEN)
    assert chainer.execute(broken.tags).is_success
    chainer.rig.accept("g0001")
    assert len(chainer.due()) == 1


def test_a_chain_whose_process_died_is_asked_for_again(chainer: Chainer, clock: Clock) -> None:
    def begin() -> str:
        (chain,) = chainer.due()
        run: dg.DagsterRun = create_run_for_test(
            chainer.rig.instance, job_name=f"chain_{SITE}", tags={tags.STEP: STEP1.tag, **chain.tags}
        )
        started = DagsterEvent(dg.DagsterEventType.RUN_START.value, run.job_name)
        chainer.rig.instance.report_dagster_event(started, run_id=run.run_id)
        return run.run_id

    dead = begin()
    assert chainer.due() == []
    clock.forward(61)  # nobody holds its life line
    assert chainer.due() == []
    assert "process is gone" in chainer.rig.end_message(dead)
    clock.forward(61)
    assert len(chainer.due()) == 1
    living = begin()
    hold_life_line(chainer.rig.site, living)
    clock.forward(86400)
    assert chainer.due() == []


# ---------------------------------------------------------------------------------------------------------------- moves


class Mover:
    """Runs what `moves` asks for, with inputs and collects that end as they are told."""

    def __init__(self, rig: Rig, patch: pytest.MonkeyPatch) -> None:
        self.rig, self.patch = rig, patch
        self.keys: list[str] = []
        patch.setattr("cm_dagster.assets.steps.RETRY", dg.RetryPolicy(max_retries=0))
        patch.setattr("cm_dagster.assets.steps.current_site", lambda: rig.site)
        patch.setattr("cm_dagster.assets.steps.update_chain", lambda *_: None)

    def due(self) -> list[list[str]]:
        return next_moves(self.rig)

    def run(self, *, inputs: Exception | None = None, collect: Exception | None = None) -> dg.ExecuteInProcessResult:
        (move,) = moves(self.rig.instance, self.rig.site)
        assert move.run_key not in self.keys  # or Dagster would skip it for ever
        self.keys.append(move.run_key)
        self.patch.setattr("cm_dagster.assets.steps.prepare_inputs", Mock(side_effect=inputs, return_value={}))
        self.patch.setattr("cm_dagster.assets.steps.collect", Mock(side_effect=collect, return_value={}))
        spec = campaigns.find(self.rig.instance, "camp").spec
        assets = [asset for step in spec.order() for asset in step_assets(spec, step, site=SITE, home=True)]
        return dg.materialize(
            assets,
            selection=list(move.assets),
            instance=self.rig.instance,
            tags={tags.KIND: ADVANCE, **move.tags},
            raise_on_error=False,
        )


@pytest.fixture
def mover(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Mover:
    rig.create()
    return Mover(rig, monkeypatch)


@pytest.mark.parametrize(
    "error",
    [AWAY, ZeroDivisionError("a bug, or the ledger away"), NoInputsError("no raw", advice="put some into HSC/raw")],
    ids=["Butler", "unknown", "data missing"],
)
def test_inputs_are_asked_for_again_later_and_later(mover: Mover, clock: Clock, error: Exception) -> None:
    for least, most in [(54, 60), (108, 120), (216, 240)]:
        mover.run(inputs=error)
        assert mover.due() == []
        clock.forward(least - 5)
        assert mover.due() == []
        clock.forward(most - least + 5)
        assert mover.due() == [["step1.inputs"]]
    mover.run()
    mover.rig.plan(1)
    assert mover.due() == []


def test_inputs_that_failed_for_good_wait_for_a_decision_or_a_person(mover: Mover, clock: Clock) -> None:
    mover.run(inputs=BROKEN)
    clock.forward(86400)
    assert mover.due() == []
    campaigns.sign_off(mover.rig.instance, "camp", "step3", user="pilot", reason="there are some now")
    assert mover.due() == [["step1.inputs"]]
    mover.run(inputs=BROKEN)
    assert mover.due() == []
    mover.rig.plan(1)  # a person has materialized them
    mover.rig.accept("g0000")
    assert mover.due() == [["step1.collected", "step2.inputs"]]


def test_the_next_step_does_not_begin_while_the_collect_waits(mover: Mover, clock: Clock) -> None:
    mover.rig.plan(1)
    mover.rig.accept("g0000")
    mover.run(collect=AWAY)
    assert mover.due() == []
    clock.forward(61)
    assert mover.due() == [["step1.collected", "step2.inputs"]]
    mover.run(inputs=BROKEN)  # the collect goes well, the inputs do not
    clock.forward(86400)
    assert mover.due() == []


def test_a_gate_that_is_opened_while_the_collect_waits_lets_nothing_begin(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated = {"pipeline": "#step2", "needs": ["step1"], "gate": "sign-off"}
    rig.create(make_spec(steps={"step1": {"pipeline": "#step1"}, "step2": gated}))
    rig.plan(1)
    rig.accept("g0000")
    mover = Mover(rig, monkeypatch)
    assert mover.due() == [["step1.collected"]]
    mover.run(collect=AWAY)
    campaigns.sign_off(rig.instance, "camp", "step2", user="pilot", reason="looked at it")
    assert mover.due() == []


def test_what_does_not_fit_the_ledger_now_is_asked_for_again(mover: Mover, clock: Clock) -> None:
    """E.g. a group was launched again between the sensor's look and the run."""
    mover.rig.plan(1)
    mover.rig.accept("g0000")
    mover.run(collect=LedgerError("1 of 1 groups of step1 are not accepted and at the home site"))
    assert mover.due() == []
    clock.forward(61)
    assert mover.due() == [["step1.collected", "step2.inputs"]]


def test_what_a_person_is_making_is_not_requested(mover: Mover, clock: Clock) -> None:
    spec = campaigns.find(mover.rig.instance, "camp").spec
    (asset,) = [a for a in step_assets(spec, "step1", site=SITE, home=True) if a.key == inputs_key("camp", "step1")]
    job = dg.Definitions(assets=[asset]).resolve_implicit_global_asset_job_def()
    run = mover.rig.instance.create_run_for_job(job, asset_selection=frozenset({asset.key}))
    assert mover.due() == []
    mover.rig.instance.report_run_canceled(run)
    clock.forward(86400)
    assert mover.due() == []  # it was cancelled by a person, too
