"""What is requested and what is handed to submit runs: within the limits, and nothing is lost when a run dies."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent
from dagster._core.test_utils import create_run_for_test

from cm_dagster.control.dispatch import wishes
from cm_dagster.control.queue import Batch, batches, hold_life_line, in_work
from cm_dagster.ledger import tags
from cm_dagster.plan.names import StepId
from cm_dagster.policy.states import State
from cm_dagster.spec.sites import LimitsSpec, SubmitSpec
from cm_dagster_tests.integration.ledger_rig import SITE, STEP1, SUBMIT, Rig, make_spec
from cm_dagster_tests.integration.stand_ins import Killed


def wanted(rig: Rig) -> list[tuple[str, int]]:
    return [(wish.id.group, wish.id.number) for wish in wishes(rig.instance, rig.site)]


def due(rig: Rig) -> list[tuple[str, ...]]:
    return [batch.run_ids for batch in batches(rig.instance, rig.site, SUBMIT)]


def settings(**rules: Any) -> dict[str, Any]:
    return {"steps": {"step1": {"pipeline": "#step1", **rules}}}


# ------------------------------------------------------------------------------------------------------- dispatch


def test_nothing_is_requested_before_the_start(rig: Rig) -> None:
    rig.create(start=False)
    rig.plan(3)
    assert wanted(rig) == []


def test_groups_are_requested_in_order_as_slots_come_free(rig: Rig) -> None:
    rig.create()
    rig.plan(5)
    rig.restrict(limits=LimitsSpec(in_flight=3))
    assert wanted(rig) == [("g0000", 1), ("g0001", 1), ("g0002", 1)]
    rig.queue("g0000")
    rig.begin("g0001")
    assert wanted(rig) == [("g0002", 1)]
    rig.queue("g0002")
    assert wanted(rig) == []


def test_the_limit_is_that_of_the_site_not_of_a_campaign(rig: Rig) -> None:
    rig.create()
    rig.create(make_spec(campaign="other", butler={"input": ["a"], "output": "u/other"}))
    rig.plan(2)
    rig.plan(4, campaign="other")
    rig.restrict(limits=LimitsSpec(in_flight=3))
    assert [wish.id.workflow for wish in wishes(rig.instance, rig.site)] == [
        f"camp.step1.{SITE}.g0000.a01",
        f"camp.step1.{SITE}.g0001.a01",
        f"other.step1.{SITE}.g0000.a01",
    ]


def test_scouts_hold_back_the_others_until_they_are_accepted(rig: Rig) -> None:
    rig.create(make_spec(**settings(scouts=2)))
    rig.plan(4)
    assert wanted(rig) == [("g0000", 1), ("g0001", 1)]
    rig.accept("g0000")
    run_id = rig.begin("g0001")
    assert wanted(rig) == []
    rig.terminate(run_id)
    rig.watch()
    assert wanted(rig) == []
    rig.accept("g0001", 2)
    assert wanted(rig) == [("g0002", 1), ("g0003", 1)]


def test_a_failed_group_is_tried_again_so_often_and_no_more(rig: Rig) -> None:
    rig.create(make_spec(**settings(retry={"max": 1})))
    rig.plan(1)
    rig.fail("g0000")
    assert wanted(rig) == [("g0000", 2)]
    rig.fail("g0000", 2)
    assert wanted(rig) == []


def test_what_a_person_cancelled_waits_for_a_person(rig: Rig) -> None:
    rig.create(make_spec(**settings(retry={"max": 3})))
    rig.plan(1)
    rig.terminate(rig.queue("g0000"))
    assert wanted(rig) == []


def test_a_request_has_one_key_until_something_has_happened(rig: Rig) -> None:
    rig.create(make_spec(**settings(retry={"max": 3})))
    rig.plan(1)
    (first,) = wishes(rig.instance, rig.site)
    assert [first] == wishes(rig.instance, rig.site)
    rig.fail("g0000")
    (second,) = wishes(rig.instance, rig.site)
    rig.fail("g0000", 2)
    (third,) = wishes(rig.instance, rig.site)
    assert len({first.run_key, second.run_key, third.run_key}) == 3


def test_a_collected_step_requests_nothing(rig: Rig) -> None:
    rig.create()
    rig.plan(1)
    rig.materialize(dg.AssetKey(["camp", "step1", "collected"]))
    assert wanted(rig) == []


# -------------------------------------------------------------------------------------------------------- batches


def submit_run(rig: Rig, attempts: Sequence[str]) -> str:
    """Make a run of the submit job that has begun."""
    run: dg.DagsterRun = create_run_for_test(
        rig.instance, job_name=SUBMIT, run_config=Batch.of(list(attempts)).config("submit_attempts")
    )
    started = DagsterEvent(dg.DagsterEventType.RUN_START.value, run.job_name)
    rig.instance.report_dagster_event(started, run_id=run.run_id)
    return run.run_id


def test_batches_have_the_sites_size_and_leave_its_limit(rig: Rig) -> None:
    rig.create()
    rig.plan(6)
    rig.restrict(limits=LimitsSpec(in_flight=4), submit=SubmitSpec(batch=2))
    rig.begin("g0005")
    runs = [rig.queue(f"g000{n}") for n in range(5)]
    assert due(rig) == [(runs[0], runs[1]), (runs[2],)]


def test_lost_attempts_come_first_and_hold_their_slots(rig: Rig) -> None:
    rig.create()
    rig.plan(3)
    rig.restrict(limits=LimitsSpec(in_flight=2))
    runs = [rig.queue(f"g000{n}") for n in range(3)]
    rig.submitter.turns = [rig.submitter.dies]
    with pytest.raises(Killed):
        rig.submit(runs[2])
    assert rig.state(runs[2]) is State.CLAIMED
    assert due(rig) == [(runs[2], runs[0])]


def test_a_persons_request_goes_first_then_priority_then_age(rig: Rig) -> None:
    rig.create()
    rig.plan(4)
    own = {tags.BY: "dispatch"}
    old = rig.queue("g0000", more=own)
    urgent = rig.queue("g0001", more={**own, "dagster/priority": "5"})
    person = rig.queue("g0002")
    assert due(rig) == [(person, urgent, old)]


def test_attempts_in_a_living_submit_run_are_not_handed_out_again(rig: Rig) -> None:
    rig.create()
    rig.plan(3)
    rig.restrict(limits=LimitsSpec(in_flight=2))
    one, other = rig.queue("g0000"), rig.queue("g0001")
    run_id = submit_run(rig, [one])
    hold_life_line(rig.site, run_id)
    assert due(rig) == [(other,)]
    # A run that has just begun has no life line yet.
    young = submit_run(rig, [other])
    assert due(rig) == []
    run = rig.instance.get_run_by_id(young)
    assert run is not None
    assert run.status is dg.DagsterRunStatus.STARTED


_HOLDER = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from cm_dagster.control.queue import hold_life_line
hold_life_line(SimpleNamespace(area=Path(sys.argv[1])), sys.argv[2])
print("held", flush=True)
time.sleep(60)
"""


