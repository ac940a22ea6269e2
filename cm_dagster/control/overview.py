"""Where campaigns stand, for people and for scripts: one look at the ledger, no service is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from cm_dagster.control.floor import Floor
from cm_dagster.control.health import Progress, SiteHealth, read_progress, read_sites
from cm_dagster.control.history import end_message, iso
from cm_dagster.control.holding import Holding
from cm_dagster.control.lanes import lanes_text
from cm_dagster.control.places import Journeys, Place, places_of, places_text
from cm_dagster.control.reasons import Action, count_of, failed_action, reason_for
from cm_dagster.control.steps import Board, load_boards
from cm_dagster.control.turns import answered, due
from cm_dagster.control.twins import Alarm, read_alarms
from cm_dagster.control.waiting import GroupWait, why_waits
from cm_dagster.ledger import campaigns
from cm_dagster.ledger.attempts import Attempt, AttemptIndex, index_of
from cm_dagster.ledger.decisions import Decided, GroupHold
from cm_dagster.plan.groups import Group
from cm_dagster.plan.names import StepId
from cm_dagster.policy.holds import stopped
from cm_dagster.policy.progress import CampaignState, StepFacts, StepState, campaign_state, step_state
from cm_dagster.policy.states import GroupState, State, group_state
from cm_dagster.spec import SiteSpec

__all__ = ["CampaignView", "Failure", "GroupView", "SiteView", "StepView", "groups_of", "overview", "tick_of"]

_SHOWN = 20
"""Most groups of a step of which the cause of failure is looked up."""

_AT_THE_WMS = frozenset({State.CLAIMED, State.SUBMITTED, State.RUNNING, State.UNKNOWN, State.CANCELLING})
"""States of attempts of which only the WMS can tell how they go on."""


@dataclass(frozen=True)
class GroupView:
    """A group and its latest attempt."""

    step: StepId
    group: Group
    state: GroupState
    attempt: Attempt | None = None
    """None if it has none."""
    hold: GroupHold | None = None
    """Who holds it, and why."""

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON can hold it."""
        attempt = self.attempt
        return {
            "step": self.step.step,
            "group": self.group.name,
            "site": self.group.site,
            "state": str(self.state),
            "attempt": attempt.id.number if attempt else None,
            "run_id": attempt.run_id if attempt else None,
            "wms_id": (attempt.wms_id or None) if attempt else None,
            "size": self.group.size,
            "quanta": self.group.quanta,
            "datasets": self.group.datasets,
            "label": self.group.label,
            "where": self.group.where,
        }


@dataclass(frozen=True)
class Failure:
    """A group that needs a person, and why."""

    group: str
    site: str
    state: GroupState
    attempt: int
    run_id: str
    cause: str

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON can hold it."""
        return {
            "group": self.group,
            "site": self.site,
            "state": str(self.state),
            "attempt": self.attempt,
            "run_id": self.run_id,
            "cause": self.cause,
        }


@dataclass(frozen=True)
class StepView:
    """Where a step stands."""

    step: str
    state: StepState
    groups: Mapping[GroupState, int]
    """Number of groups in each state, each state named; all 0 before the step is planned."""
    reason: str = ""
    """Why it waits or is blocked and what to do about it; empty where nothing needs to be said."""
    failures: tuple[Failure, ...] = ()
    """Some of the groups that failed or are held."""
    jobs: Mapping[str, int] = field(default_factory=dict)
    """Number of jobs in each state, of the workflows in flight, as last seen."""
    waits: tuple[GroupWait, ...] = ()
    """Some of the groups that wait for something to pass: a service that is away, a full disk."""
    sites: tuple[Place, ...] = ()
    """How it stands at each of its sites."""

    @property
    def total(self) -> int:
        """Number of groups."""
        return sum(self.groups.values())

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON can hold it."""
        return {
            "step": self.step,
            "state": str(self.state),
            "groups": {"total": self.total, **{str(state): count for state, count in self.groups.items()}},
            "reason": self.reason,
            "failures": [failure.to_json() for failure in self.failures],
            "jobs": dict(self.jobs),
            "waits": [wait.to_json() for wait in self.waits],
            "sites": [site.to_json() for site in self.sites],
        }


