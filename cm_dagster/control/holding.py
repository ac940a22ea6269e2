"""What keeps the groups of steps at a site from going, however much room there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import dagster as dg

from cm_dagster.control.desk import desk_of
from cm_dagster.control.history import end_message
from cm_dagster.control.limits import brake_rule
from cm_dagster.control.steps import Board, Document
from cm_dagster.ledger.attempts import index_of
from cm_dagster.ledger.decisions import Decided, read_decided
from cm_dagster.ledger.overrides import Override
from cm_dagster.plan.names import StepId
from cm_dagster.policy.holds import Hold, braked, paused, scouting
from cm_dagster.policy.line import Line
from cm_dagster.policy.states import State

__all__ = ["Holding"]


class Holding:
    """What holds steps at a site, at the moment at which it is looked at; the ledger alone is asked.

    Parameters
    ----------
    instance
        The Dagster instance.
    name
        Name of the site.
    """

    def __init__(self, instance: dg.DagsterInstance, name: str) -> None:
        self.name = name
        self.index = index_of(instance)
        self.desk = desk_of(self.index)
        self._instance = instance
        self._holds: dict[StepId, list[Hold]] = {}
        self._decided: dict[str, dict[str, Decided]] = {}
        self._staged: dict[str, dict[str, dict[str, int]]] = {}

    def step_id(self, board: Board, step: str) -> StepId:
        """Name a step at the site."""
        return StepId(board.name, step, self.name)

    def line(self, board: Board, step: str) -> Line:
        """Give the groups of a step at the site that are due by themselves."""
        retries = board.campaign.now.settings(step).retry.max
        return self.desk.line(self.step_id(board, step), board.plans[step], retries)

    def decided(self, board: Board, step: str) -> Decided:
        """Give what people and error rules have decided about the groups of a step that is not collected."""
        if board.name not in self._decided:
            steps = [self.step_id(board, each) for each in board.active]
            self._decided[board.name] = read_decided(self._instance, steps)
        return self._decided[board.name].get(self.step_id(board, step).tag, Decided())

    def awaits(self, board: Board, step: str, group: str) -> bool:
        """Whether a group can't go before its inputs have been brought to the site."""
        plan = board.plans.get(step)
        if plan is None or plan.lanes or self.name not in plan.remote or step in board.collected:
            return False
        if board.name not in self._staged:
            steps = [self.step_id(board, each) for each in board.active]
            self._staged[board.name] = Document.STAGED.read(self._instance, steps)
        return group not in self._staged[board.name].get(self.step_id(board, step).tag, {})

    def holds(self, board: Board, step: str) -> list[Hold]:
        """Say what keeps the groups of a step from going, however much room there is."""
        id_ = self.step_id(board, step)
        if id_ not in self._holds:
            self._holds[id_] = list(self._find_holds(board, step, lambda _: ""))
        return self._holds[id_]

    def explained(self, board: Board, step: str) -> list[Hold]:
        """Say what `holds` says, and why scouts have failed, for which their runs are read."""
        latest = self.index.of_step(self.step_id(board, step))
        return list(self._find_holds(board, step, lambda group: end_message(self._instance, latest[group].run_id)))

    def _find_holds(self, board: Board, step: str, cause: Callable[[str], str]) -> Iterator[Hold]:
        if found := board.campaign.pause(step):
            yield _pause_of(board.name, *found)
        if step not in board.active:
            return
        rules, shown = board.campaign.now.settings(step), f"{step} of {board.name} at {self.name}"
        brake = self.desk.brake(self.step_id(board, step), brake_rule(rules.brake), board.campaign.resumed(step))
        if hold := braked(brake, shown, f"cm step resume {board.name} {step} --reason TEXT"):
            yield hold
        left = self.line(board, step).scouting(rules.scouts)
        failed = (name for name, attempt in left.items() if attempt and attempt.state is State.FAILED)
        causes = {name: cause(name) for name in failed}
        if hold := scouting(left, shown, retries=rules.retry.max, causes=causes):
            yield hold


def _pause_of(campaign: str, step: str, by: Override) -> Hold:
    what = f"step {step} of {campaign}" if step else f"campaign {campaign}"
    resume = f"cm step resume {campaign} {step}" if step else f"cm campaign resume {campaign}"
    return paused(what, by.user, by.time, by.reason, f"{resume} --reason TEXT")
