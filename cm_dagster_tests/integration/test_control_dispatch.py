"""What is requested now: under all limits, shared, in order; what is set at run time holds at the next look."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest
import sqlalchemy

from cm_dagster.control import downtime
from cm_dagster.control.dispatch import look, why_group_waits, wishes
from cm_dagster.control.floor import Floor
from cm_dagster.control.health import write_health
from cm_dagster.control.limits import change, reset
from cm_dagster.control.queue import batches
from cm_dagster.control.telling import tell
from cm_dagster.ledger import attempts, campaigns, events, tags
from cm_dagster.ledger.decisions import Answer, GroupHold, set_answer, set_hold
from cm_dagster.plan.names import StepId
from cm_dagster.services.wms import WmsState
from cm_dagster.spec.limits import LimitsSpec, RampUp
from cm_dagster.spec.overrides import Scope
from cm_dagster_tests.integration.ledger_rig import SITE, STEP1, SUBMIT, Rig, make_spec

NOW = 1_000_000_000.0
OTHER = StepId("other", "step1", SITE)


def wanted(rig: Rig) -> list[str]:
    """Groups that are requested, with their campaign and number."""
    return [wish.id.workflow.replace(f".step1.{SITE}.", " ") for wish in wishes(rig.instance, rig.site)]


def reasons(rig: Rig) -> list[str]:
    return look(rig.instance, rig.site).reasons


def create(rig: Rig, groups: int = 3, name: str = "camp", **changes: Any) -> None:
    rig.create(make_spec(campaign=name, butler={"input": ["a"], "output": f"u/{name}"}, **changes))
    rig.plan(groups, campaign=name)


def step(**rules: Any) -> dict[str, Any]:
    return {"step1": {"pipeline": "#step1", **rules}}


def set_(rig: Rig, **texts: str) -> None:
    """Set limits of the site as `cm limits set` does."""
    change(rig.instance, Scope("site", SITE), texts, user="anna", reason="why not", site=rig.site.spec)


def set_campaign(rig: Rig, name: str = "camp", step_: str = "", **texts: str) -> None:
    change(rig.instance, Scope("campaign", name, step_), texts, user="anna", reason="why not")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that is set by hand, for our own code."""
    now = [NOW]
    monkeypatch.setattr("time.time", lambda: now[0])
    return now


def forget(rig: Rig) -> None:
    """Let all that is in memory be lost, as when the daemon is started again."""
    attempts._INDEXES.clear()
    rig.site.spec = rig.site.spec.model_copy()


# ---------------------------------------------------------------------------------------------------------- limits


def test_submissions_per_hour_are_counted_from_the_ledger(rig: Rig, clock: list[float]) -> None:
    create(rig, 6)
    rig.restrict(limits=LimitsSpec(in_flight=10, per_hour=3))
    for group in ("g0000", "g0001"):
        rig.begin(group)
        clock[0] += 600
    assert wanted(rig) == ["camp g0002.a01"]
    rig.accept("g0002")
    forget(rig)
    assert wanted(rig) == []
    assert reasons(rig)[0] == (
        f"site {SITE}: 3 of at most 3 submissions in the last 60 minutes, the next from 2001-09-09 02:46 UTC on"
    )
    clock[0] += 2401
    assert wanted(rig) == ["camp g0003.a01"]


def test_what_is_about_to_be_submitted_counts_and_what_failed_before_does_not(rig: Rig, clock: list[float]) -> None:
    create(rig, 6)
    rig.restrict(limits=LimitsSpec(in_flight=10, per_hour=3))
    taken = [rig.queue(group) for group in ("g0000", "g0001")]
    for run_id in taken:
        events.start(rig.instance, rig.attempt(run_id))
    clock[0] += 7200
    assert wanted(rig) == ["camp g0002.a01"]
    events.fail(rig.instance, rig.attempt(taken[0]), "the pipeline is wrong")
    assert wanted(rig) == ["camp g0002.a01", "camp g0003.a01"]


def test_graphs_being_built_have_their_own_limit(rig: Rig) -> None:
    create(rig, 9)
    rig.restrict(limits=LimitsSpec(in_flight=20, building=2))
    for group in ("g0000", "g0001", "g0002"):
        events.start(rig.instance, rig.attempt(rig.queue(group)))
    # Twice as many may be requested as are built, so that none is missing when one is ready.
    assert wanted(rig) == ["camp g0003.a01"]
    assert reasons(rig) == [f"site {SITE}: 3 of at most 2 quantum graphs are being built"]


