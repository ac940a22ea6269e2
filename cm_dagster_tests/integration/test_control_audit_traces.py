"""The audit of a site: what waits too long, claims, collections, and sources that do not answer."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test
from lsst.daf.butler import Butler

from cm_dagster.control.collect import collect
from cm_dagster.control.health import Progress
from cm_dagster.control.steps import collected_key, load_boards
from cm_dagster.errors import LedgerError
from cm_dagster.ledger import attempts, store, tags
from cm_dagster.plan.names import AttemptId, StepId, group_folder
from cm_dagster.policy.backoff import Wait
from cm_dagster.policy.findings import Kind
from cm_dagster.policy.states import State
from cm_dagster.services.wms import WmsState
from cm_dagster_tests.integration.audit_rig import (
    GROUPS,
    accept,
    attempt_of,
    commands,
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
from cm_dagster_tests.integration.ledger_rig import SITE, STEP1, SUBMIT, Rig, make_spec

AT = f"u/camp/step1/at/{SITE}"
ORIGIN = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(SITE), "__repository__")


@pytest.fixture
def step(tmp_path: Path, blank_home: Path, empty_repo: Path) -> Iterator[Rig]:
    with open_site(tmp_path, blank_home, empty_repo) as made:
        yield made


# ------------------------------------------------------------------------------------------- what does not go on


def test_unknown_for_more_than_a_day(step: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = submit(step, "g0000")
    step.wms.set("1", WmsState.UNKNOWN)
    step.watch()
    assert step.state(run_id) is State.UNKNOWN
    later(monkeypatch, 80000)
    assert look(step).all_well
    later(monkeypatch, 90000)
    finding = only(look(step), Kind.STALE_UNKNOWN)
    assert finding.since is not None
    assert abs(finding.since - time.time()) < 60
    # What the watch sensor remembers of it counts, where it does.
    then = time.time() - 1000
    wait = Wait("the WMS does not know it", 3, then, then, then)
    store.put(step.instance, f"progress/{SITE}", {run_id: asdict(Progress({}, then, wait))})
    assert only(look(step), Kind.STALE_UNKNOWN).since == then


def test_queued_for_more_than_a_day_though_there_is_room(step: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = step.queue("g0000")
    later(monkeypatch, 80000)
    assert look(step).all_well
    later(monkeypatch, 90000)
    finding = only(look(step), Kind.STUCK)
    assert (finding.run_id, finding.where) == (run_id, "camp step1 g0000 a01")
    assert "the sensor submit_here does so by itself" in finding.advice
    submit(step, "g0001")
    step.restrict(limits=step.site.spec.limits.model_copy(update={"in_flight": 1}))
    assert look(step).all_well  # it waits for a slot
    step.wms.down = True
    assert [each.kind for each in look(step).findings] == []  # the site does not answer


def waiting(rig: Rig, job: str, status: str, more: dict[str, str], *asset: str) -> str:
    """Make a run that waits and is no attempt."""
    run: dg.DagsterRun = create_run_for_test(
        rig.instance,
        job_name=job,
        status=dg.DagsterRunStatus(status),
        asset_selection=frozenset({dg.AssetKey(asset)}),
        remote_job_origin=RemoteJobOrigin(ORIGIN, job),
        tags=more,
    )
    return run.run_id


def test_a_launch_that_was_left_behind(step: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a run has no tags of ours, so that no index of attempts knows it."""
    group = {tags.PARTITION: "g0003"}
    run_id = waiting(step, "__ASSET_JOB", "NOT_STARTED", group, *STEP1.asset)
    waiting(step, "__ASSET_JOB", "NOT_STARTED", group, "of somebody else")
    waiting(step, "__ASSET_JOB", "NOT_STARTED", {tags.PARTITION: "no group"}, *STEP1.asset)
    waiting(step, "__ASSET_JOB", "NOT_STARTED", group, "camp", "step1", "there")
    later(monkeypatch, 90000)
    finding = only(look(step), Kind.STUCK)
    assert (finding.run_id, finding.where) == (run_id, "camp step1 g0003 a01")
    assert "never queued" in finding.seen


