"""The rules by which a new run of a step's asset becomes an attempt, or is turned away with the reason.

Uses of ``dagster._core``: none by import. The execution plan's snapshot is read because the run of a job backfill does
not name its assets.

A run that makes no sense is reported as CANCELED with the reason: raising would leave it FAILURE with a failed
partition (and an HTTP 500 for the person).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import dagster as dg

from cm_dagster.crashpoints import crash_point
from cm_dagster.ledger import campaigns, tags
from cm_dagster.ledger.checks import CHECK, is_ours
from cm_dagster.ledger.moves import Moves
from cm_dagster.ledger.refusal import attempts_at, group_tag, turn_away
from cm_dagster.plan.names import GROUP, AttemptId, StepId
from cm_dagster.policy.states import State

__all__ = ["Selection", "admit", "attempt_tags", "find_steps", "refuse_check", "selected_keys", "split"]

type Selection = tuple[list[StepId], list[dg.AssetKey]]
"""The steps whose assets a run selects, and the other assets that it selects."""

_NO_CHECK = (
    f"the check {CHECK!r} is made when a workflow has ended and is judged; it can't be executed by itself. To have a"
    " group processed, materialize it"
)
_RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


def selected_keys(instance: dg.DagsterInstance, run: dg.DagsterRun) -> set[dg.AssetKey]:
    """Give the assets that a run selects."""
    return set(run.asset_selection or ()) or _planned_keys(instance, run)


def _planned_keys(instance: dg.DagsterInstance, run: dg.DagsterRun) -> set[dg.AssetKey]:
    return {key for key, _ in _planned(instance, run) if key}


def _planned(
    instance: dg.DagsterInstance, run: dg.DagsterRun
) -> list[tuple[dg.AssetKey | None, dg.AssetCheckKey | None]]:
    """List what a run's plan makes: assets and checks."""
    if not run.execution_plan_snapshot_id:
        return []
    snapshot = instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
    outputs = [output.properties for step in snapshot.steps for output in step.outputs]
    return [(output.asset_key, output.asset_check_key) for output in outputs if output]


