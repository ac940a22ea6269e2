"""Why a step waits or is blocked, in one sentence that says what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import dagster as dg

from cm_dagster.control.health import Health
from cm_dagster.control.history import Cause, iso, retried_after, run_cause
from cm_dagster.control.steps import Board, accepted, collected_key, inputs_key, read_chained
from cm_dagster.ledger import tags
from cm_dagster.ledger.attempts import AttemptIndex
from cm_dagster.plan.names import StepId
from cm_dagster.policy.progress import StepFacts, StepState
from cm_dagster.policy.states import GroupState

__all__ = ["Action", "failed_action", "reason_for"]

_ENDED_BADLY = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


@dataclass(frozen=True)
class Action:
    """The run that a step waits for, if anything is wrong with it."""

    what: str
    """What it makes, for a sentence."""
    cause: Cause
    failed: bool
    """Whether it has ended; if not, it tries again by itself."""
    remedy: str
    """What to do in the UI once the cause is gone."""


def failed_action(instance: dg.DagsterInstance, board: Board, step: str, index: AttemptIndex) -> Action | None:
    """Look at the run that a step waits for: its inputs' before it is planned, else its chains' and its collect's.

    Parameters
    ----------
    instance
        The Dagster instance.
    board
        Where the campaign stands.
    step
        A step that has all it needs and is not planned, or of which all groups are accepted.
    index
        All attempts.

    Returns
    -------
    action
        None if the run has not begun, or goes well.
    """
    plan = board.plans.get(step)
    if plan is None:
        return _of_asset(instance, inputs_key(board.name, step), f"the inputs of {step}")
    ids = [StepId(board.name, step, site) for site in plan.sites]
    chained = read_chained(instance, ids)
    for id_ in ids:
        if chained.get(id_.tag) != accepted(index, id_):
            return _of_chain(instance, id_)
    return _of_asset(instance, collected_key(board.name, step), f"collecting {step}")


def _of_asset(instance: dg.DagsterInstance, key: dg.AssetKey, what: str) -> Action | None:
    records = instance.get_asset_records([key])
    run_id = records[0].asset_entry.last_run_id if records else None
    run = instance.get_run_by_id(run_id) if run_id else None
    if run is None:
        return None
    if _is_over(run):
        remedy = f"materialize {'/'.join(key.path)} in the UI when that is put right"
        return Action(what, run_cause(instance, run, key), True, remedy)
    again = None if run.is_finished else retried_after(instance, run, key)
    return Action(what, again, False, "") if again else None


def _is_over(run: dg.DagsterRun) -> bool:
    """Whether a run ended badly, and Dagster will not launch it again by itself."""
    return run.status in _ENDED_BADLY and run.tags.get("dagster/will_retry") != "true"


def _of_chain(instance: dg.DagsterInstance, step: StepId) -> Action | None:
    wanted = dg.RunsFilter(job_name=f"chain_{step.site}", tags={tags.STEP: step.tag})
    runs = instance.get_runs(wanted, limit=1)
    if not runs or not _is_over(runs[0]):
        return None
    remedy = f"re-execute run {runs[0].run_id} in the UI when that is put right"
    return Action(f"chaining {step.step} at {step.site}", run_cause(instance, runs[0]), True, remedy)


def reason_for(
    board: Board,
    step: str,
    state: StepState,
    facts: StepFacts,
    *,
    needs: Mapping[str, StepState],
    action: Action | None,
    deaf: Mapping[str, Health],
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
        Sites whose WMS does not answer about groups in flight.
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
    if action is not None:
        return _action_text(action)
    if state is StepState.PLANNING:
        return "its inputs are being checked and its groups made"
    if state is StepState.FINISHING:
        return "all groups are accepted; they are being chained and collected"
    parts = [
        f"the WMS of {site} has not answered since {iso(entry.since)}: {entry.cause}" for site, entry in deaf.items()
    ]
    if not board.campaign.started:
        parts.append(_not_started(name))
    return "; ".join([*parts, *_groups_text(board, step, state, facts)])


def _not_started(name: str) -> str:
    return f"the campaign is not started: cm campaign start {name}"


def _action_text(action: Action) -> str:
    if not action.failed:
        return f"{action.what}: tried again by itself after: {action.cause.text}"
    todo = f"{action.cause.advice}; {action.remedy}" if action.cause.advice else action.remedy
    return f"{action.what} failed: {action.cause.text}. What to do: {todo}"


def _groups_text(board: Board, step: str, state: StepState, facts: StepFacts) -> list[str]:
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
    if facts.held_back and state is StepState.BLOCKED:
        parts.append(
            f"{count_of(facts.groups[GroupState.PLANNED], 'planned group')} held back until the scouts are good"
        )
    what = f"cm group list {board.name} --step {step} --state {'failed' if failed else 'held'}"
    return [f"{', '.join(parts)}: {what}"] if stuck or held else parts


def count_of(number: int, noun: str) -> str:
    """Write a number of things, e.g. ``1 group``, ``2 groups``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