def test_a_campaign_has_limits_of_its_own(rig: Rig) -> None:
    create(rig, 5, limits={"in_flight": 2})
    create(rig, 5, name="other")
    rig.restrict(limits=LimitsSpec(in_flight=5))
    assert wanted(rig) == ["camp g0000.a01", "other g0000.a01", "camp g0001.a01", "other g0001.a01", "other g0002.a01"]
    rig.begin("g0000")
    rig.begin("g0001")
    assert wanted(rig) == ["other g0000.a01", "other g0001.a01", "other g0002.a01"]
    assert reasons(rig) == ["campaign camp: 2 of at most 2 groups are in flight"]


def test_windows_of_site_and_campaign(rig: Rig, clock: list[float]) -> None:
    create(rig, 2, limits={"windows": ["06:00-07:00"]})
    rig.restrict(limits=LimitsSpec(windows=["sun 01:00-06:30"]))
    assert wanted(rig) == []  # 01:46
    assert reasons(rig) == ["campaign camp: takes groups again from 2001-09-09 06:00 UTC on (windows: 06:00-07:00)"]
    clock[0] += 4.5 * 3600
    assert wanted(rig) == ["camp g0000.a01", "camp g0001.a01"]  # 06:16
    clock[0] += 1800
    assert wanted(rig) == []
    assert reasons(rig) == [f"site {SITE}: takes groups again from 2001-09-16 01:00 UTC on (windows: sun 01:00-06:30)"]


def test_after_an_outage_it_begins_slowly(rig: Rig, clock: list[float]) -> None:
    create(rig, 50)
    rig.restrict(limits=LimitsSpec(in_flight=40, ramp_up=RampUp(after=5, over=60, start=0.1)))
    write_health(rig.instance, SITE, answers=True)
    write_health(rig.instance, SITE, answers=False, cause="refused")
    assert wanted(rig) == []
    assert reasons(rig) == [f"the WMS of site {SITE} has not answered since 2001-09-09 01:46 UTC: refused"]
    clock[0] += 600
    write_health(rig.instance, SITE, answers=True)
    assert len(wanted(rig)) == 4
    rig.begin("g0000")
    assert len(wanted(rig)) == 3
    # A short outage now must not let all go.
    write_health(rig.instance, SITE, answers=False, cause="refused")
    clock[0] += 20
    write_health(rig.instance, SITE, answers=True)
    assert len(wanted(rig)) == 3
    clock[0] += 1780
    assert len(wanted(rig)) == 21
    clock[0] += 1800
    assert len(wanted(rig)) == 39


def test_priority_and_fair_share(rig: Rig) -> None:
    create(rig, 4)
    create(rig, 4, name="other")
    create(rig, 1, name="urgent", priority=1)
    rig.restrict(limits=LimitsSpec(in_flight=6))
    rig.begin("g0000")
    rig.begin("g0001")
    assert wanted(rig) == ["urgent g0000.a01", "other g0000.a01", "other g0001.a01", "camp g0002.a01"]


def test_what_people_asked_for_goes_first_and_stops_automatic_requests(rig: Rig) -> None:
    create(rig, 8)
    create(rig, 8, name="other", priority=9)
    rig.restrict(limits=LimitsSpec(in_flight=3))
    for group in ("g0003", "g0004", "g0005", "g0006"):
        rig.queue(group, more={"dagster/backfill": "b"})
    assert wanted(rig) == []
    campaigns.pause(rig.instance, "camp", user="anna", reason="disk")
    # What is held does not take the place of what may go.
    assert wanted(rig) == ["other g0000.a01", "other g0001.a01", "other g0002.a01"]


# ----------------------------------------------------------------------------------------------- set at run time


def test_limits_that_are_set_hold_at_the_next_look_until_they_are_reset(rig: Rig) -> None:
    create(rig, 9)
    rig.restrict(limits=LimitsSpec(in_flight=2))
    set_(rig, in_flight="4")
    assert len(wanted(rig)) == 4
    forget(rig)
    assert len(wanted(rig)) == 4
    set_campaign(rig, in_flight="1", priority="3")
    assert len(wanted(rig)) == 1
    set_campaign(rig, in_flight="none")
    set_(rig, in_flight="0")
    assert wanted(rig) == []
    assert reset(rig.instance, Scope("site", SITE), [], user="anna", reason="x", site=rig.site.spec)[0].value == 2
    assert len(wanted(rig)) == 2


