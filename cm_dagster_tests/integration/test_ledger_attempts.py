"""The index of attempts tells what a fresh reading of all runs would, and takes no run for what it is not."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable

from cm_dagster.ledger import attempts as module
from cm_dagster.ledger import events, tags
from cm_dagster.ledger.attempts import Attempt, AttemptIndex, index_of, read_attempt
from cm_dagster.ledger.rows import RunRow
from cm_dagster.plan.names import StepId
from cm_dagster.policy.line import Latest
from cm_dagster.policy.states import State
from cm_dagster_tests.integration.ledger_rig import SITE, STEP1, Rig

STEP2 = StepId("camp", "step2", SITE)


def told(index: AttemptIndex) -> object:
    """All that an index tells."""
    groups = [f"g000{n}" for n in range(4)]
    return {
        step.tag: (
            dict(index.of_step(step)),
            index.latest(step),
            index.accepted(step),
            [index.all_of(step, group) for group in groups],
        )
        for step in (STEP1, STEP2)
    } | {"open": index.open_at(SITE), "unswept": sorted(index.unswept_at(SITE), key=lambda a: a.run_id)}


def act(rig: Rig, chance: random.Random, runs: list[str]) -> None:
    """Let something happen to some attempt."""
    step, group = chance.choice([STEP1, STEP2]), f"g000{chance.randrange(4)}"
    if not runs or chance.random() < 0.35:
        runs.append(rig.queue(group, chance.randint(1, 2), step))
        return
    run_id = chance.choice(runs)
    attempt = rig.attempt(run_id)
    match chance.randrange(6):
        case 0:
            events.start(rig.instance, attempt)
        case 1:
            events.submitted(rig.instance, events.Sent(attempt, "7", "s", "r"))
        case 2:
            rig.terminate(run_id, force=chance.random() < 0.5)
        case 3:
            events.accept(rig.instance, events.Acceptance(attempt, "good", {}))
        case 4:
            events.fail(rig.instance, attempt, "bad")
        case _:
            events.cancelled(rig.instance, run_id, "swept", swept=True)


@pytest.mark.parametrize("seed", range(4))
def test_kept_up_to_date_it_tells_what_a_fresh_one_does(rig: Rig, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OVERLAP", timedelta(milliseconds=1))  # so that only changes are read
    chance = random.Random(seed)
    kept = AttemptIndex()
    runs: list[str] = []
    for place in range(40):
        act(rig, chance, runs)
        if chance.random() < 0.5 or place == 39:
            kept.refresh(rig.instance)
            fresh = AttemptIndex()
            fresh.refresh(rig.instance)
            assert told(kept) == told(fresh)


def test_a_refresh_reads_what_has_changed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    index = AttemptIndex()
    runs = [rig.queue(f"g000{n}") for n in range(4)]
    index.refresh(rig.instance)
    seen: list[str] = []
    real = module._attempt

    def reading(row: RunRow) -> Attempt | None:
        seen.append(row.run_id)
        return real(row)

    monkeypatch.setattr(module, "_attempt", reading)
    events.start(rig.instance, rig.attempt(runs[2]))
    seen.clear()
    index.refresh(rig.instance)
    assert set(seen) == {runs[2]}


def test_what_was_written_while_a_clock_was_ahead_does_not_hide_what_comes_after(rig: Rig) -> None:
    run_id = rig.queue("g0000")
    storage: Any = rig.instance.run_storage
    ahead = datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=2)
    with storage.connect() as connection:
        connection.execute(RunsTable.update().values(update_timestamp=ahead))
    index = AttemptIndex()
    index.refresh(rig.instance)
    other = rig.queue("g0001")
    index.refresh(rig.instance)
    assert {attempt.run_id for attempt in index.open_at(SITE)} == {run_id, other}


def test_what_is_committed_late_is_seen(rig: Rig) -> None:
    """A write has the time at which it began, and may have waited for another one since."""
    run_id = rig.queue("g0000")
    index = AttemptIndex()
    index.refresh(rig.instance)
    event = DagsterEvent(dg.DagsterEventType.RUN_CANCELING.value, STEP1.job)
    rig.instance.run_storage.handle_run_event(run_id, event, datetime.now(UTC) - timedelta(seconds=150))
    index.refresh(rig.instance)
    assert index.of_step(STEP1)["g0000"].state is State.CANCELLING


def test_an_attempt_whose_tags_are_not_in_the_table_for_queries_is_seen(rig: Rig) -> None:
    """Dagster's own PostgreSQL storage commits a run before these; a process that dies between leaves them out."""
    run_id = rig.queue("g0000")
    storage: Any = rig.instance.run_storage
    with storage.connect() as connection:
        connection.execute(RunTagsTable.delete().where(RunTagsTable.c.run_id == run_id))
    assert rig.instance.get_runs(dg.RunsFilter(tags={tags.KIND: tags.WORKFLOW})) == []
    assert [attempt.run_id for attempt in index_of(rig.instance).open_at(SITE)] == [run_id]