@dataclass(frozen=True)
class SiteView:
    """Whether a site and its WMS answer, whether it is stopped, and what must not happen but has."""

    site: str
    health: SiteHealth
    alarms: tuple[Alarm, ...] = ()
    """Twins of workflows that there were lately, the oldest first."""

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON can hold it."""
        wms, silence, downtime = self.health.wms, self.health.silence, self.health.downtime
        return {
            "site": self.site,
            "answers": wms.answers,
            "since": iso(wms.since) if wms.since else None,
            "cause": wms.cause,
            "asked": wms.asked,
            "silent": silence.to_json() if silence else None,
            "stopped": downtime.to_json() if downtime else None,
            "alarms": [alarm.to_json() for alarm in self.alarms],
        }


@dataclass(frozen=True)
class CampaignView:
    """Where a campaign stands."""

    campaign: str
    state: CampaignState
    started: bool
    output: str
    """Its output collection."""
    steps: tuple[StepView, ...]
    """In the order in which they run."""
    sites: tuple[SiteView, ...]

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON can hold it."""
        return {
            "campaign": self.campaign,
            "state": str(self.state),
            "started": self.started,
            "output": self.output,
            "steps": [step.to_json() for step in self.steps],
            "sites": [site.to_json() for site in self.sites],
        }


def overview(
    instance: dg.DagsterInstance, names: Iterable[str] | None = None, specs: Mapping[str, SiteSpec] | None = None
) -> list[CampaignView]:
    """Say where campaigns stand.

    Parameters
    ----------
    instance
        The Dagster instance.
    names
        Names of the campaigns; by default all.
    specs
        The sites as their file has them, by name, as far as known: it is said where their limits keep groups from
        going.

    Raises
    ------
    LedgerError
        If there is no campaign of such a name.
    """
    wanted = None if names is None else [campaigns.find(instance, name).spec.campaign for name in names]
    boards = load_boards(instance, wanted)
    sites = sorted({site for board in boards for site in board.campaign.spec.sites})
    look = _Look(
        instance,
        index_of(instance),
        read_sites(instance, {site: tick_of(specs, site) for site in sites}),
        {run_id: entry for site in sites for run_id, entry in read_progress(instance, site).items()},
        read_alarms(instance, sites),
        {site: _holding(instance, site, (specs or {}).get(site)) for site in sites},
    )
    return [look.campaign(board) for board in boards]


def _holding(instance: dg.DagsterInstance, site: str, spec: SiteSpec | None) -> Holding:
    return Holding(instance, site) if spec is None else Floor(instance, site, spec)


def tick_of(specs: Mapping[str, SiteSpec] | None, site: str) -> float:
    """How often a site looks at its WMS, in seconds; the default where its settings are not known."""
    return specs[site].tick if specs and site in specs else float(SiteSpec.model_fields["tick"].default)


def groups_of(
    board: Board,
    step: str,
    index: AttemptIndex,
    health: Mapping[str, SiteHealth] | None = None,
    decided: Mapping[str, Decided] | None = None,
) -> list[GroupView]:
    """List the groups of a step with their states, in order; none before it is planned.

    Parameters
    ----------
    board
        Where the campaign stands.
    step
        Name of the step.
    index
        All attempts.
    health
        Health of sites; where the WMS or the code server does not answer, what is in its hands is unknown.
    decided
        What is to come of decisions, by tag of the step; groups that it holds are shown as held.
    """
    plan = board.plans.get(step)
    if plan is None:
        return []
    ids = {site: StepId(board.name, step, site) for site in plan.sites}
    latest = {site: index.of_step(id_) for site, id_ in ids.items()}
    deaf = {site for site, entry in (health or {}).items() if not entry.answers}
    holds = {site: (decided or {}).get(id_.tag, Decided()).holds for site, id_ in ids.items()}
    return [
        GroupView(ids[group.site], group, _shown(attempt, group.site in deaf, hold is not None), attempt, hold)
        for group in plan.groups
        for attempt in [latest[group.site].get(group.name)]
        for hold in [holds[group.site].get(group.name)]
    ]


