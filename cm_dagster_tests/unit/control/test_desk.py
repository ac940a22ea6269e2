"""The desk follows what changes: it always knows what one that begins anew finds."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import asdict

import dagster as dg
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._serdes import serialize_value
from hypothesis import given
from hypothesis import strategies as st

from cm_dagster.control.desk import Desk, turn
from cm_dagster.ledger import tags
from cm_dagster.ledger.attempts import Attempt, AttemptIndex
from cm_dagster.ledger.plans import Plan
from cm_dagster.plan.groups import Group
from cm_dagster.plan.names import AttemptId, StepId
from cm_dagster.policy.brake import BrakeRule
from cm_dagster.policy.dispatch import urgency
from cm_dagster.policy.states import State
from cm_dagster_tests.attempts import invent

GROUPS = [f"g{place:04d}" for place in range(4)]
STEPS = [StepId(campaign, "s", site) for campaign in ("a", "b") for site in ("x", "y")]
PLANS = {
    step: Plan(step.campaign, "s", tuple(Group(name, "", 1, None, "", step.site) for name in GROUPS)) for step in STEPS
}
ORIGIN = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("x"), "__repository__"), "job")
RULE = BrakeRule(failed=0.5, ended=2, in_a_row=3)


class Index(AttemptIndex):
    """An index of invented attempts."""

    def add(self, attempts: Iterable[Attempt]) -> None:
        for attempt in attempts:
            self._add(attempt)


def make(
    step: StepId,
    group: str,
    number: int,
    state: State,
    *,
    person: bool,
    bulk: bool,
    sent: float,
    times: tuple[int, int],
) -> Attempt:
    begun = state is not State.QUEUED
    status = dg.DagsterRunStatus.STARTED if begun else dg.DagsterRunStatus.QUEUED
    run_id, more = f"{step.tag} {group} {number}", {tags.SENT: str(sent)} if sent else {}
    ended = float(sum(times)) if state in (State.ACCEPTED, State.FAILED) else None
    run = dg.DagsterRun("job", run_id=run_id, status=status, tags=more, remote_job_origin=ORIGIN)
    return invent(
        AttemptId(step, group, number),
        state,
        run_id=run_id,
        wms_id="7" if sent and begun else "",
        by_person=person,
        backfill="b" if bulk else None,
        created=float(times[0]),
        started=float(times[0]) if begun else None,
        ended=ended,
        status=status,
        packed=zlib.compress(serialize_value(run).encode()),
        tags=more,
    )


ATTEMPTS = st.builds(
    make,
    st.sampled_from(STEPS),
    st.sampled_from(GROUPS),
    st.integers(1, 3),
    st.sampled_from(State),
    person=st.booleans(),
    bulk=st.booleans(),
    sent=st.integers(0, 9).map(float),
    times=st.tuples(st.integers(1, 20), st.integers(1, 20)),
)


@given(changes=st.lists(st.lists(ATTEMPTS, max_size=6), max_size=8))
def test_what_is_followed_is_what_is_found_anew(changes: list[list[Attempt]]) -> None:
    index = Index()
    desk = Desk(index)
    for changed in changes:
        index.add(changed)
        desk.refresh()
        anew = Desk(index)
        anew.refresh()
        for step in STEPS:
            for where in ({"site": step.site}, {"campaign": step.campaign}, asdict(step)):
                keys = {key: value for key, value in where.items() if key != "step"}
                assert desk.sent(**keys) == anew.sent(**keys) == sorted(desk.sent(**keys))
            queue = desk.queue(step.site, step.campaign)
            assert queue == anew.queue(step.site, step.campaign)
            assert [turn(a) for a in queue] == sorted(map(turn, queue), key=urgency)
            old, new = (each.brake(step, RULE, 0.0) for each in (desk, anew))
            assert (old.held, old.reason) == (new.held, new.reason)
            old_line, new_line = (each.line(step, PLANS[step], 1) for each in (desk, anew))
            assert list(old_line.due()) == list(new_line.due())


def test_a_submission_that_is_recorded_anew_counts_once() -> None:
    index = Index()
    desk = Desk(index)
    for sent in (5.0, 8.0):
        index.add([make(STEPS[0], "g0000", 1, State.RUNNING, person=False, bulk=False, sent=sent, times=(1, 1))])
        desk.refresh()
        assert list(desk.sent(site="x")) == [sent]
    assert list(desk.sent(site="y")) == []
