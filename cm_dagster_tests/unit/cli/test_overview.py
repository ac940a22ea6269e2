"""Where campaigns stand: counts that add up, states, and reasons with the real error."""

from __future__ import annotations

import dagster as dg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cm_dagster.control.health import Health, Silence, SiteHealth, write_health, write_progress
from cm_dagster.control.overview import StepView, groups_of, overview
from cm_dagster.control.steps import Board, collected_key, inputs_key
from cm_dagster.errors import ButlerError, LedgerError
from cm_dagster.ledger import campaigns, events, tags
from cm_dagster.ledger.attempts import Attempt, AttemptIndex, read_attempt
from cm_dagster.ledger.campaigns import Campaign
from cm_dagster.ledger.plans import Plan
from cm_dagster.plan.groups import Group
from cm_dagster.plan.names import AttemptId, StepId, group_name
from cm_dagster.policy.backoff import Wait
from cm_dagster.policy.progress import StepState
from cm_dagster.policy.states import GroupState, State
from cm_dagster.spec import CampaignSpec
from cm_dagster_tests.attempts import invent
from cm_dagster_tests.unit.cli.conftest import Rig

SPEC = CampaignSpec.model_validate(
    {
        "campaign": "rc2",
        "butler": {"input": ["a"], "output": "out"},
        "pipeline": "p.yaml",
        "sites": ["east", "west"],
        "steps": {"step1": {"pipeline": "#step1"}},
    }
)
KNOWN = {State.ACCEPTED, State.FAILED, State.CANCELLED, State.QUEUED, State.ENDED, State.FINALIZING}
"""States in which no answer of the WMS is missing."""


class Index(AttemptIndex):
    """An index of invented attempts."""

    def __init__(self, attempts: list[Attempt]) -> None:
        super().__init__()
        for attempt in attempts:
            self._add(attempt)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    groups=st.lists(st.tuples(st.sampled_from(["east", "west"]), st.lists(st.sampled_from(State), max_size=3))),
    deaf=st.sets(st.sampled_from(["east", "west"])),
    strays=st.integers(0, 3),
)
def test_counts_always_add_up(groups: list[tuple[str, list[State]]], deaf: set[str], strays: int) -> None:
    made = [Group(group_name(place, len(groups)), "", 1, None, "", site) for place, (site, _) in enumerate(groups)]
    attempts = [
        invent(AttemptId(StepId("rc2", "step1", site), made[place].name, number), state)
        for place, (site, states) in enumerate(groups)
        for number, state in enumerate(states, 1)
    ]
    # Attempts at groups that the plan does not have must not be counted.
    gone = StepId("rc2", "step1", "east")
    attempts += [invent(AttemptId(gone, f"g9{place:03d}", 1), State.RUNNING) for place in range(strays)]
    board = Board(Campaign(SPEC, started=True), {"step1": Plan("rc2", "step1", tuple(made))})
    silent, deaf_wms = Silence(1.0, "nothing is heard of it"), Health(answers=False)
    kinds = {"east": SiteHealth(silence=silent), "west": SiteHealth(deaf_wms)}
    health = {site: kinds[site] if site in deaf else SiteHealth() for site in ("east", "west")}

    views = groups_of(board, "step1", Index(attempts), health)

    assert [view.group.name for view in views] == [group.name for group in made]
    counts = {state: sum(view.state is state for view in views) for state in GroupState}
    document = StepView("step1", StepState.RUNNING, counts).to_json()["groups"]
    assert document.pop("total") == sum(document.values()) == len(groups)
    for view, (site, states) in zip(views, groups, strict=True):
        if site in deaf and states and states[-1] not in KNOWN:
            assert view.state is GroupState.UNKNOWN
        if not states:
            assert view.state is GroupState.PLANNED


def fail_asset(rig: Rig, key: dg.AssetKey, error: Exception, *, policy: dg.RetryPolicy | None = None) -> None:
    """Run an asset that fails, as Dagster runs it."""

    @dg.asset(key=key, retry_policy=policy)
    def failing() -> None:
        raise error

    assert not dg.materialize([failing], instance=rig.instance, raise_on_error=False).success


def test_failed_inputs_block_the_step_with_their_error(rig: Rig) -> None:
    rig.start()
    error = dg.Failure("step1 requires raw, which HSC/defaults lacks", metadata={"advice": "ingest it"})
    fail_asset(rig, inputs_key("rc2", "step1"), error)
    (view,) = overview(rig.instance)
    step = view.steps[0]
    assert (view.state, step.state, step.total) == ("blocked", "blocked", 0)
    assert step.reason == (
        "the inputs of step1 failed: step1 requires raw, which HSC/defaults lacks."
        " What to do: ingest it; materialize rc2/step1/inputs in the UI when that is put right"
    )
    rig.plan("step1", 3)
    assert overview(rig.instance)[0].steps[0].state == "running"


