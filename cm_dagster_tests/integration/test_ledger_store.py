"""What the ledger keeps beside runs: documents, campaigns, plans; and the events of an attempt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dagster as dg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cm_dagster.control.history import decisions
from cm_dagster.crashpoints import set_crash_hook
from cm_dagster.errors import LedgerError
from cm_dagster.ledger import campaigns, events, store, tags
from cm_dagster.ledger.plans import Plan, load_plan, load_plans, save_plan
from cm_dagster.plan.groups import Group
from cm_dagster.plan.names import StepId, group_name
from cm_dagster.policy.states import State
from cm_dagster_tests.integration.ledger_rig import SITE, STEP1, Rig, make_spec

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
KEY = dg.AssetKey(STEP1.asset)

# ----------------------------------------------------------------------------------------------------------- store


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=JSON)
def test_any_document_comes_back(rig: Rig, document: Any) -> None:
    store.put(rig.instance, "some", document)
    assert store.get(rig.instance, "some") == document


def test_a_large_document_is_kept_small(rig: Rig) -> None:
    document = {"groups": [[f"g{n:05d}", f"visit IN ({n})", n] for n in range(10_000)]}
    store.put(rig.instance, "large", document)
    assert store.get(rig.instance, "large") == document
    (text,) = rig.instance.daemon_cursor_storage.get_cursor_values({"cm_dagster/large"}).values()
    assert len(text) < 150_000


def test_several_documents_in_one_query(rig: Rig) -> None:
    for name in "abc":
        store.put(rig.instance, name, name * 3000)
    store.put(rig.instance, "a", 1)
    found = store.get_many(rig.instance, ["a", "b", "nope"])
    assert found == {"a": 1, "b": "b" * 3000}
    assert store.get_many(rig.instance, []) == {}
    assert store.get(rig.instance, "nope") is None


# ------------------------------------------------------------------------------------------------------- campaigns


def test_creating_a_campaign_twice_changes_nothing(rig: Rig) -> None:
    spec = make_spec(description="x" * 10_000)
    assert campaigns.create(rig.instance, spec, user="ann", reason="DM-1")
    before = campaigns.find(rig.instance, "camp")
    assert not campaigns.create(rig.instance, spec, user="bob")
    assert campaigns.find(rig.instance, "camp") == before
    assert (before.spec, before.started, before.user, before.reason) == (spec, False, "ann", "DM-1")
    assert rig.instance.get_dynamic_partitions("campaigns") == ["camp"]


def test_another_specification_under_the_same_name_is_refused(rig: Rig) -> None:
    rig.create()
    with pytest.raises(LedgerError, match="exists with another specification"):
        campaigns.create(rig.instance, make_spec(description="other"), user="bob")
    assert campaigns.find(rig.instance, "camp").spec == make_spec()


def test_decisions_are_kept_with_who_and_why(rig: Rig) -> None:
    rig.create(start=False)
    assert campaigns.start(rig.instance, "camp", user="bob", reason="go")
    assert not campaigns.start(rig.instance, "camp", user="eve")
    assert campaigns.sign_off(rig.instance, "camp", "step3", user="cleo", reason="plots are fine")
    assert not campaigns.sign_off(rig.instance, "camp", "step3", user="eve", reason="me too")
    now = campaigns.find(rig.instance, "camp")
    assert (now.started, now.signed, now.user) == (True, frozenset({"step3"}), "cleo")
    history = [(each.user, each.action, each.reason) for each in decisions(rig.instance, "camp")]
    assert history == [("pilot", "create", ""), ("bob", "start", "go"), ("cleo", "sign-off step3", "plots are fine")]


@pytest.mark.parametrize("step", ["step1", "nope"])
def test_only_a_gate_is_signed_off(rig: Rig, step: str) -> None:
    rig.create()
    with pytest.raises(LedgerError, match="has no gate") as caught:
        campaigns.sign_off(rig.instance, "camp", step, user="cleo", reason="")
    assert "step3" in caught.value.advice


def test_campaigns_by_name(rig: Rig) -> None:
    assert campaigns.load_all(rig.instance) == {}
    for name in ("b", "a"):
        rig.create(make_spec(campaign=name), start=name == "a")
    found = campaigns.load_all(rig.instance)
    assert list(found) == ["a", "b"]
    assert [campaign.started for campaign in found.values()] == [True, False]
    with pytest.raises(LedgerError, match="there is no campaign 'c'") as caught:
        campaigns.find(rig.instance, "c")
    assert caught.value.advice == "known campaigns: a, b"


def test_a_campaign_whose_creation_died_half_way_can_be_created(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(rig.instance, "add_dynamic_partitions", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            campaigns.create(rig.instance, make_spec(), user="ann")
    assert campaigns.load_all(rig.instance) == {}
    assert campaigns.create(rig.instance, make_spec(), user="ann")
    assert campaigns.find(rig.instance, "camp").spec == make_spec()


# ----------------------------------------------------------------------------------------------------------- plans


def plan(count: int, *, sites: tuple[str, ...] = (SITE,), step: str = "step1") -> Plan:
    made = [Group(group_name(n, count), f"visit = {n}", n, None, "l", sites[n % len(sites)], n) for n in range(count)]
    return Plan("camp", step, tuple(made), ("HSC/defaults",))


def partitions(rig: Rig, site: str = SITE) -> list[str]:
    return list(rig.instance.get_dynamic_partitions(StepId("camp", "step1", site).tag))


def test_a_plan_makes_partitions_and_comes_back(rig: Rig) -> None:
    assert load_plan(rig.instance, "camp", "step1") is None
    assert save_plan(rig.instance, plan(12), begun=False)
    assert load_plan(rig.instance, "camp", "step1") == plan(12)
    assert partitions(rig) == [f"g{n:04d}" for n in range(12)]
    assert not save_plan(rig.instance, plan(12), begun=True)
    assert partitions(rig) == [f"g{n:04d}" for n in range(12)]


def test_a_plan_may_change_until_a_group_has_begun(rig: Rig) -> None:
    save_plan(rig.instance, plan(3), begun=False)
    save_plan(rig.instance, plan(5), begun=False)
    assert len(partitions(rig)) == 5
    save_plan(rig.instance, plan(2), begun=False)
    assert partitions(rig) == ["g0000", "g0001"]
    with pytest.raises(LedgerError, match="other groups"):
        save_plan(rig.instance, plan(3), begun=True)
    assert load_plan(rig.instance, "camp", "step1") == plan(2)
    assert partitions(rig) == ["g0000", "g0001"]


def test_groups_that_move_to_another_site_leave_no_partitions_behind(rig: Rig) -> None:
    save_plan(rig.instance, plan(4, sites=("here", "there")), begun=False)
    assert (partitions(rig), partitions(rig, "there")) == (["g0000", "g0002"], ["g0001", "g0003"])
    save_plan(rig.instance, plan(4), begun=False)
    assert (len(partitions(rig)), partitions(rig, "there")) == (4, [])


def test_plans_of_several_steps(rig: Rig) -> None:
    for step, count in (("step1", 3), ("step2", 400)):
        save_plan(rig.instance, plan(count, step=step), begun=False)
    found = load_plans(rig.instance, "camp", ["step1", "step2", "step3"])
    assert {step: len(each.groups) for step, each in found.items()} == {"step1": 3, "step2": 400}
    with pytest.raises(LedgerError, match="no group 'g0003'"):
        found["step1"].group("g0003")
    assert found["step1"].group("g0002").where == "visit = 2"


# ---------------------------------------------------------------------------------------------------------- events


def run_status(rig: Rig, run_id: str) -> str:
    run = rig.instance.get_run_by_id(run_id)
    assert run is not None
    return str(run.status.value)


def materializations(rig: Rig) -> int:
    return len(rig.instance.fetch_materializations(dg.AssetRecordsFilter(asset_key=KEY), limit=10).records)


def test_an_accepted_attempt(rig: Rig) -> None:
    rig.plan(1)
    run_id = rig.begin("g0000")
    assert run_status(rig, run_id) == "STARTED"
    events.accept(rig.instance, events.Acceptance(rig.attempt(run_id), "3 of 3", {"quanta": 3}))
    assert run_status(rig, run_id) == "SUCCESS"
    assert rig.state(run_id) is State.ACCEPTED
    assert rig.instance.get_materialized_partitions(KEY) == {"g0000"}
    assert rig.end_message(run_id) == "3 of 3"


def test_accepting_again_after_a_crash_writes_one_materialization(rig: Rig) -> None:
    run_id = rig.begin("g0000")
    attempt = rig.attempt(run_id)

    def die(point: str) -> None:
        if point == "accept.materialized":
            raise KeyboardInterrupt

    set_crash_hook(die)
    try:
        with pytest.raises(KeyboardInterrupt):
            events.accept(rig.instance, events.Acceptance(attempt, "good", {}))
    finally:
        set_crash_hook(None)
    assert run_status(rig, run_id) == "STARTED"
    events.accept(rig.instance, events.Acceptance(attempt, "good", {}))
    assert materializations(rig) == 1
    assert run_status(rig, run_id) == "SUCCESS"


def test_a_failed_attempt_is_no_materialization(rig: Rig) -> None:
    run_id = rig.begin("g0000")
    events.fail(rig.instance, rig.attempt(run_id), "isr: 3 of 9 quanta failed", {"verdict": "bad"})
    assert run_status(rig, run_id) == "FAILURE"
    assert rig.end_message(run_id) == "isr: 3 of 9 quanta failed"
    assert materializations(rig) == 0


def test_a_cancellation_shows_in_the_event_log_even_if_the_status_is_overwritten(rig: Rig) -> None:
    for group, force in (("g0000", False), ("g0001", True)):
        run_id = rig.queue(group)
        attempt = rig.attempt(run_id)
        assert not events.cancel_asked(rig.instance, [run_id])
        rig.terminate(run_id, force=force)
        events.start(rig.instance, attempt)
        assert run_status(rig, run_id) == "STARTED"
        assert events.cancel_asked(rig.instance, [run_id, "another"]) == {run_id}
        events.cancelled(rig.instance, run_id, "nothing was submitted", swept=True)
        assert run_status(rig, run_id) == "CANCELED"
        assert rig.attempt(run_id).swept


def test_states_are_written_only_where_they_may_follow(rig: Rig) -> None:
    run_id = rig.begin("g0000")
    events.set_state(rig.instance, rig.attempt(run_id), State.UNKNOWN, {tags.FINALIZED: "1"})
    assert (rig.state(run_id), rig.attempt(run_id).finalized) == (State.UNKNOWN, 1)
    with pytest.raises(ValueError, match="finalizing may not follow unknown"):
        events.set_state(rig.instance, rig.attempt(run_id), State.FINALIZING)
    assert rig.state(run_id) is State.UNKNOWN
    stale = replace(rig.attempt(run_id), state=State.ACCEPTED)
    with pytest.raises(ValueError, match="may not follow accepted"):
        events.set_state(rig.instance, stale, State.RUNNING)
