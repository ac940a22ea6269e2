"""The audit of a site, its workflows: what fits is no finding, what does not is one, with advice that helps."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from cm_dagster.assets.audit import audit_asset
from cm_dagster.errors import WmsError
from cm_dagster.ledger import events
from cm_dagster.ledger.claims import all_claims
from cm_dagster.policy.findings import Kind
from cm_dagster.policy.states import State
from cm_dagster.services.wms import WmsState, WorkflowReport
from cm_dagster_tests.integration.audit_rig import (
    accept,
    attempt_of,
    files,
    later,
    look,
    only,
    open_site,
    order,
    register,
    remember_chain,
    run_of,
    submit,
)
from cm_dagster_tests.integration.ledger_rig import SITE, Rig, make_spec, open_launcher


@pytest.fixture
def step(tmp_path: Path, blank_home: Path, empty_repo: Path) -> Iterator[Rig]:
    with open_site(tmp_path, blank_home, empty_repo) as made:
        yield made


# ----------------------------------------------------------------------------------------------------- all is well


def busy(rig: Rig) -> None:
    """Bring groups of the step to many states, all of them in order."""
    accept(rig, "g0000")
    accept(rig, "g0001")
    remember_chain(rig)
    accept(rig, "g0002")  # not chained yet
    failed = submit(rig, "g0003")
    rig.wms.set(rig.attempt(failed).wms_id, WmsState.FAILED)
    events.fail(rig.instance, rig.attempt(failed), "bad")
    cancelled = submit(rig, "g0003", 2)
    rig.terminate(cancelled)
    rig.watch()
    rig.watch()
    submit(rig, "g0003", 3)
    rig.submitter.turns = [rig.submitter.bad]
    rig.submit(rig.queue("g0004"))
    rig.queue("g0004", 2)
    turned_away = rig.queue("g0003", 3)
    events.cancelled(rig.instance, turned_away, "turned away", swept=True)
    rig.wms.add("somebody.elses.workflow")
    rig.wms.add("camp.step1.there.g0000.a01")  # another site's audit looks at it
    register(rig, "u/camp/step1/mine", "u/campaign2/step1/g0000/a01/run")


def test_what_is_in_order_is_no_finding(step: Rig) -> None:
    busy(step)
    found = look(step)
    assert found.findings == ()
    assert found.all_well
    assert found.looked_at == {"campaigns": 1, "attempts": 9, "workflows": 6, "claims": 7, "collections": 5}
    assert step.wms.asked["one"] == 0  # one bulk query


def test_an_audit_changes_nothing(step: Rig) -> None:
    busy(step)
    run_id = submit(step, "g0005")
    step.wms.add(attempt_of("g0005").workflow)  # a twin
    runs = {record.dagster_run.run_id: record for record in step.instance.get_run_records()}
    before, notes, asked = files(step.site.area), step.notes(run_id), dict(step.wms.asked)
    assert not look(step).all_well
    assert {record.dagster_run.run_id: record for record in step.instance.get_run_records()} == runs
    assert files(step.site.area) == before
    assert step.notes(run_id) == notes
    assert {key: count - asked.get(key, 0) for key, count in step.wms.asked.items() if key != "one"} == {
        "list": 1,
        "cancel": 0,
    } | dict.fromkeys(set(asked) - {"list", "cancel", "one"}, 0)


def test_what_happens_during_an_audit_is_no_finding(step: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts are submitted, accepted and chained between the questions."""
    step.plan(8)
    accept(step, "g0000")
    remember_chain(step)
    running = submit(step, "g0001")
    ask, below = step.wms.report_all, step.site.butler(make_spec()).below

    def list_workflows(history: float) -> dict[str, WorkflowReport]:
        monkeypatch.setattr(step.wms, "report_all", ask)
        submit(step, "g0002")
        answer = ask(history)
        submit(step, "g0003")
        step.wms.set(step.attempt(running).wms_id, WmsState.SUCCEEDED)
        events.accept(step.instance, events.Acceptance(step.attempt(running), "good", {}))
        return answer

    def list_collections(name: str) -> dict[str, list[str]]:
        answer = below(name)
        register(step, run_of("g0001"))
        accept(step, "g0004")
        remember_chain(step)
        return answer

    def list_claims(folder: Path) -> list[tuple[str, int, str]]:
        if folder.name != "step1":
            return []
        submit(step, "g0005")
        answer = list(all_claims(folder))
        submit(step, "g0006")
        return answer

    monkeypatch.setattr("cm_dagster.control.evidence.all_claims", list_claims)
    monkeypatch.setattr(step.wms, "report_all", list_workflows)
    monkeypatch.setattr(step.site.butler(make_spec()), "below", list_collections)
    found = look(step)
    assert found.findings == ()
    assert found.all_well


