"""Chains, collection and what a campaign does next: on all groups of all that is needed, and the same when repeated."""

from __future__ import annotations

import random
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test
from lsst.daf.butler import Butler

from cm_dagster.assets.jobs import site_jobs
from cm_dagster.control.advance import ADVANCE, chains_due, moves
from cm_dagster.control.chain import chain, one_writer
from cm_dagster.control.collect import collect, missing_groups
from cm_dagster.control.inputs import CHECKED, prepare_inputs
from cm_dagster.control.steps import chained_key, collected_key, inputs_key, load_boards
from cm_dagster.errors import CmError, LedgerError, NoInputsError
from cm_dagster.ledger import campaigns, tags
from cm_dagster.ledger.plans import load_plan
from cm_dagster.local.survey import Survey
from cm_dagster.plan.names import AttemptId, StepId
from cm_dagster.spec import CampaignSpec
from cm_dagster_tests.integration.ledger_rig import SITE, STEP1, Rig, make_spec, open_rig

AT = f"u/camp/step1/at/{SITE}"


@pytest.fixture
def own(tmp_path: Path, blank_home: Path, hsc_repo: Survey) -> Iterator[Rig]:
    """A site with a real ledger and a real repository."""
    with open_rig(tmp_path, blank_home, {"butler": str(hsc_repo.root)}) as made:
        yield made
        made.site.butler(make_spec()).close()


def run_of(group: str, number: int = 1, step: StepId = STEP1) -> str:
    return AttemptId(step, group, number).run("u/camp")


def accept(rig: Rig, group: str, number: int = 1, step: StepId = STEP1) -> None:
    """Make an accepted attempt whose RUN exists."""
    rig.accept(group, number, step)
    with Butler.from_config(rig.site.spec.butler, writeable=True) as butler:
        butler.collections.register(run_of(group, number, step))


def remember(rig: Rig, step: StepId = STEP1) -> None:
    chain(rig.instance, rig.site, step).remember(rig.instance)


def children(rig: Rig, name: str) -> list[str] | None:
    return rig.site.butler(make_spec()).chain(name)


def next_moves(rig: Rig) -> list[list[str]]:
    return [[".".join(key.path[1:]) for key in move.assets] for move in moves(rig.instance, rig.site)]


# ---------------------------------------------------------------------------------------------------------- chains


def test_a_chain_holds_the_accepted_groups_in_group_order(own: Rig) -> None:
    own.create()
    groups = own.plan(5)
    order = [groups[n] for n in (3, 0, 4)]
    for group in order:
        accept(own, group)
    own.fail(groups[1])
    own.begin(groups[2])
    done = chain(own.instance, own.site, STEP1)
    assert children(own, AT) == [run_of(groups[n]) for n in (0, 3, 4)]
    assert done.groups == {groups[n]: [run_of(groups[n])] for n in (0, 3, 4)}
    assert done.new == (groups[0], groups[3], groups[4])
    done.remember(own.instance)
    # Twice changes nothing; more is computed whole.
    assert chain(own.instance, own.site, STEP1).new == ()
    accept(own, groups[1], 2)
    again = chain(own.instance, own.site, STEP1)
    assert again.new == (groups[1],)
    assert children(own, AT) == [run_of(groups[0]), run_of(groups[1], 2), run_of(groups[3]), run_of(groups[4])]


def test_a_chain_that_others_have_changed_is_put_right(own: Rig) -> None:
    """A late final job of BPS prepends its RUN to chains of its own; a person may change any."""
    own.create()
    groups = own.plan(3)
    for group in groups:
        accept(own, group)
    chain(own.instance, own.site, STEP1)
    shuffled = [run_of(group) for group in groups]
    random.Random(3).shuffle(shuffled)
    own.site.butler(make_spec()).set_chain(AT, shuffled)
    chain(own.instance, own.site, STEP1)
    assert children(own, AT) == [run_of(group) for group in groups]


def test_a_group_that_was_accepted_again_is_chained_again(own: Rig) -> None:
    own.create()
    own.plan(1)
    accept(own, "g0000")
    remember(own)
    accept(own, "g0000", 2)
    done = chain(own.instance, own.site, STEP1)
    assert done.new == ("g0000",)
    assert children(own, AT) == [run_of("g0000", 2)]


