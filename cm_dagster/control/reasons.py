"""Why a step waits or is blocked, in one sentence that says what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from cm_dagster.control.again import Failed, failed
from cm_dagster.control.astray import read_astray
from cm_dagster.control.health import SiteHealth
from cm_dagster.control.history import Cause, iso, retried_after
from cm_dagster.control.places import Journeys
from cm_dagster.control.steps import Board, Document, accepted, collected_key, inputs_key
from cm_dagster.control.travel import DELIVER, DOCUMENTS, STAGE, trip_tag
from cm_dagster.control.waiting import GroupWait, waits_text
from cm_dagster.ledger import tags
from cm_dagster.ledger.attempts import AttemptIndex
from cm_dagster.plan.names import StepId
from cm_dagster.policy.backoff import Wait
from cm_dagster.policy.progress import StepFacts, StepState
from cm_dagster.policy.states import GroupState

__all__ = ["Action", "failed_action", "reason_for"]


@dataclass(frozen=True)
class Action:
    """The run that a step waits for, if anything is wrong with it."""

    what: str
    """What it makes, for a sentence."""
    cause: Cause
    remedy: str = ""
    """What to do in the UI once the cause is gone; empty if nothing need be done."""
    wait: Wait | None = None
    """When it is asked for again, if it has ended; it goes on by itself if it has not."""

    @property
    def failed(self) -> bool:
        """Whether nothing happens before a person has done something."""
        return bool(self.remedy)


def failed_action(
    instance: dg.DagsterInstance, board: Board, step: str, index: AttemptIndex, journeys: Mapping[StepId, Journeys]
) -> Action | None:
    """Look at the run that a step waits for: its inputs' before it is planned, else its journeys', chains', collect's.

    Parameters
    ----------
    instance
        The Dagster instance.
    board
        Where the campaign stands.
    step
        A step that has all it needs, or is planned, and is not collected.
    index
        All attempts.
    journeys
        What is to travel for it.

    Returns
    -------
    action
        None if the run has not begun, or goes well.
    """
    plan = board.plans.get(step)
    if plan is None:
        return _of_asset(instance, board, inputs_key(board.name, step), f"the inputs of {step}")
    # First: at the home site it chains the last groups as well.
    if collecting := _of_asset(instance, board, collected_key(board.name, step), f"collecting {step}"):
        return collecting
    for id_, way in journeys.items():
        for kind, what, groups in (
            (STAGE, f"bringing inputs to {id_.site}", way.unstaged),
            (DELIVER, f"bringing {step} from {id_.site}", way.undelivered),
        ):
            if groups and (found := _of_trip(instance, board, id_, kind, what, groups)):
                return found
    ids = [StepId(board.name, step, site) for site in plan.sites]
    chained = Document.CHAINED.read(instance, ids)
    behind = [id_ for id_ in ids if chained.get(id_.tag, {}) != accepted(index, id_)]
    return next((found for id_ in behind if (found := _of_chain(instance, board, id_))), None)


def _of_asset(instance: dg.DagsterInstance, board: Board, key: dg.AssetKey, what: str) -> Action | None:
    run_id = board.last_runs.get(key)
    record = instance.get_run_record_by_id(run_id) if run_id else None
    if record is None:
        return None
    if record.dagster_run.is_finished:
        remedy = f"materialize {'/'.join(key.path)} in the UI when that is put right"
        return _action(what, failed(instance, record, board.campaign, key), remedy)
    again = retried_after(instance, record.dagster_run, key)
    return Action(what, again) if again else None


def _of_trip(
    instance: dg.DagsterInstance, board: Board, step: StepId, kind: str, what: str, groups: Sequence[str]
) -> Action | None:
    """Say what is wrong with journeys: with the last one, or with groups that earlier ones have left behind."""
    wanted = dg.RunsFilter(tags={tags.TRIP: trip_tag(kind, step)})
    if found := _of_run(instance, board, wanted, what):
        return found
    astray = read_astray(instance, DOCUMENTS[kind], [step]).get(step.tag, {})
    left = {name: each for name in groups if (each := astray.get(name)) and each.revision == board.campaign.revision}
    if not left:
        return None
    first, *more = left.values()
    cause = Cause(first.cause + (f" (and {count_of(len(more), 'other group')})" if more else ""), first.advice)
    return Action(what, cause, _again(first.run_id))


def _of_chain(instance: dg.DagsterInstance, board: Board, step: StepId) -> Action | None:
    wanted = dg.RunsFilter(job_name=f"chain_{step.site}", tags={tags.STEP: step.tag})
    return _of_run(instance, board, wanted, f"chaining {step.step} at {step.site}")


def _of_run(instance: dg.DagsterInstance, board: Board, wanted: dg.RunsFilter, what: str) -> Action | None:
    records = instance.get_run_records(wanted, limit=1)
    found = failed(instance, records[0], board.campaign) if records else None
    return _action(what, found, _again(found.run_id) if found else "")


def _again(run_id: str) -> str:
    return f"re-execute run {run_id} in the UI when that is put right"


def _action(what: str, found: Failed | None, remedy: str) -> Action | None:
    if found is None:
        return None
    if found.wait and found.cause.missing:
        return Action(what, found.cause, f"then it goes on by itself: the next look is at {iso(found.wait.next)}")
    return Action(what, found.cause, "" if found.wait else remedy, found.wait)


def reason_for(
    board: Board,
    step: str,
    state: StepState,
    facts: StepFacts,
    *,
    needs: Mapping[str, StepState],
    action: Action | None,
    deaf: Mapping[str, SiteHealth],
    waits: Sequence[GroupWait] = (),
    holds: Sequence[str] = (),
    places: Sequence[str] = (),
) -> str:
    """Say why a step waits or is blocked; empty if all is well.

    Parameters
    ----------
    board
        Where the campaign stands.
    step
        Name of the step.
    state
        Its state.
    facts
        What is known of it.
    needs
        States of the steps that it needs.
    action
        What is wrong with the run that it waits for.
    deaf
        Sites of which it is not known what their groups in flight do.
    waits
        Groups that wait for something to pass.
    holds
        What keeps groups from going.
    places
        What is left at which site, and on its way.
    """
    name = board.name
    if state is StepState.DONE:
        return ""
    if state is StepState.WAITING:
        if not board.campaign.started and all(need is StepState.DONE for need in needs.values()):
            return _not_started(name)
        return "waits for " + ", ".join(f"{need} ({word})" for need, word in needs.items() if word != StepState.DONE)
    if state is StepState.GATED:
        return f"waits for a sign-off: cm campaign sign-off {name} {step} --reason TEXT"
    if action is not None and facts.groups.get(GroupState.ACCEPTED, 0) == sum(facts.groups.values()):
        return _action_text(action)
    if state is StepState.PLANNING:
        return "its inputs are being checked and its groups made"
    if state is StepState.FINISHING:
        return "; ".join(["all groups are accepted; they are being chained and collected", *places])
    parts = [_deaf_text(site, entry) for site, entry in deaf.items()] + waits_text(waits)
    if action is not None:
        parts.append(_action_text(action))
    if not board.campaign.started:
        parts.append(_not_started(name))
    return "; ".join([*parts, *holds, *_groups_text(board, step, facts), *places])


def _deaf_text(site: str, found: SiteHealth) -> str:
    if found.silence is not None:  # what its WMS said is older
        return f"what {site} has is unknown: {found.silence}"
    health = found.wms
    asked = f" (asked {health.asked} times, last at {iso(health.last)})" if health.asked > 1 else ""
    return f"the WMS of {site} has not answered since {iso(health.since)}{asked}: {health.cause}"


def _not_started(name: str) -> str:
    return f"the campaign is not started: cm campaign start {name}"


def _action_text(action: Action) -> str:
    if action.wait is not None:
        return f"waits: {action.what} failed: {action.wait}"
    if not action.failed:
        return f"{action.what}: tried again by itself after: {action.cause.text}"
    todo = f"{action.cause.advice}; {action.remedy}" if action.cause.advice else action.remedy
    text = action.cause.text.rstrip(".")
    if action.cause.missing:
        return f"{text}. What to do: {todo}"
    return f"{action.what} failed: {text}. What to do: {todo}"


def _groups_text(board: Board, step: str, facts: StepFacts) -> list[str]:
    failed, held = facts.groups.get(GroupState.FAILED, 0), facts.groups.get(GroupState.HELD, 0)
    parts = []
    if stuck := failed - facts.retriable:
        parts.append(f"{count_of(stuck, 'group')} failed")
    if facts.retriable:
        parts.append(f"{count_of(facts.retriable, 'failed group')} will be tried again")
    if held:
        parts.append(f"{count_of(held, 'group')} held")
    if not parts:
        return []
    what = f"cm group list {board.name} --step {step} --state {'failed' if failed else 'held'}"
    return [f"{', '.join(parts)}: {what}"] if stuck or held else parts


def count_of(number: int, noun: str) -> str:
    """Write a number of things, e.g. ``1 group``, ``2 groups``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