# ----------------------------------------------------------------------------------------------------------- twins


def test_a_live_twin_is_reported_and_left_alone(step: Rig, caplog: pytest.LogCaptureFixture) -> None:
    run_id = submit(step, "g0000")
    twin = step.wms.add(attempt_of("g0000").workflow)
    with caplog.at_level(logging.ERROR):
        finding = only(look(step), Kind.TWIN_WORKFLOW)
    assert (finding.where, finding.run_id, finding.wms_id, finding.done) == ("camp step1 g0000 a01", run_id, twin, "")
    assert finding.seen.startswith("WMS: workflows 1 (running) and 2 (running) of one name; ledger: submitted, 1 is")
    assert finding.advice == "cancel 2: `cm audit camp --site here --fix`"
    assert "twin-workflow" in caplog.text
    assert len(step.wms.alive()) == 2


def test_the_rule_cancels_a_live_twin_with_an_alarm(step: Rig, caplog: pytest.LogCaptureFixture) -> None:
    run_id = submit(step, "g0000")
    twin = step.wms.add(attempt_of("g0000").workflow)
    with caplog.at_level(logging.ERROR):
        finding = only(look(step, fix_by="alice (cm audit --fix)"), Kind.TWIN_WORKFLOW)
    assert step.wms.workflows[twin].state is WmsState.CANCELLED
    assert step.wms.workflows["1"].state is WmsState.RUNNING
    assert step.attempt(run_id).wms_id == "1"
    assert finding.done.startswith("cancelled by alice (cm audit --fix)")
    assert "alice" in step.notes(run_id)
    assert "ALARM: the WMS had a second workflow of this name, 2; it was cancelled, 1 stays." in step.notes(run_id)
    assert "ALARM" in caplog.text
    assert look(step).all_well  # both were dealt with


def test_a_twin_of_an_attempt_that_is_over_is_cancelled_too(step: Rig) -> None:
    run_id = submit(step, "g0000")
    step.terminate(run_id)
    step.watch()
    twin = step.wms.add(attempt_of("g0000").workflow)
    look(step, fix_by="alice")
    assert step.wms.workflows[twin].state is WmsState.CANCELLED


def test_the_record_beside_the_claim_says_which_one_stays(step: Rig) -> None:
    """The process died after it had written the record and before the id was on the run."""
    step.wms.add(attempt_of("g0000").workflow)
    run_id = submit(step, "g0000")  # finds it
    step.instance.add_run_tags(run_id, {"cm/wms_id": ""})
    twin = step.wms.add(attempt_of("g0000").workflow)
    finding = only(look(step, fix_by="alice"), Kind.TWIN_WORKFLOW)
    assert finding.wms_id == twin
    assert step.wms.alive() == [attempt_of("g0000").workflow]


def test_a_twin_that_has_ended_is_an_alarm_that_nothing_is_done_about(step: Rig) -> None:
    submit(step, "g0000")
    step.wms.set(step.wms.add(attempt_of("g0000").workflow), WmsState.SUCCEEDED)
    finding = only(look(step, fix_by="alice"), Kind.TWIN_WORKFLOW)
    assert (finding.done, step.wms.asked["cancel"]) == ("", 0)
    assert "`cm group show camp step1 g0000`" in finding.advice


def test_a_workflow_that_a_person_restarted_is_not_taken_for_a_twin(step: Rig) -> None:
    """Some WMSs give a restarted workflow a new id; it works in the same submit directory."""
    submit(step, "g0000")
    name = attempt_of("g0000").workflow
    old = WorkflowReport("1", name, WmsState.FAILED, path="/area/submit-1")
    step.wms.workflows |= {"1": old, "9": WorkflowReport("9", name, WmsState.RUNNING, path="/area/submit-1")}
    finding = only(look(step, fix_by="alice"), Kind.ORPHAN_WORKFLOW)
    assert "restarted by hand" in finding.seen
    assert step.wms.asked["cancel"] == 0