_WRITER = """
import sys
from pathlib import Path
from cm_dagster.control.chain import one_writer
print("ready", flush=True)
sys.stdin.readline()
with one_writer(Path(sys.argv[1]), "camp"):
    print("in", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def writer(rig: Rig) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Start another process that sets chains; it goes on with each line that it gets."""
    command = [sys.executable, "-c", _WRITER, str(rig.site.area)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.stdin, process.stdout


def go_on(stdin: IO[bytes]) -> None:
    stdin.write(b"\n")
    stdin.flush()


def test_a_second_writer_of_chains_waits(rig: Rig) -> None:
    with writer(rig) as (first_in, first_out), writer(rig) as (second_in, second_out):
        go_on(first_in)
        assert first_out.readline() == b"in\n"
        go_on(second_in)
        assert select.select([second_out], [], [], 1.0)[0] == []
        with one_writer(rig.site.area, "another campaign"):
            pass
        go_on(first_in)
        assert second_out.readline() == b"in\n"
        go_on(second_in)


def test_a_writer_that_waits_too_long_gives_up_for_now(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cm_dagster.control.chain._PATIENCE", 0.2)
    with writer(rig) as (stdin, stdout):
        go_on(stdin)
        assert stdout.readline() == b"in\n"
        late = one_writer(rig.site.area, "camp")
        with pytest.raises(CmError, match="another process has set chains of camp") as caught:
            late.__enter__()
        assert caught.value.transient
        go_on(stdin)


def test_the_asset_logs_each_group_once(own: Rig) -> None:
    own.create()
    own.plan(3)
    for group in ("g0000", "g0002"):
        accept(own, group)

    def run() -> None:
        config = {"ops": {"chain_step": {"config": {"step": STEP1.tag}}}}
        assert site_jobs(SITE)["chain"].execute_in_process(run_config=config, instance=own.instance).success

    for _ in range(2):
        run()
    assert own.instance.get_materialized_partitions(chained_key(STEP1)) == {"g0000", "g0002"}
    accept(own, "g0001")
    run()
    wanted = dg.AssetRecordsFilter(asset_key=chained_key(STEP1))
    assert len(own.instance.fetch_materializations(wanted, limit=10).records) == 3


def test_chains_are_due_when_something_new_is_accepted(own: Rig) -> None:
    own.create()
    own.plan(3)
    assert chains_due(own.instance, own.site) == []
    accept(own, "g0001")
    (first,) = chains_due(own.instance, own.site)
    assert first.step == STEP1
    assert chains_due(own.instance, own.site) == [first]
    remember(own)
    assert chains_due(own.instance, own.site) == []
    accept(own, "g0000")
    assert chains_due(own.instance, own.site)[0].run_key != first.run_key


# --------------------------------------------------------------------------------------------------------- collect


@pytest.mark.parametrize("rest", ["nothing", "open", "failed", "cancelled", "not chained"])
def test_a_step_with_any_other_group_is_not_collected(own: Rig, rest: str) -> None:
    """One group is accepted, one is not: the incumbent would go on."""
    spec = own.create()
    own.plan(2)
    accept(own, "g0000")
    remember(own)
    match rest:
        case "open":
            own.begin("g0001")
        case "failed":
            own.fail("g0001")
        case "cancelled":
            own.terminate(own.queue("g0001"))
        case "not chained":
            accept(own, "g0001")
    plan = load_plan(own.instance, "camp", "step1")
    assert plan is not None
    assert missing_groups(own.instance, plan) == ["g0001"]
    with pytest.raises(LedgerError, match="1 of 2 groups of step1 are not accepted and at the home site: g0001"):
        collect(own.instance, own.site, spec, "step1")
    assert children(own, "u/camp/step1") is None
    assert children(own, "u/camp") is None


def test_collecting_twice_changes_nothing(own: Rig) -> None:
    spec = own.create()
    own.plan(2)
    accept(own, "g0001", 2)
    accept(own, "g0000")
    remember(own)
    first = collect(own.instance, own.site, spec, "step1")
    assert first["changed"] is True
    assert children(own, "u/camp/step1") == [run_of("g0000"), run_of("g0001", 2)]
    assert children(own, "u/camp") == ["u/camp/step1", "HSC/defaults"]
    assert collect(own.instance, own.site, spec, "step1")["changed"] is False


def test_a_step_without_groups_is_not_collected(own: Rig) -> None:
    with pytest.raises(LedgerError, match="no groups yet"):
        collect(own.instance, own.site, own.create(), "step1")


# --------------------------------------------------------------------------------------------------------- advance


def finish(rig: Rig, step: str, groups: int = 1) -> None:
    id_ = StepId("camp", step, SITE)
    for group in rig.plan(groups, step):
        rig.accept(group, 1, id_)
    rig.materialize(collected_key("camp", step))


def test_a_campaign_that_is_not_started_does_nothing(rig: Rig) -> None:
    rig.create(start=False)
    assert next_moves(rig) == []
    campaigns.start(rig.instance, "camp", user="pilot")
    assert next_moves(rig) == [["step1.inputs"]]


def test_the_next_step_waits_for_all_groups(rig: Rig) -> None:
    rig.create()
    rig.plan(3)
    for last in ("open", "failed", "accepted"):
        if last == "open":
            rig.accept("g0000")
            rig.accept("g0001")
            run_id = rig.begin("g0002")
        elif last == "failed":
            rig.terminate(run_id, force=True)
            rig.fail("g0002", 2)
        else:
            rig.accept("g0002", 3)
        assert next_moves(rig) == ([["step1.collected", "step2.inputs"]] if last == "accepted" else [])


def test_the_next_step_waits_for_all_steps_that_it_needs(rig: Rig) -> None:
    both = {
        "step1": {"pipeline": "#step1"},
        "step2": {"pipeline": "#step2"},
        "step3": {"pipeline": "#step3", "needs": ["step1", "step2"]},
    }
    rig.create(make_spec(steps=both))
    assert next_moves(rig) == [["step1.inputs", "step2.inputs"]]
    finish(rig, "step1")
    rig.plan(1, "step2")
    assert next_moves(rig) == []
    rig.accept("g0000", 1, StepId("camp", "step2", SITE))
    assert next_moves(rig) == [["step2.collected", "step3.inputs"]]


def test_a_gate_is_opened_by_a_person_alone(rig: Rig) -> None:
    rig.create()
    finish(rig, "step1")
    finish(rig, "step2")
    assert next_moves(rig) == []
    with pytest.raises(LedgerError, match="the gate of step3 is closed"):
        prepare_inputs(rig.instance, rig.site, make_spec(), "step3")
    campaigns.sign_off(rig.instance, "camp", "step3", user="pilot", reason="looked at it")
    assert next_moves(rig) == [["step3.inputs"]]


def test_what_is_under_way_is_not_requested_again(rig: Rig) -> None:
    rig.create()
    (move,) = moves(rig.instance, rig.site)
    assert [move] == moves(rig.instance, rig.site)  # one key: Dagster requests it once
    run = create_run_for_test(
        rig.instance, asset_selection=frozenset(move.assets), tags={tags.KIND: ADVANCE}, job_name="__ASSET_JOB"
    )
    assert moves(rig.instance, rig.site) == []
    rig.instance.report_run_failed(run)
    assert moves(rig.instance, rig.site) == [move]


def test_after_a_half_done_run_only_the_rest_is_requested(rig: Rig) -> None:
    rig.create()
    rig.plan(1)
    rig.accept("g0000")
    (both,) = moves(rig.instance, rig.site)
    rig.materialize(collected_key("camp", "step1"))  # and then the run died
    (rest,) = moves(rig.instance, rig.site)
    assert rest.assets == (inputs_key("camp", "step2"),)
    assert rest.run_key != both.run_key
    campaigns.sign_off(rig.instance, "camp", "step3", user="pilot", reason="again")
    (again,) = moves(rig.instance, rig.site)
    assert again.run_key != rest.run_key


def test_a_finished_campaign_does_nothing(rig: Rig) -> None:
    rig.create(make_spec(steps={"step1": {"pipeline": "#step1"}}))
    finish(rig, "step1")
    assert next_moves(rig) == []
    assert load_boards(rig.instance)[0].active == []


# ---------------------------------------------------------------------------------------------------------- inputs


def hsc_spec(survey_where: str, **step: object) -> CampaignSpec:
    group_by = {"dimension": "visit", "dataset": "raw", "size": 4}
    return make_spec(
        butler={"input": ["HSC/defaults"], "output": "u/camp", "where": survey_where},
        steps={"step1": {"pipeline": "#step1", "group_by": group_by, **step}},
    )


def test_inputs_are_chained_and_cut_and_stay_the_same(own: Rig, hsc_repo: Survey) -> None:
    spec = own.create(hsc_spec(hsc_repo.where))
    first = prepare_inputs(own.instance, own.site, spec, "step1")
    plan = load_plan(own.instance, "camp", "step1")
    assert plan is not None
    assert sorted(group.size for group in plan.groups) == [3, 4, 4]
    assert {group.site for group in plan.groups} == {SITE}
    assert children(own, "u/camp/step1/inputs") == ["HSC/defaults"]
    assert own.instance.get_dynamic_partitions(STEP1.tag) == ["g0000", "g0001", "g0002"]
    again = prepare_inputs(own.instance, own.site, spec, "step1")
    assert {**again, CHECKED: ""} == {**first, CHECKED: ""}  # the disk fills up meanwhile
    assert load_plan(own.instance, "camp", "step1") == plan


def test_inputs_without_data_are_an_error_not_an_empty_step(own: Rig, hsc_repo: Survey) -> None:
    spec = own.create(hsc_spec(f"{hsc_repo.where} AND visit < 0"))
    with pytest.raises(NoInputsError):
        prepare_inputs(own.instance, own.site, spec, "step1")
    assert load_plan(own.instance, "camp", "step1") is None


def test_requirements_that_are_not_met_are_an_error(own: Rig, hsc_repo: Survey) -> None:
    spec = own.create(hsc_spec(hsc_repo.where, requirements={"raw": 1000}))
    with pytest.raises(NoInputsError, match="requirement raw: 33 found, 1000 wanted"):
        prepare_inputs(own.instance, own.site, spec, "step1")


def test_inputs_of_a_step_wait_for_what_it_needs(rig: Rig) -> None:
    with pytest.raises(LedgerError, match="step2 needs step1, not collected yet"):
        prepare_inputs(rig.instance, rig.site, rig.create(), "step2")
