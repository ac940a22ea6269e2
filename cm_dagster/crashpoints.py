"""Named places between two lasting effects, at which a process may die: what the fault tests kill at.

In production a crash point does nothing. `set_crash_hook` gives the tests a call at each of them; `POINTS` says what
has happened and what has not when a process dies there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["POINTS", "crash_point", "set_crash_hook"]

POINTS: Final = {
    "coordinator.begun": "a run exists; nothing says that it is an attempt",
    "coordinator.tagged": "the run is marked as an attempt and not queued",
    "coordinator.queued": "the attempt is queued; who launched it does not know",
    "stuck.queued": "a launch that was left behind is queued; its page does not say why it waited",
    "backfill.noted": "the attempts of a failing backfill are told; the backfill is not marked as failing",
    "cancel.asked": "a person wants an attempt cancelled; one that waits is not cancelled yet",
    "turn-away.cancelled": "a run is turned away; its group does not show its former state yet",
    "queue.requested": "a batch was chosen; no run of it exists",
    "queue.dead-reported": "a dead run of ours is reported; nothing of what it had to do is taken up yet",
    "tidy.removed": "a file of a run that is over is removed; others are there still",
    "submit.begun": "a run of the submit job holds its life line and has taken nothing",
    "claim.locked": "the group's lock is held; nothing is claimed",
    "claim.claimed": "the attempt's number is claimed; its run is still queued",
    "start.written": "the run has begun; its state tag still says queued",
    "claim.taken": "the attempt is taken; the WMS was not asked",
    "submit.looked-up": "the WMS was asked; nothing follows from it yet",
    "twin.remembered": "a twin is known, and an alarm; it was not cancelled",
    "adopt.twin-cancelled": "a twin was cancelled; the run of its attempt does not tell",
    "audit.noted": "the page of a run says who has a twin cancelled; it was not cancelled",
    "wait.noted": "the page of a run says that it waits; nothing holds it back yet",
    "submit.prepared": "the files of a try are written; nothing was sent",
    "submit.sent": "the submitter has ended; nothing of it is recorded",
    "record.begun": "the id of the workflow is known to this process alone",
    "record.claim": "the id is beside the claim, not on the run",
    "record.tagged": "the id is on the run; nobody asked whether it was cancelled meanwhile",
    "record.cancelled": "a cancelled run is reported; its workflow still runs",
    "watch.listed": "the WMS has answered; nothing follows from it yet",
    "watch.state": "the new state of an attempt is on its run",
    "watch.stopped": "a workflow was cancelled; the ledger does not know",
    "watch.swept": "the workflow of a cancelled attempt is known to be cancelled; the run may still be CANCELING",
    "watch.done": "all attempts were looked at; their progress is not written",
    "judge.read": "the quanta were read; no verdict is written",
    "judge.checked": "the verdict is written as the group's check; its run has not ended",
    "accept.materialized": "the group is materialized; its run has not ended",
    "accept.succeeded": "the run has ended; its state tag is not in line",
    "fail.observed": "the cause is on the group's page; the run has not ended",
    "fail.failed": "the run has failed; its state tag is not in line",
    "decision.taken": "it is written that a rule acts; nobody else hears of it, and nothing is done",
    "decision.recorded": "a decision is on the group's page; it may still have to be carried out",
    "decision.answered": "what follows an attempt is written, or withdrawn; the attempt may still have to end",
    "decision.held": "a group is held, or released; its page does not say so",
    "rules.done": "what a rule decided is done; the attempt has not ended",
    "divide.replaced": "a group is replaced by its parts; processes that know the plan do not hear of it",
    "restart.asked": "the WMS has restarted a workflow; the ledger does not know",
    "restart.recorded": "the id of a restarted workflow is beside its claim, not on the run",
    "overrule.materialized": "a group is materialized by hand; its run has not ended so",
    "overrule.accepted": "a run is accepted by hand; its state tag is not in line",
    "overrule.planned": "a rejected attempt plans its group once more; it is accepted still",
    "overrule.rejected": "a run is rejected; its state tag is not in line",
    "overrule.reopening": "an ended attempt plans its group once more; its run has still ended",
    "overrule.reopened": "an ended attempt is open again; its workflow was not restarted",
    "finalize.begun": "a final job is to be run again and was not begun",
    "finalize.ran": "a final job has run; the attempt still waits for it",
    "chain.computed": "what a step's chain should hold is known; the registry was not touched",
    "chain.set": "the chain is set; no group is materialized as chained",
    "chain.logged": "the groups are materialized as chained; the ledger does not remember it",
    "chain.remembered": "the ledger remembers the chain; its run has not ended",
    "collect.step": "the step's output chain is set; the campaign's is not",
    "collect.campaign": "the campaign's chain is set; the step does not show as collected",
    "inputs.grouped": "the groups are made in memory alone",
    "inputs.chained": "the input chain is set; the groups are not written",
    "lane.grouped": "a site's own groups of a step are made in memory alone",
    "lane.chained": "the site's input chain is set; its groups are not written",
    "plan.written": "the plan is written; its partitions are not made",
    "plan.partitions": "the partitions are made; the step's inputs do not show as made",
    "stage.moved": "the inputs of groups are at their site; its input chain does not hold them",
    "stage.chained": "the input chain of a site holds them; no group shows as staged",
    "stage.logged": "a group shows as staged; the dispatcher does not know",
    "deliver.moved": "the outputs of a group are at home; it does not show as delivered",
    "deliver.logged": "a group shows as delivered; the ledger does not remember it",
    "travel.remembered": "what has travelled is remembered; its run has not ended",
    "move.noted": "it is written where a group is to be; its plan has it where it was",
    "move.planned": "the plan has a group at its new site; processes that know the plan do not hear of it",
    "sensor.lanes": "a site may make its groups; no run of that is requested",
    "sensor.travel": "journeys are due; no run of them is requested",
    "sensor.dispatch": "attempts are chosen; none is requested",
    "sensor.chain": "chains are due; no run of them is requested",
    "sensor.advance": "moves are due; no run of them is requested",
    "holds.told": "the page of a step says what holds it; it is not remembered, so it is said again",
    "limits.written": "limits of a site are set; the asset of the sites does not list it, if they are its first",
    "create.written": "a campaign is written; it has no partition, so nobody knows it",
}
"""What has and what has not happened at each crash point."""

_hook: Callable[[str], None] | None = None


def set_crash_hook(hook: Callable[[str], None] | None) -> None:
    """Have a function called at each crash point with its name; None for nothing."""
    global _hook
    _hook = hook


def crash_point(name: str) -> None:
    """Mark a place at which the process may die."""
    if _hook is not None:
        _hook(name)
