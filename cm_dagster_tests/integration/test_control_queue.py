"""What is requested and what is handed to submit runs: within the limits, and nothing is lost when a run dies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent
from dagster._core.test_utils import create_run_for_test

from cm_dagster.control.dispatch import why_group_waits, wishes
from cm_dagster.control.floor import Floor
from cm_dagster.control.health import write_health
from cm_dagster.control.lifeline import hold_life_line
from cm_dagster.control.queue import Batch, batches, in_work
from cm_dagster.control.waiting import wait_of
from cm_dagster.ledger import campaigns, events, tags
from cm_dagster.plan.names import StepId
from cm_dagster.policy.states import State
from cm_dagster.spec.limits import LimitsSpec, RampUp
from cm_dagster.spec.sites import SubmitSpec
from cm_dagster_tests.integration.conftest import Clock
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
        f"other.step1.{SITE}.g0000.a01",
        f"camp.step1.{SITE}.g0001.a01",
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


def test_a_backfill_of_very_many_groups_does_not_flood_the_wms(rig: Rig) -> None:
    rig.create(make_spec(**settings(scouts=1)))
    rig.plan(30)
    rig.restrict(limits=LimitsSpec(in_flight=4), submit=SubmitSpec(batch=20))
    runs = [rig.queue(f"g{n:04d}", more={"dagster/backfill": "b"}) for n in range(29)]
    assert due(rig) == [(runs[0],)]  # the scout
    alone = rig.queue("g0029")
    assert due(rig) == [(alone, runs[0])]
    events.accept(rig.instance, events.Acceptance(rig.attempt(runs[0]), "good", {}))
    assert due(rig) == [(alone, *runs[1:4])]


def test_a_paused_step_is_not_submitted_whoever_asked(rig: Rig) -> None:
    rig.create()
    rig.plan(3)
    lost = rig.queue("g0001")
    rig.submitter.turns = [rig.submitter.dies]
    with pytest.raises(Killed):
        rig.submit(lost)
    rig.queue("g0000")
    campaigns.pause(rig.instance, "camp", "step1", user="anna", reason="disk")
    assert due(rig) == [(lost,)]  # it is in the site's hands already
    campaigns.resume(rig.instance, "camp", "step1", user="anna", reason="space")
    assert len(due(rig)[0]) == 2


def test_what_is_submitted_again_keeps_to_the_limits_too(rig: Rig) -> None:
    rig.create()
    rig.plan(6)
    rig.restrict(limits=LimitsSpec(in_flight=6, building=2), submit=SubmitSpec(batch=20))
    lost = [rig.queue(f"g000{n}") for n in range(3)]
    for run_id in lost:
        events.start(rig.instance, rig.attempt(run_id))
    rig.queue("g0003")
    assert due(rig) == [tuple(lost[:2])]
    hold_life_line(rig.site, submit_run(rig, lost[:1]))
    assert due(rig) == [(lost[1],)]


def test_what_an_outage_has_kept_in_the_hands_of_the_site_goes_slowly_too(rig: Rig, clock: Clock) -> None:
    rig.create()
    rig.plan(30)
    rig.restrict(limits=LimitsSpec(in_flight=30, ramp_up=RampUp(after=5, over=60, start=0.1)))
    lost = [rig.queue(f"g{n:04d}") for n in range(30)]
    write_health(rig.instance, SITE, answers=True)
    rig.wms.down = True
    rig.submit(*lost)
    clock.forward(600)
    rig.wms.down = False
    write_health(rig.instance, SITE, answers=True)
    assert due(rig) == [tuple(lost[:3])]
    rig.submit(*lost[:3])
    assert due(rig) == []
    floor = Floor(rig.instance, SITE, rig.site.spec)
    said = why_group_waits(floor, floor.boards["camp"], "step1", "g0029")
    assert said.startswith(f"site {SITE}: 3 of at most 3 submissions since then: the WMS is back since ")
    clock.forward(1800)
    assert len(due(rig)[0]) == 13


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
from cm_dagster.control.lifeline import hold_life_line
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


def die(rig: Rig, attempts: Sequence[str]) -> str:
    """Have a run of the submit job die that held these attempts."""
    run_id = submit_run(rig, attempts)
    run = rig.instance.get_run_by_id(run_id)
    assert run is not None
    rig.instance.report_run_failed(run, "its process was killed")
    return run_id


def test_attempts_of_a_batch_that_died_are_tried_singly(rig: Rig) -> None:
    rig.create()
    rig.plan(5)
    one, two, three, other, last = (rig.queue(f"g000{n}") for n in range(5))
    die(rig, [one, two, three])
    assert due(rig) == [(other, last), (one,), (two,), (three,)]
    # One that failed by itself has said on its attempts why, and does not count.
    failed = rig.instance.get_run_by_id(submit_run(rig, [other]))
    assert failed is not None
    rig.instance.add_run_tags(failed.run_id, {"dagster/failure_reason": "STEP_FAILURE"})
    rig.instance.report_run_failed(failed)
    assert due(rig)[0] == (other, last)


def test_an_attempt_that_kills_one_process_after_another_waits_longer_each_time(rig: Rig, clock: Clock) -> None:
    rig.create()
    rig.plan(2)
    bad, good = rig.queue("g0000"), rig.queue("g0001")
    die(rig, [bad, good])
    for tries, seconds in enumerate([60, 120, 240], 1):
        last = die(rig, [bad])
        for _ in range(2):
            assert due(rig) == [(good,)]
        wait = wait_of(rig.attempt(bad))
        assert wait is not None
        assert (wait.tries, last in wait.cause) == (tries, True)
        assert last in rig.notes(bad)
        clock.forward(seconds * 0.8)
        assert due(rig) == [(good,)]
        clock.forward(seconds * 0.2)
        assert due(rig) == [(bad,), (good,)]


def test_a_death_counts_once(rig: Rig, clock: Clock) -> None:
    rig.create()
    rig.plan(1)
    run_id = rig.queue("g0000")
    for _ in range(2):
        die(rig, [run_id])
    assert due(rig) == []
    clock.forward(61)
    rig.submitter.turns = [rig.submitter.shaky]
    rig.submit(run_id)
    assert due(rig) == []
    wait = wait_of(rig.attempt(run_id))
    assert wait is not None
    assert (wait.tries, "locked" in wait.cause) == (2, True)
    clock.forward(121)
    assert due(rig) == [(run_id,)]


def test_the_submit_area_is_cleared_of_what_is_over(rig: Rig, clock: Clock) -> None:
    rig.create()
    going, over, gone = submit_run(rig, []), submit_run(rig, []), "a-run-that-was-deleted"
    run = rig.instance.get_run_by_id(over)
    assert run is not None
    rig.instance.report_run_failed(run)
    held = submit_run(rig, [])
    hold_life_line(rig.site, held)
    folder = rig.site.area / "_runs"
    for run_id in (going, over, gone):
        (folder / run_id).touch()
    (folder / f".{over}").touch()
    os.utime(folder / f".{over}", (0, 0))
    (folder / ".a-new-run").touch()  # about to become a life line
    names = {
        age: time.strftime("%Y%m%dT%H%M%S-0123abcd", time.gmtime(time.time() - age * 86400)) for age in (0, 29, 31, 400)
    }
    for name in names.values():
        (rig.site.area / "_batches" / name).mkdir(parents=True)
        (rig.site.area / "_batches" / name / "batch.log").touch()
    due(rig)
    assert {path.name for path in folder.iterdir()} == {going, ".a-new-run", held}
    assert {path.name for path in (rig.site.area / "_batches").iterdir()} == {names[0], names[29]}
    (folder / over).touch()
    due(rig)
    assert (folder / over).exists()  # not in each tick
    clock.forward(3601)
    due(rig)
    assert not (folder / over).exists()


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