def test_inputs_that_failed_by_an_outage_say_which(rig: Rig) -> None:
    rig.start()
    fail_asset(
        rig,
        inputs_key("rc2", "step1"),
        ButlerError("the repository does not answer", transient=True),
        policy=dg.RetryPolicy(max_retries=1),
    )
    (view,) = overview(rig.instance)
    step = view.steps[0]
    assert step.reason.startswith("waits: the inputs of step1 failed: the repository does not answer; tried once since")
    assert "next try at" in step.reason
    assert (view.state, step.state) == ("running", "planning")  # it goes on by itself


def test_inputs_that_failed_for_good_are_asked_for_again_after_a_decision(rig: Rig) -> None:
    rig.start()
    fail_asset(rig, inputs_key("rc2", "step1"), dg.Failure("no right to read"))
    assert overview(rig.instance)[0].steps[0].state == "blocked"
    campaigns.sign_off(rig.instance, "rc2", "step3", user="pilot", reason="a decision")
    step = overview(rig.instance)[0].steps[0]
    assert (step.state, step.reason) == ("planning", "its inputs are being checked and its groups made")


def test_an_error_that_is_not_ours_is_shown_with_its_class(rig: Rig) -> None:
    rig.start()
    fail_asset(rig, inputs_key("rc2", "step1"), ZeroDivisionError("division by zero"))
    assert "failed: ZeroDivisionError: division by zero" in overview(rig.instance)[0].steps[0].reason


def test_a_failed_collect_blocks_the_step(rig: Rig) -> None:
    rig.start()
    rig.plan("step1", 1)
    rig.attempt("step1", 0, State.ACCEPTED)
    assert overview(rig.instance)[0].steps[0].state == "finishing"
    rig.chain("step1")
    fail_asset(rig, collected_key("rc2", "step1"), dg.Failure("the chain cannot be written"))
    step = overview(rig.instance)[0].steps[0]
    assert step.state == "blocked"
    assert "collecting step1 failed: the chain cannot be written" in step.reason
    rig.collect("step1")
    assert (overview(rig.instance)[0].steps[0].state, overview(rig.instance)[0].steps[0].reason) == ("done", "")


def test_a_failed_chain_blocks_the_step(rig: Rig) -> None:
    rig.start()
    rig.plan("step1", 1)
    rig.attempt("step1", 0, State.ACCEPTED)

    @dg.op
    def chain_step() -> None:
        raise dg.Failure("no right to write", metadata={"advice": "ask the owner"})

    @dg.job(name="chain_local")
    def chain_job() -> None:
        chain_step()

    tag = StepId("rc2", "step1", "local").tag
    done = chain_job.execute_in_process(instance=rig.instance, tags={tags.STEP: tag}, raise_on_error=False)
    step = overview(rig.instance)[0].steps[0]
    assert step.state == "blocked"
    assert "chaining step1 at local failed: no right to write. What to do: ask the owner" in step.reason
    assert done.run_id in step.reason


def test_a_chain_that_waits_is_told_while_the_step_runs(rig: Rig) -> None:
    rig.start()
    rig.plan("step1", 2)
    rig.attempt("step1", 0, State.ACCEPTED)
    rig.attempt("step1", 1, State.RUNNING)

    @dg.op
    def chain_step() -> None:
        raise ButlerError("no route to the database", transient=True)

    @dg.job(name="chain_local")
    def chain_job() -> None:
        chain_step()

    tag = StepId("rc2", "step1", "local").tag
    chain_job.execute_in_process(instance=rig.instance, tags={tags.STEP: tag}, raise_on_error=False)
    step = overview(rig.instance)[0].steps[0]
    assert step.state == "running"
    assert "waits: chaining step1 at local failed: no route to the database; tried once" in step.reason


def test_groups_that_wait_say_for_what(rig: Rig) -> None:
    rig.start()
    rig.plan("step1", 6)
    runs = [rig.attempt("step1", place, State.RUNNING) for place in range(6)]
    waits = {
        run: Wait(f"the WMS does not show workflow {n}", n + 1, 1000.0, 2000.0, 3000.0 + n)
        for n, run in enumerate(runs)
    }
    del waits[runs[5]]
    write_progress(rig.instance, "local", {runs[5]: {"running": 1}}, waits)
    why = Wait("the repository's database is locked", 2, 0.0, 60.0, 120.0)
    events.wait(rig.instance, attempt_of(rig, runs[5]), why)
    step = overview(rig.instance)[0].steps[0]
    assert (
        "g0000, g0001, g0002 and 2 more wait: the WMS does not show workflow 0;"
        " tried 5 times since 1970-01-01T00:16:40Z, next try at 1970-01-01T00:50:00Z"
    ) in step.reason
    assert "g0005 waits: the repository's database is locked; tried 2 times since 1970-01-01T00:00:00Z" in step.reason
    document = step.to_json()["waits"]
    assert document[5] == {
        "group": "g0005",
        "site": "local",
        "cause": "the repository's database is locked",
        "tries": 2,
        "since": "1970-01-01T00:00:00Z",
        "last": "1970-01-01T00:01:00Z",
        "next": "1970-01-01T00:02:00Z",
    }
    events.fail(rig.instance, attempt_of(rig, runs[5]), "given up")
    assert len(overview(rig.instance)[0].steps[0].waits) == 5  # what is over waits no more