def test_scouts_can_be_set_at_run_time(rig: Rig) -> None:
    create(rig, 4, steps=step(scouts=1))
    assert wanted(rig) == ["camp g0000.a01"]
    set_campaign(rig, step_="step1", scouts="0")
    assert len(wanted(rig)) == 4


def test_a_pause_stops_everything_but_what_runs(rig: Rig) -> None:
    create(rig, 3)
    campaigns.pause(rig.instance, "camp", "step1", user="anna", reason="wrong calibs")
    assert wanted(rig) == []
    assert reasons(rig)[0].startswith("step step1 of camp is paused by anna since ")
    assert "wrong calibs; `cm step resume camp step1 --reason TEXT` lets it go on" in reasons(rig)[0]
    campaigns.resume(rig.instance, "camp", "step1", user="bob", reason="right now")
    assert len(wanted(rig)) == 3
    campaigns.pause(rig.instance, "camp", user="anna", reason="disk")
    assert wanted(rig) == []
    assert not campaigns.pause(rig.instance, "camp", user="bob", reason="again")
    campaigns.resume(rig.instance, "camp", user="bob", reason="space")
    assert len(wanted(rig)) == 3


# ------------------------------------------------------------------------------------------------ scouts and brake


def test_a_failing_scout_holds_the_step_and_says_so_once(rig: Rig) -> None:
    create(rig, 4, steps=step(scouts=2))
    rig.accept("g0000")
    rig.fail("g0001")
    assert wanted(rig) == []
    assert reasons(rig) == [
        f"step1 of camp at {SITE} waits for its scouts g0001 (failed); the others go when these are accepted"
    ]
    for _ in range(3):
        tell(rig.instance, look(rig.instance, rig.site))
    assert told(rig) == [reasons(rig)[0].replace("(failed)", "(failed: bad)")]
    rig.accept("g0001", 2)
    assert wanted(rig) == ["camp g0002.a01", "camp g0003.a01"]
    tell(rig.instance, look(rig.instance, rig.site))
    assert told(rig)[1:] == [f"step1 of camp at {SITE} goes on"]


def told(rig: Rig) -> list[str]:
    """What stands on the page of the step's asset."""
    found = rig.instance.fetch_observations(dg.AssetKey(STEP1.asset), limit=20, ascending=True).records
    seen = [record.event_log_entry.asset_observation for record in found]
    return [each.description or "" for each in seen if each and not each.partition]


def test_the_page_of_a_run_says_once_why_it_waits(rig: Rig) -> None:
    create(rig, 3)
    rig.restrict(limits=LimitsSpec(in_flight=1))
    rig.begin("g0000")
    asked, in_bulk = rig.queue("g0001"), rig.queue("g0002", more={"dagster/backfill": "b"})
    for _ in range(2):
        tell(rig.instance, look(rig.instance, rig.site))
    assert rig.notes(asked) == f"Waits: site {SITE}: 1 of at most 1 groups are in flight."
    assert rig.notes(in_bulk) == rig.notes(asked)
    set_(rig, in_flight="2")
    tell(rig.instance, look(rig.instance, rig.site))
    campaigns.pause(rig.instance, "camp", user="anna", reason="disk")
    for _ in range(2):
        tell(rig.instance, look(rig.instance, rig.site))
    assert len(rig.notes(asked).splitlines()) == 2
    assert "Waits: campaign camp is paused by anna since " in rig.notes(asked)


def test_the_pages_of_the_next_runs_of_a_backfill_say_why_they_wait(rig: Rig) -> None:
    create(rig, 25, steps=step(scouts=1))
    runs = [rig.queue(f"g{number:04d}", more={"dagster/backfill": "b"}) for number in range(25)]
    rig.begin("g0000", 2)
    tell(rig.instance, look(rig.instance, rig.site))
    waits = f"Waits: step1 of camp at {SITE} waits for its scouts g0000 ("
    told = [run for run in runs if rig.notes(run).startswith(waits)]
    assert len(told) == 20