def test_a_twin_that_the_wms_will_not_cancel_says_so(step: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    submit(step, "g0000")
    step.wms.add(attempt_of("g0000").workflow)

    def go_down(_: str) -> str:
        step.wms.down = True
        raise WmsError("the WMS could not be asked: connection refused", transient=True)

    monkeypatch.setattr(step.wms, "cancel", go_down)
    finding = only(look(step, fix_by="alice"), Kind.TWIN_WORKFLOW)
    assert finding.done.startswith("not cancelled: the WMS could not be asked")


def test_two_runs_that_are_one_attempt(step: Rig) -> None:
    first = submit(step, "g0000")
    second = step.begin("g0000")
    kinds = {finding.kind: finding for finding in look(step).findings}
    # The second one has another workflow and no claim; which is not all that is wrong.
    assert set(kinds) == {Kind.TWIN_ATTEMPT, Kind.RUN_WITHOUT_CLAIM}
    assert {first, second} <= set(kinds[Kind.TWIN_ATTEMPT].seen.replace(",", "").split())


# ------------------------------------------------------------------------------------------------- other workflows


def test_an_orphan(step: Rig) -> None:
    wms_id = step.wms.add(attempt_of("g0004", 3).workflow)
    finding = only(look(step), Kind.ORPHAN_WORKFLOW)
    assert finding.where == "camp step1 g0004 a03"
    assert finding.advice.endswith(f"`bps cancel --wms-service-class {step.site.spec.wms.service} --id {wms_id}`")


def test_a_cancelled_workflow_needs_nobody(step: Rig) -> None:
    step.wms.add(attempt_of("g0004", 3).workflow, WmsState.CANCELLED)
    assert look(step).all_well


def test_a_workflow_that_is_being_submitted_is_no_orphan_until_the_settle_time_is_over(step: Rig) -> None:
    step.restrict(wms=step.site.spec.wms.model_copy(update={"settle": 600.0}))
    step.submitter.turns = [step.submitter.sent]
    run_id = step.queue("g0000")
    step.submit(run_id)
    assert look(step).all_well
    step.age(attempt_of("g0000"), 700)
    with pytest.MonkeyPatch.context() as patch:
        later(patch, 700)
        finding = only(look(step), Kind.ORPHAN_WORKFLOW)
    assert "the sensor submit_here does so by itself" in finding.advice


def test_workflows_of_campaigns_that_the_ledger_does_not_know_are_one_finding(step: Rig) -> None:
    for number in range(1, 8):
        step.wms.add(f"other.step1.{SITE}.g0000.a{number:02d}")
    step.wms.add(f"other.step1.{SITE}.g0001.a01", WmsState.SUCCEEDED)
    finding = only(look(step), Kind.ORPHAN_WORKFLOW)
    assert "7 workflows (1, 2, 3, 4, 5, ...) running; ledger: no such campaign" in finding.seen
    assert look(step, "camp").all_well


def test_a_workflow_that_the_wms_does_not_know_is_missing(step: Rig) -> None:
    run_id = submit(step, "g0000")
    step.wms.hidden = {"1"}
    finding = only(look(step), Kind.MISSING_WORKFLOW)
    assert finding.seen == "ledger: submitted with workflow 1; WMS: does not know 1"
    # What it says to do helps.
    order("cancel", step, finding.advice)
    step.watch()
    assert step.state(run_id) is State.CANCELLED
    order("retry", step, finding.advice)
    assert look(step).all_well


def test_a_missing_workflow_whose_name_another_one_has_is_not_cancelled(step: Rig) -> None:
    submit(step, "g0000")
    step.wms.hidden = {"1"}
    step.wms.add(attempt_of("g0000").workflow)
    finding = only(look(step, fix_by="alice"), Kind.MISSING_WORKFLOW)
    assert finding.seen.endswith("does not know 1, but 2 (running) of the same name: restarted by hand?")
    assert step.wms.asked["cancel"] == 0


def test_a_workflow_that_could_not_be_asked_for_is_not_missing(step: Rig) -> None:
    submit(step, "g0000")
    step.wms.unlisted = {"1"}

    def go_down() -> None:
        step.wms.down = True
        step.wms._answer("one")

    step.wms.on_one = go_down
    found = look(step)
    assert found.findings == ()
    assert [gap.part for gap in found.gaps] == ["WMS of here: 1 workflows by id"]


def test_a_list_that_lacks_live_workflows_cannot_exclude_twins(step: Rig) -> None:
    """It was asked in the name of somebody else than who submits."""
    submit(step, "g0000")
    step.wms.unlisted = {"1"}
    found = look(step)
    assert found.findings == ()
    (gap,) = found.gaps
    assert "lacks 1 live workflows" in gap.cause
    assert "CM_OPERATOR" in gap.advice


def test_a_cancellation_that_did_not_take(step: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = submit(step, "g0000")
    step.terminate(run_id)
    step.watch()
    step.wms.set("1", WmsState.RUNNING)
    assert look(step).all_well  # the WMS is given time
    later(monkeypatch, 4000)
    finding = only(look(step), Kind.LOST_CANCEL)
    assert "--id 1`" in finding.advice


def test_a_workflow_that_runs_again_after_its_attempt_is_over(step: Rig) -> None:
    run_id = submit(step, "g0000")
    events.fail(step.instance, step.attempt(run_id), "bad")
    finding = only(look(step), Kind.ORPHAN_WORKFLOW)
    assert "ledger: failed, so it was restarted by hand" in finding.seen
    order("restart", step, finding.advice)
    assert step.state(run_id) is State.SUBMITTED
    assert look(step).all_well


# ----------------------------------------------------------------------------------------------------- the schedule


def nightly(rig: Rig) -> tuple[dg.ExecuteInProcessResult, dict[str, object]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cm_dagster.assets.audit.current_site", lambda: rig.site)
        result = dg.materialize([audit_asset(SITE)], instance=rig.instance, raise_on_error=False)
    event = rig.instance.get_latest_materialization_event(dg.AssetKey(["audit", SITE]))
    assert event is not None
    made = event.asset_materialization
    assert made is not None
    return result, {key: value.value for key, value in made.metadata.items()}


def test_the_nightly_run_shows_counts_and_is_green_where_nothing_alarms(step: Rig) -> None:
    step.wms.add(attempt_of("g0004", 3).workflow)
    result, metadata = nightly(step)
    assert result.success
    assert (metadata["findings"], metadata["orphan-workflow"], metadata["twin-workflow"]) == (1, 1, 0)
    assert metadata["parts not done"] == 0
    (row,) = metadata["what was found"].records  # type: ignore[attr-defined]
    assert row.data["where"] == "camp step1 g0004 a03"
    assert "bps cancel" in row.data["what to do"]


def test_the_nightly_run_cancels_twins_and_is_red(step: Rig) -> None:
    run_id = submit(step, "g0000")
    step.wms.add(attempt_of("g0000").workflow)
    result, metadata = nightly(step)
    assert not result.success
    assert metadata["twin-workflow"] == 1
    assert step.wms.workflows["2"].state is WmsState.CANCELLED
    (failure,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert failure.user_failure_data is not None
    assert "twin-workflow: camp step1 g0000 a01" in str(failure.user_failure_data.description)
    assert f"job audit_here (run {result.run_id})" in step.notes(run_id)


def test_the_nightly_run_says_what_it_could_not_do(step: Rig) -> None:
    step.wms.down = True
    result, metadata = nightly(step)
    assert result.success
    assert metadata["parts not done"] == 1
    assert "WMS of here: workflows" in str(metadata["not done"])


def test_the_code_location_of_a_site_audits_it_every_night(step: Rig) -> None:
    with open_launcher(step.instance) as ui:
        (location,) = ui.workspace.code_locations
        (repository,) = location.get_repositories().values()
        schedule = repository.get_schedule("audit_here")
        assert (schedule.job_name, schedule.cron_schedule, schedule.execution_timezone) == (
            "audit_here",
            "17 3 * * *",
            "UTC",
        )
        assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
        assert repository.get_full_job("audit_here").tags["cm/kind"] == "audit"
        run = ui.launch(None, assets=[("audit", SITE)], job="audit_here")
    assert run.status is dg.DagsterRunStatus.QUEUED  # it is no attempt, and not turned away