def _shown(attempt: Attempt | None, deaf: bool, held: bool) -> GroupState:
    if attempt and deaf and attempt.state in _AT_THE_WMS:
        return GroupState.UNKNOWN
    state = group_state(attempt.state if attempt else None)
    return GroupState.HELD if held and state in (GroupState.PLANNED, GroupState.FAILED) else state


def _held(group: GroupView) -> str:
    return f"Held {group.hold}." if group.hold else ""


@dataclass(frozen=True)
class _Look:
    """One look at everything that is known."""

    instance: dg.DagsterInstance
    index: AttemptIndex
    health: Mapping[str, SiteHealth]
    progress: Mapping[str, Progress]
    alarms: Mapping[str, Sequence[Alarm]]
    holding: Mapping[str, Holding]

    def campaign(self, board: Board) -> CampaignView:
        spec = board.campaign.spec
        steps: dict[str, StepView] = {}
        for name in spec.order():
            steps[name] = self._step(board, name, {need: steps[need].state for need in spec.steps[name].needs})
        return CampaignView(
            campaign=board.name,
            state=campaign_state(
                board.campaign.started,
                [step.state for step in steps.values()],
                paused=board.campaign.pause("") is not None,
            ),
            started=board.campaign.started,
            output=spec.butler.output,
            steps=tuple(steps.values()),
            sites=tuple(SiteView(site, self.health[site], self._alarms(board.name, site)) for site in spec.sites),
        )

    def _alarms(self, campaign: str, site: str) -> tuple[Alarm, ...]:
        return tuple(alarm for alarm in self.alarms[site] if alarm.workflow.startswith(f"{campaign}."))

    def _step(self, board: Board, step: str, needs: Mapping[str, StepState]) -> StepView:
        groups = groups_of(board, step, self.index, self.health, self._decided(board, step))
        counts = Counter(group.state for group in groups)
        counted = {state: counts[state] for state in GroupState}
        journeys = Journeys.of(self.instance, board, step, self.index) if step in board.plans else {}
        places = places_of(((group.step.site, group.state) for group in groups), journeys)
        action = self._action(board, step, journeys)
        facts = self._facts(board, step, counted, action, groups)
        state = step_state(facts)
        sites = {group.step.site for group in groups if group.state is GroupState.UNKNOWN}
        deaf = {site: self.health[site] for site in sites if not self.health[site].answers}
        waits = self._waits(groups)
        return StepView(
            step=step,
            state=state,
            groups=counted,
            reason=reason_for(
                board,
                step,
                state,
                facts,
                needs=needs,
                action=action,
                deaf=deaf,
                waits=waits,
                holds=self._holds(board, step) or self._full(board, step, groups),
                places=[*places_text(places), *lanes_text(self.instance, board, step)],
            ),
            failures=self._failures(groups),
            jobs=self._jobs(groups),
            waits=tuple(waits[:_SHOWN]),
            sites=places,
        )

    def _decided(self, board: Board, step: str) -> dict[str, Decided]:
        plan = board.plans.get(step)
        sites = [self.holding[site] for site in plan.sites] if plan and step in board.active else []
        return {site.step_id(board, step).tag: site.decided(board, step) for site in sites}

    def _waits(self, groups: Iterable[GroupView]) -> list[GroupWait]:
        seen = [(each, each.attempt) for each in groups if each.attempt]
        return [
            GroupWait(each.group.name, each.step.site, wait)
            for each, attempt in seen
            if attempt and (wait := why_waits(attempt, self.progress.get(attempt.run_id)))
        ]

    def _action(self, board: Board, step: str, journeys: Mapping[StepId, Journeys]) -> Action | None:
        """Look at the latest run of what the step needs next: of its inputs, a journey, its chain, or its collect."""
        if step in board.collected or not (step in board.plans or step in board.may_plan()):
            return None
        return failed_action(self.instance, board, step, self.index, journeys)

    def _holds(self, board: Board, step: str) -> list[str]:
        """Say what keeps groups of a step from going, and is to be known."""
        plan = board.plans.get(step)
        found = [hold for site in (plan.sites if plan else ()) for hold in self.holding[site].explained(board, step)]
        return list(dict.fromkeys(hold.reason for hold in found))

    def _full(self, board: Board, step: str, groups: Iterable[GroupView]) -> list[str]:
        """Say which limits keep groups of a step from going."""
        waiting = Counter(each.step.site for each in groups if each.state in (GroupState.PLANNED, GroupState.QUEUED))
        found = []
        for site, number in waiting.items() if step in board.active else ():
            floor = self.holding[site]
            said = isinstance(floor, Floor) and (floor.downtime or floor.health.answers)
            full = isinstance(floor, Floor) and said and (floor.site_full or floor.campaign_full(board))
            found += [f"{count_of(number, 'group')} to go: {full}"] if full else []
        return found

    def _facts(
        self,
        board: Board,
        step: str,
        counts: Mapping[GroupState, int],
        action: Action | None,
        groups: Iterable[GroupView],
    ) -> StepFacts:
        planned = step in board.plans
        retriable, going = self._by_themselves(board, step)
        # Nothing is made ready before the campaign is started, so its first steps wait too.
        ready = board.campaign.started or planned
        return StepFacts(
            needs_collected=ready and (planned or board.collected.issuperset(board.campaign.spec.steps[step].needs)),
            lanes_left=len(board.lanes_left(step)),
            signed_off=board.signed_off(step),
            planned=planned,
            collected=step in board.collected,
            action_failed=action is not None and action.failed,
            groups=counts,
            retriable=retriable,
            held_back=counts[GroupState.PLANNED] > 0 and going == 0,
            held_queued=sum(self._is_held(board, step, group) for group in groups),
            paused=planned and board.campaign.pause(step) is not None,
        )

    def _is_held(self, board: Board, step: str, group: GroupView) -> bool:
        """Whether a group is in the queue and will not be taken from it by itself."""
        attempt = group.attempt
        if attempt is None or attempt.state is not State.QUEUED:
            return False
        singly = attempt.by_person and attempt.backfill is None
        holds = self.holding[group.step.site].holds(board, step)
        return bool(stopped([hold for hold in holds if hold.news], group.group.name, singly=singly))

    def _by_themselves(self, board: Board, step: str) -> tuple[int, int]:
        """Count the failed and the planned groups of which an attempt would be requested were all slots free."""
        plan = board.plans.get(step)
        if plan is None or step not in board.active:
            return 0, 0
        sites = [self.holding[site] for site in plan.sites]
        turns = [
            turn for site in sites for turn in (*answered(site, board, [step]), *due(site, board, [step], awaited=True))
        ]
        # A group that was cancelled and released gets an attempt too, and has not failed.
        latest = [self.index.of_step(StepId.from_tag(turn.step)).get(turn.group) for turn in turns]
        again = sum(attempt is not None and attempt.state is State.FAILED for attempt in latest)
        return again, len(turns) - again

    def _failures(self, groups: Iterable[GroupView]) -> tuple[Failure, ...]:
        bad = [(each, each.attempt) for each in groups if each.state in (GroupState.FAILED, GroupState.HELD)]
        first = sorted(bad, key=lambda pair: pair[0].state is GroupState.HELD)[:_SHOWN]
        return tuple(
            Failure(
                group=each.group.name,
                site=each.step.site,
                state=each.state,
                attempt=attempt.id.number,
                run_id=attempt.run_id,
                cause=" ".join(filter(None, [_held(each), end_message(self.instance, attempt.run_id)])),
            )
            for each, attempt in first
            if attempt is not None
        )

    def _jobs(self, groups: Iterable[GroupView]) -> dict[str, int]:
        jobs: Counter[str] = Counter()
        for each in groups:
            entry = self.progress.get(each.attempt.run_id) if each.attempt else None
            jobs.update(entry.jobs if entry else {})
        return dict(sorted(jobs.items()))