def test_the_brake_stops_a_step_and_a_person_releases_it(rig: Rig) -> None:
    create(rig, 9, steps=step(brake={"failed": 0.5, "ended": 3}))
    create(rig, 1, name="other")
    for group in ("g0000", "g0001"):
        rig.fail(group)
    assert len(wanted(rig)) == 8
    rig.fail("g0002")
    assert wanted(rig) == ["other g0000.a01"]
    assert "3 of 3 groups that ended have failed (more than 50% are too many)" in reasons(rig)[0]
    forget(rig)
    assert wanted(rig) == ["other g0000.a01"]
    campaigns.resume(rig.instance, "camp", "step1", user="anna", reason="the calibs are there")
    assert len(wanted(rig)) == 7
    for group in ("g0003", "g0004"):
        rig.fail(group)
    assert len(wanted(rig)) == 5
    rig.fail("g0005")
    assert wanted(rig) == ["other g0000.a01"]


def test_a_new_success_releases_the_brake(rig: Rig) -> None:
    create(rig, 9, steps=step(brake={"failed": 0.5, "ended": 3}))
    for group in ("g0000", "g0001", "g0002"):
        rig.fail(group)
    assert wanted(rig) == []
    rig.accept("g0000", 2)
    assert wanted(rig)[0] == "camp g0003.a01"


def test_the_brake_of_one_step_leaves_the_next_alone(rig: Rig) -> None:
    rig.create(make_spec(steps={**step(brake={"in_a_row": 2, "failed": 1.0}), "step2": {"pipeline": "#step2"}}))
    rig.plan(5)
    rig.plan(2, step="step2")
    rig.fail("g0000")
    rig.fail("g0001")
    assert [wish.id.step.step for wish in wishes(rig.instance, rig.site)] == ["step2", "step2"]


# ------------------------------------------------------------------------------------------------------------ costs


def statements(rig: Rig) -> int:
    """Count the SQL statements of the ticks of both sensors, where nothing has changed since the last ones."""
    told: list[str] = []

    def tick() -> None:
        tell(rig.instance, look(rig.instance, rig.site))
        batches(rig.instance, rig.site, SUBMIT)

    def hear(*event: Any) -> None:
        told.append(event[2])

    tick()
    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "before_cursor_execute", hear)
    try:
        tick()
    finally:
        sqlalchemy.event.remove(sqlalchemy.engine.Engine, "before_cursor_execute", hear)
    assert told
    return len(told)


def test_what_a_tick_asks_does_not_grow_with_groups_and_attempts(rig: Rig) -> None:
    create(rig, 5)
    rig.restrict(limits=LimitsSpec(in_flight=4))
    few = statements(rig)
    rig.plan(2000)
    for number in range(12):
        rig.accept(f"g{number:04d}")
        rig.fail(f"g{number + 20:04d}")
    assert statements(rig) == few


# --------------------------------------------------------------------------------------------- decisions on groups


def test_groups_that_are_held_are_left_out(rig: Rig) -> None:
    create(rig, 3)
    set_hold(rig.instance, rig.site.area, STEP1, "g0001", GroupHold("anna", "bad seeing", NOW))
    assert wanted(rig) == ["camp g0000.a01", "camp g0002.a01"]
    set_hold(rig.instance, rig.site.area, STEP1, "g0001", None)
    assert len(wanted(rig)) == 3


def answer(rig: Rig, group: str, after: str, verb: Any, *, by_rule: bool) -> None:
    made = Answer(after, 2, verb, "anna", "why not", NOW, by_rule=by_rule, recipe="{}")
    set_answer(rig.instance, rig.site.area, STEP1, group, made)


def test_what_was_decided_to_follow_an_attempt_is_requested(rig: Rig) -> None:
    create(rig, 4, steps=step(retry={"max": 3}))
    answer(rig, "g0001", rig.fail("g0001"), "rescue", by_rule=False)
    answer(rig, "g0002", rig.fail("g0002"), "retry", by_rule=True)
    answer(rig, "g0003", rig.fail("g0003"), "nothing", by_rule=True)
    found = {wish.id.group: dict(wish.tags) for wish in wishes(rig.instance, rig.site)}
    assert list(found) == ["g0001", "g0000", "g0002"]
    assert found["g0001"] == {tags.WANT: "2", tags.HOW: "{}", tags.USER: "anna"}
    assert found["g0002"] == {tags.WANT: "2", tags.HOW: "{}", tags.BY: "dispatch"}
    # An answer is void once the group has another attempt.
    rig.fail("g0003", 2)
    assert wanted(rig)[-1] == "camp g0003.a03"


