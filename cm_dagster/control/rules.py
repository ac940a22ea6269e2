"""What follows by itself when an attempt fails: the error rules are asked, and what they decide is carried out.

The order makes it safe to die at any moment: what a rule decides is written down before it is done, under the number of
the attempt, and the attempt ends last. An attempt that has not ended is judged again, and the same is decided again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

from cm_dagster.control.divide import divide, replace_by
from cm_dagster.control.redo import quanta_of, rescue_recipe, restart_again
from cm_dagster.control.site import Site
from cm_dagster.control.steps import Board, load_boards
from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import CmError, LedgerError
from cm_dagster.ledger import campaigns, decisions, events
from cm_dagster.ledger.attempts import Attempt, index_at
from cm_dagster.ledger.claims import BusyError, Claims
from cm_dagster.ledger.decisions import Answer, Follows, GroupDecision, GroupHold
from cm_dagster.plan.groups import Group
from cm_dagster.plan.names import group_folder
from cm_dagster.plan.recipe import Recipe
from cm_dagster.policy.judge import Outcome
from cm_dagster.policy.rules import Decision, Failure, Fault, Taken, decide, in_force
from cm_dagster.services.memory import requested_memory
from cm_dagster.spec.rules import Action

__all__ = ["BadEnd", "end_badly"]


@dataclass(frozen=True)
class BadEnd:
    """How an attempt ended that is not accepted as it is."""

    message: str
    """The cause, for the run's page."""
    metadata: events.Metadata = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    """In which ways it failed, the first cause first."""
    done: float = 0.0
    """Fraction of the group's quanta that have succeeded, 0 to 1."""
    no_restart: str = ""
    """Why its workflow can't be restarted; empty if it can."""


def end_badly(instance: dg.DagsterInstance, site: Site, attempt: Attempt, end: BadEnd) -> Outcome:
    """End an attempt as failed, with what follows by the error rules; unless one of them accepts or restarts it.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        The site that this process serves.
    attempt
        The attempt; it is open.
    end
        How it ended.

    Raises
    ------
    CmError
        If what the rules need to know can't be asked now (transient); the attempt stays as it is.
    BusyError
        If somebody else works on the group.
    """
    try:
        (board,) = load_boards(instance, [attempt.id.step.campaign])
    except LedgerError as error:
        events.fail(instance, attempt, f"{end.message} No rules were asked: {error}.", end.metadata)
        return Outcome.FAIL
    return _End(instance, site, board, attempt, end).go()