def find_steps(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Selection:
    """Tell what a run selects by the campaigns of the ledger alone, where no definitions are at hand."""
    keys = selected_keys(instance, run)
    if not any(len(key.path) == 3 for key in keys):
        return [], list(keys)
    known = {campaign.spec.campaign: campaign.spec for campaign in campaigns.load_all(instance).values()}
    assets = {
        StepId(name, step, site).asset for name, spec in known.items() for step in spec.steps for site in spec.sites
    }
    return split(keys, [key for key in keys if tuple(key.path) in assets])


def refuse_check(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun | None:
    """Turn a run away that would make our check of a group without an attempt at it.

    Returns
    -------
    run : `dagster.DagsterRun` or `None`
        The run as it is now; None if it is another one.
    """
    checks = set(run.asset_check_selection or ())
    if not checks and not run.asset_selection:  # checks of the assets that it selects are none of ours
        checks = {check for _, check in _planned(instance, run) if check}
    if not any(is_ours(check) for check in checks):
        return None
    turn_away(instance, run, _NO_CHECK)
    return instance.get_run_by_id(run.run_id)


def split(keys: Iterable[dg.AssetKey], steps: Iterable[dg.AssetKey]) -> Selection:
    """Divide the assets of a run into those of steps and others."""
    own = sorted(steps)
    return [StepId(*key.path) for key in own], [key for key in keys if key not in own]


def admit(instance: dg.DagsterInstance, run: dg.DagsterRun, selection: Selection, *, user: str = "") -> dg.DagsterRun:
    """Mark a run as an attempt at a group, or turn it away.

    Parameters
    ----------
    instance
        The Dagster instance.
    run
        The run, which is not queued yet.
    selection
        What it selects; at least one step.
    user
        Who launched it, if that is known.

    Returns
    -------
    run : `dagster.DagsterRun`
        The run as it is now; it is to be queued if its status still is NOT_STARTED.
    """
    crash_point("coordinator.begun")
    steps, others = selection
    reason = _misfit(run, steps, others)
    found = None if reason else _Found.of(instance, run, steps[0])
    if found is None or (reason := _conflict(run, found)):
        turn_away(instance, run, reason or "")
    else:
        instance.add_run_tags(run.run_id, _tags(run, found, user))
        crash_point("coordinator.tagged")
    now = instance.get_run_by_id(run.run_id)
    if now is None:
        raise dg.DagsterInvariantViolationError(f"run {run.run_id} was deleted while it was being queued")
    return now


@dataclass(frozen=True)
class _Found:
    """What a new attempt finds at its group."""

    step: StepId
    group: str
    attempts: Sequence[dg.DagsterRun]
    """The others, the latest that counts last."""
    elsewhere: str
    """Why none may be made at this site, if so."""
    first: int
    """Number of the first attempt at this site."""

    @classmethod
    def of(cls, instance: dg.DagsterInstance, run: dg.DagsterRun, step: StepId) -> Self:
        group = run.tags[tags.PARTITION]
        # The attempts first: a group is moved before its attempts are called off.
        others = attempts_at(instance, step.tag, group, but=run.run_id)
        return cls(step, group, others, *Moves(instance).refusal(step, group))

    @property
    def next(self) -> int:
        """Number of the next attempt."""
        return max(int(self.attempts[-1].tags[tags.ATTEMPT]) + 1 if self.attempts else 1, self.first)


def _conflict(run: dg.DagsterRun, found: _Found) -> str | None:
    if found.elsewhere:
        return found.elsewhere
    for other in found.attempts:
        if not other.is_finished:
            return (
                f"attempt {other.tags[tags.ATTEMPT]} at {found.group} is {other.status.value}"
                f" (run {other.run_id}); terminate it first, or wait for its end"
            )
    last = found.attempts[-1] if found.attempts else None
    if last and last.is_success and run.parent_run_id != last.run_id:
        return f"{found.group} is accepted; re-execute run {last.run_id} if it is to be processed again"
    want = run.tags.get(tags.WANT)
    # A re-execution has copied the wish of the run that it follows.
    by_dispatch = run.tags.get(tags.BY) == "dispatch" or want  # what a person asked for has a number too
    if by_dispatch and not run.parent_run_id and want != str(found.next):
        return f"it was meant as attempt {want} at {found.group}, which is at attempt {found.next} by now"
    return None


def _tags(run: dg.DagsterRun, found: _Found, user: str) -> dict[str, str]:
    reset = {name: "" for name in tags.STATE_TAGS if run.tags.get(name)}
    return {
        **reset,
        **({tags.USER: user} if user else {}),
        **({tags.BY: ""} if run.parent_run_id and run.tags.get(tags.BY) else {}),
        **attempt_tags(AttemptId(found.step, found.group, found.next), run.run_id),
    }


def attempt_tags(id_: AttemptId, run_id: str) -> dict[str, str]:
    """Give the tags that make a run an attempt.

    Parameters
    ----------
    id_
        The attempt.
    run_id
        The run.
    """
    return {
        tags.KIND: tags.WORKFLOW,
        tags.STEP: id_.step.tag,
        tags.GROUP: group_tag(id_.step.tag, id_.group),
        tags.ATTEMPT: str(id_.number),
        tags.STATE: State.QUEUED.value,
        tags.OF: run_id,
        # Dagster's own retries would resubmit a failed workflow behind our back.
        "dagster/max_retries": "0",
        # Zero is no limit, whatever the instance's max_runtime_seconds or a tag of the launch says: run monitoring
        # would take a workflow of days for a worker that hangs, and fail its attempt.
        "dagster/max_runtime": "0",
    }


def _misfit(run: dg.DagsterRun, steps: list[StepId], others: list[dg.AssetKey]) -> str | None:
    """Say why a run can't be an attempt by its shape alone."""
    if others or len(steps) > 1:
        names = sorted([step.tag for step in steps] + [key.to_user_string() for key in others])
        return f"{len(names)} assets are selected ({', '.join(names)}); launch a step's groups alone"
    first, last = (run.tags.get(name) for name in _RANGE)
    if first != last:
        return f"one run is one attempt at one group; this one covers {first} to {last}: launch a backfill"
    group = run.tags.get(tags.PARTITION)
    if not group:
        return "no group (partition) is selected"
    if not GROUP.fullmatch(group):  # anybody can add a partition in the UI
        return f"{group!r} is no group"
    return None