# ------------------------------------------------------------------------------------------------------------- why


def why(rig: Rig, group: str, name: str = "camp") -> str:
    floor = Floor(rig.instance, SITE, rig.site.spec)
    return why_group_waits(floor, floor.boards[name], "step1", group)


def test_each_group_that_waits_says_why(rig: Rig) -> None:
    create(rig, 6, steps=step(scouts=1, retry={"max": 1}))
    rig.restrict(limits=LimitsSpec(in_flight=3))
    assert why(rig, "g0000") == "it goes with the next ticks"
    assert why(rig, "g0003") == f"step1 of camp at {SITE} waits for its scouts g0000 (not begun)"
    rig.begin("g0000")
    assert why(rig, "g0000") == ""
    assert why(rig, "g0003") == f"step1 of camp at {SITE} waits for its scouts g0000 (running)"
    rig.accept("g0000", 2)
    rig.begin("g0001")
    assert why(rig, "g0000") == ""
    assert why(rig, "g0002") == "it goes with the next ticks"
    assert why(rig, "g0005") == "there is not room for all: 3 groups of its campaign go before it"
    queued = rig.queue("g0005", more={tags.BY: "dispatch"})
    assert why(rig, "g0005") == "there is not room for all: 3 groups of its campaign go before it"
    rig.terminate(queued)
    assert why(rig, "g0005") == ""
    rig.begin("g0002")
    assert why(rig, "g0003") == f"site {SITE}: 3 of at most 3 groups are in flight"
    set_campaign(rig, in_flight="1")
    set_(rig, in_flight="9")
    assert why(rig, "g0003") == "campaign camp: 3 of at most 1 groups are in flight"
    rig.fail("g0003")
    assert why(rig, "g0003") == "campaign camp: 3 of at most 1 groups are in flight"
    rig.fail("g0003", 2)
    assert why(rig, "g0003") == ""
    campaigns.pause(rig.instance, "camp", user="anna", reason="disk")
    assert why(rig, "g0004").startswith("campaign camp is paused by anna since ")
    set_hold(rig.instance, rig.site.area, STEP1, "g0004", GroupHold("anna", "bad seeing", NOW))
    assert why(rig, "g0004") == (
        "it is held by anna since 2001-09-09 01:46 UTC: bad seeing; cm group release camp step1 g0004 --reason TEXT"
    )


def test_a_stopped_site_takes_nothing_and_what_runs_goes_on(rig: Rig) -> None:
    create(rig, 3)
    flying, asked = rig.begin("g0000"), rig.queue("g0001")
    lost = rig.queue("g0002")
    events.start(rig.instance, rig.attempt(lost))  # its submission was interrupted, so its workflow may not exist
    downtime.stop(rig.instance, SITE, user="anna", reason="new disks")
    assert wanted(rig) == []
    assert batches(rig.instance, rig.site, SUBMIT) == []
    (why,) = reasons(rig)
    assert why.startswith(f"site {SITE} is stopped since ")
    assert why.endswith(f" by anna: new disks; cm site start {SITE} --reason TEXT")
    outlook = look(rig.instance, rig.site)
    board = outlook.floor.boards["camp"]
    assert why_group_waits(outlook.floor, board, "step1", "g0001") == why
    tell(rig.instance, outlook)
    assert f"Waits: {why}." in rig.notes(asked)
    rig.wms.set(rig.attempt(flying).wms_id, WmsState.SUCCEEDED)
    assert "1" in rig.watch().summary  # it is asked for all the same
    assert downtime.start(rig.instance, SITE, user="anna", reason="done") is not None
    assert {run for batch in batches(rig.instance, rig.site, SUBMIT) for run in batch.run_ids} == {asked, lost}


def test_a_downtime_ends_at_its_time(rig: Rig, clock: list[float]) -> None:
    create(rig, 1)
    downtime.stop(rig.instance, SITE, user="anna", reason="new disks", until=NOW + 60)
    assert reasons(rig)[0].endswith("new disks (until 2001-09-09 01:47 UTC); cm site start here --reason TEXT")
    clock[0] += 60
    assert wanted(rig) == ["camp g0000.a01"]