class _End:
    """One attempt that ended badly."""

    def __init__(self, instance: dg.DagsterInstance, site: Site, board: Board, attempt: Attempt, end: BadEnd) -> None:
        self.instance = instance
        self.site = site
        self.board = board
        self.attempt = attempt
        self.end = end
        self.id = attempt.id
        self.spec = board.campaign.spec
        self.group = _group(self.board, attempt)
        self.recipe: Recipe | None = None
        """What a rescue of the group skips; None if there is nothing to rescue."""

    def go(self) -> Outcome:
        """Ask the rules, do what they decide, and end the attempt."""
        decision = self._decide()
        for said in decision.notes:
            events.note(self.instance, self.attempt.run, f"{said}.")
        if decision.action is None:
            return self._fail("")
        self._remember(decision, decision.action)
        try:
            return self._do(decision, decision.action)
        except BusyError:
            raise  # it is asked for again: nothing of the decision is lost
        except CmError as error:
            if error.transient:
                raise
            return self._fail(f" By {decision.reason}, which was not possible: {error}.")

    def _decide(self) -> Decision:
        labels = [fault.task for fault in self.end.faults]
        submit_dir = self.attempt.submit_dir
        failure = Failure(
            group=self.id.group,
            attempt=self.id.number,
            restarts=self.attempt.restarts,
            faults=self.end.faults,
            done=self.end.done,
            requested=requested_memory(Path(submit_dir), labels) if submit_dir else {},
            impossible=self._impossible(),
        )
        rules = in_force(self.spec.settings(self.id.step.step).rules)
        return decide(failure, rules, decisions.read_taken(self.instance, self.id.step))

    def _impossible(self) -> dict[Action, str]:
        """Say which actions can't be carried out."""
        found: dict[Action, str] = {}
        with _noted(found, "rescue"):
            index = index_at(self.instance, self.id.step, [self.id.group])
            attempts = index.all_of(self.id.step, self.id.group)
            self.recipe = rescue_recipe(self.site, self.spec, attempts)
        with _noted(found, "accept"):
            quanta_of(self.site, self.spec, self.attempt)
        if not self.attempt.wms_id or self.end.no_restart:
            found["restart"] = self.end.no_restart or "nothing was submitted"
        if self.group is None or self.group.size < 2:
            found["split"] = "the group is split already" if self.group is None else "it holds less than two values"
        return found

    def _remember(self, decision: Decision, action: Action) -> None:
        """Write down, for budgets and for people, that a rule acts."""
        step = self.id.step
        taken = Taken(self.id.group, self.id.number, self.attempt.restarts, decision.rule, action)
        if taken in decisions.read_taken(self.instance, step):
            return  # a process died before it could carry it out
        decisions.take(self.instance, self.site.area, step, taken)
        entry = GroupDecision(f"rule {decision.rule}", action, decision.reason, str(self.attempt.state), _AFTER[action])
        decisions.record(self.instance, step, self.id.group, entry)

    # ------------------------------------------------------------------------------------------------------ actions

    def _do(self, decision: Decision, action: Action) -> Outcome:
        match action:
            case "accept":
                message = f"Accepted by {decision.reason}. {self.end.message}"
                metadata = {**self.end.metadata, "verdict": f"accepted by rule {decision.rule}"}
                events.accept(self.instance, events.Acceptance(self.attempt, message, metadata))
                return Outcome.ACCEPT
            case "restart":
                self._restart()
                return Outcome.RESTART
            case "retry":
                self._answer("retry", decision, Recipe(memory=self.attempt.recipe.memory))
            case "rescue":
                self._answer("rescue", decision, self.recipe or Recipe())
            case "more-memory":
                recipe = self.recipe or Recipe(memory=self.attempt.recipe.memory)
                self._answer("rescue" if self.recipe else "retry", decision, recipe.with_memory(decision.memory))
            case "split":
                self._split(decision)
            case "hold":
                hold = GroupHold(f"rule {decision.rule}", decision.reason, time.time())
                decisions.set_hold(self.instance, self.site.area, self.id.step, self.id.group, hold)
            case "stop-step":
                who, why = f"rule {decision.rule}", f"{self.id.group}: {self.end.message}"
                campaigns.pause(self.instance, self.board.name, self.id.step.step, user=who, reason=why)
            case "fail":
                self._answer("nothing", decision, Recipe())
        crash_point("rules.done")
        return self._fail(f" By {decision.reason}.")

    def _fail(self, more: str) -> Outcome:
        events.fail(self.instance, self.attempt, f"{self.end.message}{more}", self.end.metadata)
        return Outcome.FAIL

    def _answer(self, verb: Follows, decision: Decision, recipe: Recipe) -> None:
        step, number = self.id.step, self.id.number + 1
        answer = Answer(
            after=self.attempt.run_id,
            number=number,
            verb=verb,
            user=f"rule {decision.rule}",
            reason=decision.reason,
            time=time.time(),
            by_rule=True,
            recipe=recipe.dump(number),
        )
        known = decisions.read_decided(self.instance, [step]).get(step.tag, decisions.Decided()).answers
        index = index_at(self.instance, step, {self.id.group, *known})
        latest = {group: attempt.run_id for group, attempt in index.of_step(step).items()}
        decisions.set_answer(self.instance, self.site.area, step, self.id.group, answer, latest)

    def _restart(self) -> None:
        claims = Claims(group_folder(self.site.area, self.id.step, self.id.group))
        with claims.locked():
            restart_again(self.instance, self.site, self.attempt)

    def _split(self, decision: Decision) -> None:
        if self.group is None:
            raise LedgerError("the group is split already")
        step = self.id.step
        parts = divide(self.site, self.board, step, self.group, decision.parts)
        replace_by(self.instance, self.board, step, self.id.group, parts, f"by {decision.reason}")


_AFTER: dict[Action, str] = {
    "retry": "failed; another attempt follows",
    "restart": "running",
    "rescue": "failed; an attempt that skips what exists follows",
    "more-memory": "failed; an attempt with more memory follows",
    "split": "failed; its parts take its place",
    "accept": "accepted",
    "hold": "failed, held",
    "stop-step": "failed; its step is paused",
    "fail": "failed; nothing follows",
}
"""What a group is by the action of a rule, for its page."""


@contextmanager
def _noted(found: dict[Action, str], action: Action) -> Iterator[None]:
    """Take an error that does not pass for the reason why an action can't be carried out."""
    try:
        yield
    except CmError as error:
        if error.transient:
            raise
        found[action] = error.cause


def _group(board: Board, attempt: Attempt) -> Group | None:
    """Give the group of an attempt; None if it was split meanwhile."""
    plan = board.plans.get(attempt.id.step.step)
    return next((group for group in plan.groups if group.name == attempt.id.group), None) if plan else None