def test_one_index_for_a_process(rig: Rig) -> None:
    run_id = rig.queue("g0000")
    assert index_of(rig.instance) is index_of(rig.instance)
    assert [attempt.run_id for attempt in index_of(rig.instance).open_at(SITE)] == [run_id]
    assert index_of(rig.instance).open_at("there") == []


def test_copied_tags_are_not_taken_for_ones_own(rig: Rig) -> None:
    """A re-execution copies all tags; before the coordinator has reset them it is nobody's attempt."""
    first = rig.begin("g0000")
    run = rig.instance.get_run_by_id(first)
    assert run is not None
    copy = rig.instance.add_run(
        dg.DagsterRun(run.job_name, run_id="copy", tags=dict(run.tags), parent_run_id=first, root_run_id=first)
    )
    assert read_attempt(rig.instance, copy.run_id) is None
    index = index_of(rig.instance)
    assert [attempt.run_id for attempt in index.all_of(STEP1, "g0000")] == [first]


def test_other_runs_are_no_attempts(rig: Rig) -> None:
    other = rig.instance.add_run(dg.DagsterRun("job", run_id="other", tags={tags.KIND: "submit"}))
    assert read_attempt(rig.instance, other.run_id) is None
    assert read_attempt(rig.instance, "nope") is None


@pytest.mark.parametrize("first_is_turned_away", [False, True])
def test_of_two_with_one_number_the_one_that_is_not_turned_away_counts(rig: Rig, first_is_turned_away: bool) -> None:
    runs = [rig.queue("g0000"), rig.queue("g0000")]
    index = index_of(rig.instance)
    away, stays = runs if first_is_turned_away else reversed(runs)
    rig.terminate(away)
    index.refresh(rig.instance)
    assert index.of_step(STEP1)["g0000"].run_id == stays
    assert index.latest(STEP1) == {"g0000": Latest(1, State.QUEUED)}


def test_the_state_is_that_of_the_run_and_only_refined_by_the_tag(rig: Rig) -> None:
    run_id = rig.begin("g0000")
    rig.instance.add_run_tags(run_id, {tags.STATE: "accepted"})  # a tag alone makes nothing accepted
    assert rig.state(run_id) is State.CLAIMED
    rig.instance.add_run_tags(run_id, {tags.STATE: "running"})
    assert rig.state(run_id) is State.RUNNING
    events.accept(rig.instance, events.Acceptance(rig.attempt(run_id), "good", {}))
    rig.instance.add_run_tags(run_id, {tags.STATE: "running"})
    assert rig.state(run_id) is State.ACCEPTED


def test_cancelled_attempts_are_swept_once(rig: Rig) -> None:
    index = AttemptIndex()
    never, sent, begun = rig.queue("g0000"), rig.begin("g0001"), rig.queue("g0002")
    events.start(rig.instance, rig.attempt(begun))
    for run_id in (never, sent, begun):
        rig.terminate(run_id, force=True)
    index.refresh(rig.instance)
    # Of one that was in the site's hands nobody knows whether it has a workflow.
    assert {attempt.run_id for attempt in index.unswept_at(SITE)} == {sent, begun}
    events.cancelled(rig.instance, sent, "done", swept=True)
    index.refresh(rig.instance)
    assert {attempt.run_id for attempt in index.unswept_at(SITE)} == {begun}


def test_what_is_read_of_the_rows_is_what_dagster_reads(rig: Rig) -> None:
    rig.queue("g0000")
    rig.begin("g0001")
    rig.accept("g0002")
    rig.fail("g0003")
    rig.queue("g0000", 2, more={tags.PARTITION: "g0000", "a tag": 'ü "quoted" \\ {}'})
    records = {record.dagster_run.run_id: record for record in rig.instance.get_run_records()}
    index = AttemptIndex()
    index.refresh(rig.instance)
    assert {attempt.run_id for attempt in index.everything()} == records.keys()
    for attempt in index.everything():
        record = records[attempt.run_id]
        assert attempt.run == record.dagster_run
        assert attempt.status is record.dagster_run.status
        assert attempt.tags.items() <= record.dagster_run.tags.items()
        assert attempt.created == record.create_timestamp.timestamp()
        assert (attempt.started, attempt.ended) == (record.start_time, record.end_time)
        assert read_attempt(rig.instance, attempt.run_id) == attempt