def test_a_dead_submit_run_is_reaped_and_its_attempts_are_taken_up(rig: Rig) -> None:
    rig.create()
    rig.plan(1)
    attempt = rig.queue("g0000")
    run_id = submit_run(rig, [attempt])
    command = [sys.executable, "-c", _HOLDER, str(rig.site.area), run_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"held\n"
        assert in_work(rig.instance, rig.site, SUBMIT) == {attempt}
        assert due(rig) == []
        worker.kill()
    assert due(rig) == [(attempt,)]
    run = rig.instance.get_run_by_id(run_id)
    assert run is not None
    assert run.status is dg.DagsterRunStatus.FAILURE
    assert "process is gone" in rig.end_message(run_id)


def test_a_group_goes_once_at_a_time(rig: Rig) -> None:
    rig.create()
    rig.plan(1)
    rig.begin("g0000")
    twin = rig.queue("g0000")
    assert due(rig) == []
    assert rig.state(twin) is State.CANCELLED


def test_attempts_of_other_sites_are_left_alone(rig: Rig) -> None:
    rig.create()
    rig.plan(1)
    rig.queue("g0000", step=StepId("camp", "step1", "there"))
    assert due(rig) == []
    rig.queue("g0000", step=STEP1)
    assert len(due(rig)) == 1