def test_a_run_of_ours_that_is_stuck_in_the_queue(step: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = waiting(step, SUBMIT, "QUEUED", {tags.KIND: "submit"}, "any")
    waiting(step, "submit_there", "QUEUED", {tags.KIND: "submit"}, "any")
    waiting(step, SUBMIT, "QUEUED", {}, "any")
    later(monkeypatch, 90000)
    finding = only(look(step), Kind.STUCK)
    assert (finding.run_id, finding.where) == (run_id, "the site")


# ---------------------------------------------------------------------------------------------------------- claims


def test_the_claim_of_a_run_that_was_deleted(step: Rig) -> None:
    run_id = submit(step, "g0000")
    step.instance.run_storage.delete_run(run_id)  # or the storage was restored from yesterday's backup
    attempts._INDEXES.clear()  # another process has not seen what is gone
    found = {finding.kind: finding for finding in look(step).findings}
    assert set(found) == {Kind.CLAIM_WITHOUT_RUN, Kind.ORPHAN_WORKFLOW}
    advice = found[Kind.CLAIM_WITHOUT_RUN].advice
    # What it says to do helps: the group goes on, with the workflow that there is.
    (command,) = commands(advice)
    shell(command)
    again = submit(step, "g0000")
    assert step.attempt(again).wms_id == "1"
    assert step.submitter.submissions == {attempt_of("g0000").workflow: 1}
    assert look(step).all_well


def shell(command: str) -> None:
    subprocess.run(["bash", "-c", command], check=True, timeout=60)


def test_a_run_that_has_lost_its_claim(step: Rig) -> None:
    run_id = submit(step, "g0000")
    shutil.rmtree(group_folder(step.site.area, STEP1, "g0000"))
    finding = only(look(step), Kind.RUN_WITHOUT_CLAIM)
    assert finding.run_id == run_id
    (command,) = commands(finding.advice)
    shell(command)
    assert look(step).all_well


def test_a_claim_of_another_attempts_run(step: Rig) -> None:
    run_id = submit(step, "g0000")
    claims = group_folder(step.site.area, STEP1, "g0000") / "claims"
    (claims / "a07").write_text(run_id)
    finding = only(look(step), Kind.CLAIM_WITHOUT_RUN)
    assert f"belongs to run {run_id}; ledger: which is {attempt_of('g0000').workflow}" in finding.seen


def test_the_folder_of_a_campaign_that_the_ledger_does_not_have(step: Rig) -> None:
    submit(step, "g0000")
    (step.site.area / "gone/step1/g0000/claims").mkdir(parents=True)
    assert only(look(step), Kind.CLAIM_WITHOUT_RUN).where == "gone"
    assert look(step, "camp").all_well


# --------------------------------------------------------------------------------------------------------- outputs


def test_accepted_output_that_is_gone(step: Rig) -> None:
    accept(step, "g0000")
    accept(step, "g0001")
    with Butler.from_config(step.site.spec.butler, writeable=True) as butler:
        butler.collections.x_remove(run_of("g0000"))
    finding = only(look(step), Kind.MISSING_OUTPUT)
    assert f"no RUN collection {run_of('g0000')}" in finding.seen
    order("reject", step, finding.advice)
    assert look(step).all_well
    order("retry", step, finding.advice)


def test_a_chain_that_lacks_what_was_chained(step: Rig) -> None:
    for group in ("g0000", "g0001", "g0002"):
        accept(step, group)
    remember_chain(step)
    butler = step.site.butler(make_spec())
    butler.set_chain(AT, [run_of("g0001")])
    finding = only(look(step), Kind.MISSING_OUTPUT)
    assert finding.seen.endswith(f"the chain {AT} lacks 2 accepted groups (g0000, g0002)")
    assert finding.advice.endswith(f"materialize partition g0000 of camp/step1/{SITE}/chained")
    remember_chain(step)
    assert look(step).all_well


def finished(rig: Rig) -> None:
    """Collect the step."""
    for number in range(GROUPS):
        accept(rig, f"g000{number}")
    remember_chain(rig)
    collect(rig.instance, rig.site, make_spec(butler={"input": ["defaults"], "output": "u/camp"}), "step1")
    rig.materialize(collected_key("camp", "step1"))


def test_chains_of_a_collected_step(step: Rig) -> None:
    register(step, "defaults")
    finished(step)
    assert load_boards(step.instance)[0].collected == {"step1"}
    assert look(step).all_well
    butler = step.site.butler(make_spec())
    butler.set_chain("u/camp/step1", [run_of(f"g000{number}") for number in range(GROUPS - 1)])
    finding = only(look(step), Kind.MISSING_OUTPUT)
    assert (finding.group, finding.advice) == (
        "g0005",
        "set it again: in the web UI, materialize camp/step1/collected",
    )
    butler.set_chain("u/camp", ["defaults"])
    assert [each.where for each in look(step).findings] == ["camp", "camp step1 g0005"]


def test_a_group_that_was_accepted_again_after_its_step_was_collected(step: Rig) -> None:
    register(step, "defaults")
    finished(step)
    (first,) = [a.run_id for a in [step.attempt(r.run_id) for r in step.instance.get_runs()] if a.id.group == "g0000"]
    accept(step, "g0000", 2, parent=first)
    finding = only(look(step), Kind.MISSING_OUTPUT)
    assert (finding.group, "u/camp/step1 lacks" in finding.seen) == ("g0000", True)


def test_a_run_collection_of_no_attempt(step: Rig) -> None:
    accept(step, "g0000")
    register(step, run_of("g0000", 2))
    finding = only(look(step), Kind.ORPHAN_OUTPUT)
    assert finding.where == "camp step1 g0000 a02"
    assert finding.advice.endswith(f"`butler remove-runs {step.site.spec.butler} {run_of('g0000', 2)}`")


def test_the_run_collection_of_another_sites_attempt_is_known(step: Rig) -> None:
    """Sites may share a repository."""
    there = StepId("camp", "step1", "there")
    step.begin("g0000", step=there)
    register(step, AttemptId(there, "g0000", 1).run("u/camp"))
    assert look(step).all_well


# ---------------------------------------------------------------------------------------- sources that do not answer


def test_the_wms_is_down(step: Rig) -> None:
    submit(step, "g0000")
    shutil.rmtree(group_folder(step.site.area, STEP1, "g0000"))
    step.wms.down = True
    found = look(step)
    assert [gap.part for gap in found.gaps] == ["WMS of here: workflows"]
    assert [each.kind for each in found.findings] == [Kind.RUN_WITHOUT_CLAIM]
    assert not found.all_well


def test_the_butler_is_away(step: Rig) -> None:
    accept(step, "g0000")
    remember_chain(step)
    step.site.butler(make_spec()).close()
    (step.folder / "repo").rename(step.folder / "elsewhere")
    step.wms.add(attempt_of("g0005").workflow)
    found = look(step)
    assert [gap.part for gap in found.gaps] == ["Butler: output of camp"]
    assert [each.kind for each in found.findings] == [Kind.ORPHAN_WORKFLOW]


def test_a_submit_area_that_is_not_mounted(step: Rig) -> None:
    submit(step, "g0000")
    step.site.area.rename(step.folder / "elsewhere")
    step.site.area.mkdir()
    found = look(step)
    assert found.findings == ()
    (gap,) = found.gaps
    assert (gap.part, "is it mounted" in gap.cause) == ("submit area of here: claims", True)


def test_a_campaign_that_there_is_not(step: Rig) -> None:
    with pytest.raises(LedgerError, match="no campaign 'camq'"):
        look(step, "camq")