def attempt_of(rig: Rig, run_id: str) -> Attempt:
    found = read_attempt(rig.instance, run_id)
    assert found is not None
    return found


def test_scouts_hold_the_others_back(instance: dg.DagsterInstance, rig: Rig) -> None:
    rig.create("scouted", lambda text: text.replace("size: 10}", "size: 10}, scouts: 2"))
    rig.start()
    rig.plan("step1", 10)
    rig.attempt("step1", 0, State.ACCEPTED)
    assert overview(instance, [rig.name])[0].steps[0].state == "running"
    rig.attempt("step1", 1, State.FAILED, message="bad")
    step = overview(instance, [rig.name])[0].steps[0]
    assert step.state == "blocked"
    assert "step1 of scouted at local waits for its scouts g0001 (failed: bad); the others go when" in step.reason


def test_a_paused_step_is_paused_whatever_is_in_flight(instance: dg.DagsterInstance, rig: Rig) -> None:
    rig.start()
    rig.plan("step1", 3)
    rig.attempt("step1", 0, State.RUNNING)
    campaigns.pause(instance, "rc2", "step1", user="anna", reason="disk")
    (view,) = overview(instance)
    assert (view.state, view.steps[0].state) == ("paused", "paused")
    assert view.steps[0].reason.startswith("step step1 of rc2 is paused by anna since ")
    campaigns.pause(instance, "rc2", user="anna", reason="disk")
    campaigns.resume(instance, "rc2", user="anna", reason="x")
    campaigns.resume(instance, "rc2", "step1", user="anna", reason="x")
    assert overview(instance)[0].steps[0].state == "running"
    for place in range(3):
        rig.attempt("step1", place, State.ACCEPTED, number=2)
    campaigns.pause(instance, "rc2", "step1", user="anna", reason="disk")
    assert overview(instance)[0].steps[0].state == "finishing"


def test_a_braked_step_is_blocked_once_nothing_of_it_runs(instance: dg.DagsterInstance, rig: Rig) -> None:
    rig.create("braked", lambda text: text.replace("size: 10}", "size: 10}, brake: {in_a_row: 2}"))
    rig.start()
    rig.plan("step1", 6)
    for place in range(2):
        rig.attempt("step1", place, State.FAILED, message="bad")
    rig.attempt("step1", 2, State.RUNNING)
    step = overview(instance, [rig.name])[0].steps[0]
    assert step.state == "running"
    assert "the last 2 groups that ended have failed (2 in a row are too many)" in step.reason
    rig.attempt("step1", 2, State.FAILED, message="bad", number=2)
    assert overview(instance, [rig.name])[0].steps[0].state == "blocked"


def test_a_failed_group_that_is_retried_by_itself_does_not_block(instance: dg.DagsterInstance, rig: Rig) -> None:
    rig.create("patient", lambda text: text.replace("size: 10}", "size: 10}, retry: {max: 1}"))
    rig.start()
    rig.plan("step1", 1)
    rig.attempt("step1", 0, State.FAILED, message="bad")
    step = overview(instance, [rig.name])[0].steps[0]
    assert (step.state, step.reason) == ("running", "1 failed group will be tried again")
    rig.attempt("step1", 0, State.FAILED, number=2, message="bad")
    assert overview(instance, [rig.name])[0].steps[0].state == "blocked"


def test_health_of_sites(rig: Rig) -> None:
    write_health(rig.instance, "local", answers=False, cause="refused")
    (site,) = overview(rig.instance)[0].to_json()["sites"]
    assert (site["site"], site["answers"], site["cause"]) == ("local", False, "refused")
    assert site["since"].endswith("Z")
    assert site["asked"] == 1
    write_health(rig.instance, "local", answers=False, cause="refused")
    reasons = overview(rig.instance)[0].to_json()["sites"][0]
    assert (reasons["since"], reasons["asked"]) == (site["since"], 2)


def test_an_unknown_campaign_is_an_error(instance: dg.DagsterInstance) -> None:
    with pytest.raises(LedgerError, match="there is no campaign 'nope'"):
        overview(instance, ["nope"])
