"""The comparisons of the audit: a world in order gives nothing, and no workflow that is recorded is ever cancelled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm_dagster.plan.names import AttemptId, StepId
from cm_dagster.policy import audit, audit_traces
from cm_dagster.policy.audit_traces import Chain
from cm_dagster.policy.findings import ALARMING, MEANING, Finding, Kind, Known, Place, Workflow
from cm_dagster.policy.states import OPEN, SHOWN_AS, RunStatus, State

STEP = StepId("camp", "step1", "here")
PLACE = Place("here", "a.WmsService", Path("/area"), settle=60.0)
ALIVE = ("pending", "running", "held", "unknown")
ENDED = ("succeeded", "failed", "cancelled")
IN_HANDS = [state for state, shown in SHOWN_AS.items() if shown is RunStatus.STARTED]
OVER = [State.ACCEPTED, State.FAILED]
ATTEMPT = AttemptId(STEP, "g0001", 1)


def known(state: State, *wms_ids: str, run_id: str = "r1", id_: AttemptId = ATTEMPT, quiet: float = 9e9) -> Known:
    return Known(id_, run_id, state, frozenset(wms_ids), quiet)


def flow(wms_id: str, state: str = "running", path: str = "", id_: AttemptId = ATTEMPT) -> Workflow:
    return Workflow(wms_id, id_, state, path)


def workflows(runs: Sequence[Known], *flows: Workflow) -> list[Finding]:
    return list(audit.compare_workflows(flows, runs, PLACE))


# ------------------------------------------------------------------------------------------------------- workflows


@st.composite
def in_order(draw: st.DrawFn) -> tuple[list[Known], list[Workflow]]:
    """Attempts and workflows that fit together."""
    runs, flows = [], []
    for number in range(draw(st.integers(0, 6))):
        id_ = AttemptId(STEP, f"g{number:04d}", draw(st.integers(1, 3)))
        wms_id = str(number)
        state = draw(st.sampled_from(State))
        has = state in IN_HANDS or (state is not State.QUEUED and draw(st.booleans()))
        runs.append(known(state, *([wms_id] if has else []), run_id=f"r{number}", id_=id_))
        said = draw(st.sampled_from((*ALIVE, *ENDED) if state in IN_HANDS else ENDED))
        if has and draw(st.booleans()):  # a WMS forgets what ended long ago
            flows.append(flow(wms_id, said, id_=id_))
    return runs, draw(st.permutations(flows))


@given(in_order())
def test_what_fits_is_no_finding(world: tuple[list[Known], list[Workflow]]) -> None:
    runs, flows = world
    assert workflows(runs, *flows) == []
    assert list(audit.compare_attempts(runs)) == []


ANY_FLOWS = st.lists(
    st.builds(flow, st.sampled_from("12345"), st.sampled_from((*ALIVE, *ENDED)), st.sampled_from(["", "/a", "/b"])),
    max_size=4,
    unique_by=lambda found: found.wms_id,
)
ANY_RUNS = st.lists(
    st.builds(
        lambda state, ids, run_id, quiet: known(state, *ids, run_id=run_id, quiet=quiet),
        st.sampled_from(State),
        st.sets(st.sampled_from("12345"), max_size=2),
        st.sampled_from(["r1", "r2", "r3"]),
        st.sampled_from([0.0, 100.0, 9e9]),
    ),
    max_size=3,
    unique_by=lambda run: run.run_id,
)


@given(ANY_RUNS, ANY_FLOWS)
def test_only_a_live_twin_beside_a_recorded_workflow_is_cancelled(runs: list[Known], flows: list[Workflow]) -> None:
    recorded = {wms_id for run in runs for wms_id in run.wms_ids}
    by_id = {found.wms_id: found for found in flows}
    found = workflows(runs, *flows)
    for finding in found:
        assert finding.cancel <= (finding.kind is Kind.TWIN_WORKFLOW)
        if finding.cancel:
            assert by_id[finding.wms_id].alive
            assert finding.wms_id not in recorded
            assert recorded & set(by_id)  # the one that stays is there
    assert {finding.wms_id for finding in found} <= set(by_id)
    assert len({(finding.kind, finding.wms_id) for finding in found}) == len(found)
    # Whatever is alive and not recorded is spoken of, unless it may be in somebody's hands just now.
    if recorded & set(by_id):
        spoken = {finding.wms_id for finding in found}
        assert {each.wms_id for each in flows if each.alive and each.wms_id not in recorded} <= spoken


@given(ANY_RUNS, ANY_FLOWS)
def test_findings_say_what_to_do_and_are_json(runs: list[Known], flows: list[Workflow]) -> None:
    for finding in [*workflows(runs, *flows), *audit.compare_attempts(runs)]:
        assert finding.where == "camp step1 g0001 a01"
        assert finding.advice
        json.dumps(finding.to_json())


@pytest.mark.parametrize("state", [*IN_HANDS, State.CANCELLED, *OVER])
@pytest.mark.parametrize("twin", ALIVE)
def test_a_live_twin(state: State, twin: str) -> None:
    own = "running" if state in IN_HANDS else "cancelled"
    (finding,) = workflows([known(state, "1")], flow("1", own), flow("2", twin))
    assert (finding.kind, finding.wms_id, finding.cancel) == (Kind.TWIN_WORKFLOW, "2", True)


@pytest.mark.parametrize(("twin", "kinds"), [("cancelled", []), ("failed", [False]), ("succeeded", [False])])
def test_a_twin_that_has_ended(twin: str, kinds: list[bool]) -> None:
    found = workflows([known(State.RUNNING, "1")], flow("1"), flow("2", twin))
    assert [finding.cancel for finding in found] == kinds


def test_three_of_one_name() -> None:
    found = workflows([known(State.RUNNING, "2")], flow("1"), flow("2"), flow("3", "held"))
    assert [(finding.wms_id, finding.cancel) for finding in found] == [("1", True), ("3", True)]


def test_a_restart_by_hand_under_a_new_id_is_not_cancelled() -> None:
    (finding,) = workflows([known(State.ENDED, "1")], flow("1", "failed", "/a"), flow("2", "running", "/a"))
    assert (finding.kind, finding.cancel) == (Kind.ORPHAN_WORKFLOW, False)
    (finding,) = workflows([known(State.ENDED, "1")], flow("1", "failed", "/a"), flow("2", "running", "/b"))
    assert (finding.kind, finding.cancel) == (Kind.TWIN_WORKFLOW, True)


def test_the_earlier_lives_of_a_workflow_that_was_restarted_are_no_twins() -> None:
    run = known(State.RUNNING, "2")
    assert workflows([run], flow("1", "failed", "/a"), flow("2", "running", "/a")) == []
    assert workflows([replace(run, restarts=1)], flow("1", "failed"), flow("2")) == []
    (finding,) = workflows([replace(run, restarts=1)], flow("1"), flow("2"))
    assert finding.cancel


@pytest.mark.parametrize("state", sorted(OPEN - {State.CANCELLING}))
def test_an_attempt_that_is_being_submitted_has_time(state: State) -> None:
    assert workflows([known(state, quiet=59.0)], flow("1"), flow("2")) == []
    (finding,) = workflows([known(state, quiet=61.0)], flow("1"))
    assert finding.kind is Kind.ORPHAN_WORKFLOW
    (finding,) = workflows([known(state, quiet=61.0)], flow("1"), flow("2"))
    assert (finding.kind, finding.cancel) == (Kind.TWIN_WORKFLOW, False)


@pytest.mark.parametrize("ids", [(), ("1",)])
@pytest.mark.parametrize("state", [State.CANCELLING, State.CANCELLED])
def test_a_cancellation_that_did_not_take(state: State, ids: tuple[str, ...]) -> None:
    assert workflows([known(state, *ids, quiet=audit.CANCEL_TAKES - 1)], flow("1")) == []
    (finding,) = workflows([known(state, *ids, quiet=audit.CANCEL_TAKES)], flow("1"))
    assert (finding.kind, finding.cancel) == (Kind.LOST_CANCEL, False)
    assert workflows([known(state, *ids)], flow("1", "succeeded")) == []


def test_of_two_runs_of_one_number_the_one_that_was_not_turned_away_counts() -> None:
    turned_away = known(State.CANCELLED, run_id="r9")
    (finding,) = workflows([turned_away, known(State.RUNNING, "1")], flow("1"), flow("2"))
    assert finding.run_id == "r1"
    assert workflows([turned_away, known(State.RUNNING, "1")], flow("1")) == []


def test_campaigns_that_the_ledger_does_not_know() -> None:
    other = AttemptId(StepId("other", "step1", "here"), "g0000", 1)
    flows = [flow("1"), flow("2", id_=other), flow("3", "failed", id_=other)]
    (finding,) = audit.strange_campaigns(flows, {"camp"}, PLACE)
    assert (finding.campaign, finding.wms_id, finding.where) == ("other", "2", "other")


# ------------------------------------------------------------------------------------------- the ledger by itself


def test_two_attempts_at_once() -> None:
    second = replace(ATTEMPT, number=2)
    first = known(State.RUNNING, "1")
    (finding,) = audit.compare_attempts([first, known(State.SUBMITTED, "2", run_id="r2", id_=second)])
    assert (finding.kind, finding.run_id) == (Kind.TWIN_ATTEMPT, "r2")
    (finding,) = audit.compare_attempts([known(State.ACCEPTED, "1"), known(State.FAILED, "2", run_id="r2")])
    assert finding.kind is Kind.TWIN_ATTEMPT
    for state in (State.QUEUED, State.CANCELLED):  # it is turned away in its turn, or was
        assert list(audit.compare_attempts([first, known(state, run_id="r2")])) == []
    for state in OVER:  # it was re-executed
        assert list(audit.compare_attempts([known(state, "1"), known(State.RUNNING, run_id="r2", id_=second)])) == []


@pytest.mark.parametrize("state", State)
def test_unknown_for_a_day(state: State) -> None:
    run = replace(known(state, "1"), since=1000.0)
    assert audit.stale_unknown(run, 1000.0 + audit.DAY - 1, PLACE) is None
    finding = audit.stale_unknown(run, 1000.0 + audit.DAY, PLACE)
    assert (finding is not None) == (state is State.UNKNOWN)
    assert audit.stale_unknown(replace(run, since=None), 9e9, PLACE) is None


def test_unknown_without_a_workflow() -> None:
    finding = audit.stale_unknown(replace(known(State.UNKNOWN), since=0.0), 9e9, PLACE)
    assert finding is not None
    assert "not certain whether anything was submitted" in finding.seen


# ---------------------------------------------------------------------------------------------------------- traces


def claims(claimed: dict[AttemptId, str], runs: Sequence[Known]) -> list[Finding]:
    owners = {run.run_id: run.id for run in runs}
    return list(audit_traces.compare_claims(claimed, runs, owners, PLACE))


@given(in_order(), st.data())
def test_claims_that_fit(world: tuple[list[Known], list[Workflow]], data: st.DataObject) -> None:
    runs, _ = world
    claimed = {run.id: run.run_id for run in runs if run.in_hands or data.draw(st.booleans())}
    assert claims(claimed, runs) == []
    if claimed:
        lost = data.draw(st.sampled_from(sorted(claimed)))
        del claimed[lost]
        need = [run.run_id for run in runs if run.id == lost and run.in_hands]
        found = claims(claimed, runs)
        assert [finding.run_id for finding in found] == need
        assert {finding.kind for finding in found} <= {Kind.RUN_WITHOUT_CLAIM}


def test_the_advice_names_files_so_that_a_shell_understands_them() -> None:
    place = replace(PLACE, area=Path("/the area"))
    (finding,) = audit_traces.compare_claims({ATTEMPT: "gone"}, [], {}, place)
    assert finding.advice.endswith(": `rm '/the area/camp/step1/g0001/claims/a01'`")
    (finding,) = audit_traces.compare_claims({}, [known(State.RUNNING)], {"r1": ATTEMPT}, place)
    assert finding.advice.endswith("printf %s r1 > '/the area/camp/step1/g0001/claims/a01'`")


def test_a_claim_of_somebody_else() -> None:
    other = replace(ATTEMPT, number=2)
    runs = [known(State.RUNNING), known(State.FAILED, run_id="r2", id_=other)]
    found = claims({ATTEMPT: "r2"}, runs)
    assert [finding.kind for finding in found] == [Kind.CLAIM_WITHOUT_RUN, Kind.RUN_WITHOUT_CLAIM]
    assert "r2" in found[1].seen


def test_a_chain_says_how_much_it_lacks() -> None:
    needed = {f"run{number}": f"g{number:04d}" for number in range(20)}
    chain = Chain("u/camp/step1", "camp", "step1", needed, "cure")
    assert audit_traces.compare_chain(chain, list(needed), "/repo") is None
    assert audit_traces.compare_chain(replace(chain, needed={}), None, "/repo") is None
    lacking = audit_traces.compare_chain(chain, ["run3"], "/repo")
    assert lacking is not None
    assert "the chain u/camp/step1 lacks 19 accepted groups (g0000, g0001, g0002, g0004, g0005, ...)" in lacking.seen
    none = audit_traces.compare_chain(chain, None, "/repo")
    assert none is not None
    assert "there is no chain u/camp/step1, which should hold 20 accepted groups" in none.seen


def test_only_what_the_registry_lacks_is_missing() -> None:
    second = replace(ATTEMPT, group="g0002")
    runs = [(known(State.ACCEPTED, "1"), "run1"), (known(State.ACCEPTED, "2", id_=second), "run2")]
    (finding,) = audit_traces.compare_outputs(runs, {"run1"}, "/repo")
    assert (finding.group, finding.kind in ALARMING) == ("g0002", True)


# ----------------------------------------------------------------------------------------------------------- kinds


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_is_explained_to_people(kind: Kind) -> None:
    guide = (Path(__file__).parents[3] / "docs/operator-guide.md").read_text()
    row = next(line for line in guide.splitlines() if line.startswith(f"| `{kind}`"))
    assert MEANING[kind] in row
    assert ("**alarm**" in row) == (kind in ALARMING)
