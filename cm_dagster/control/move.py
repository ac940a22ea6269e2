"""Moving groups from one site to another: by name, or as many as bring a step back into balance.

Nothing of the old site is asked, for it may be the one that is in trouble. The document of moves is written first:
from then on the coordinator and the claims turn away what is still requested where a group was. Then the ledger is
asked once more, for an attempt may have been begun in between; only then the plan changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import dagster as dg

from cm_dagster.control.steps import Board, load_boards, tell_of_plan
from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import LedgerError
from cm_dagster.ledger import decisions, events
from cm_dagster.ledger.attempts import Attempt, AttemptIndex, index_of
from cm_dagster.ledger.decisions import GroupDecision
from cm_dagster.ledger.moves import Moved, read_moves, write_moves
from cm_dagster.ledger.plans import Change, Plan, changed_plan
from cm_dagster.plan.allocation import rebalance
from cm_dagster.plan.groups import Group
from cm_dagster.plan.names import StepId
from cm_dagster.policy.moving import MoveFacts, move_refusal
from cm_dagster.policy.states import State

__all__ = ["MoveOrder", "MoveResult", "move", "propose"]


@dataclass(frozen=True)
class MoveOrder:
    """Who moves groups, and why."""

    user: str
    reason: str
    abandon: bool = False
    """Whether what the old WMS may still run of cancelled attempts is given up."""
    dry: bool = False
    """Whether it is only said what would be done."""


@dataclass(frozen=True)
class MoveResult:
    """What became of a group that was to be moved."""

    group: str
    before: str
    """Site where it was."""
    after: str
    """Site where it is to be."""
    weight: int
    """What it weighs: quanta, datasets or values, as far as known."""
    done: bool
    """Whether it was moved, or would be."""
    said: str = ""
    """Why not, or the number of its next attempt."""
    advice: str = ""

    def to_json(self) -> dict[str, str | bool | int]:
        """Give it as JSON can hold it."""
        return dict(vars(self))


def move(
    instance: dg.DagsterInstance, campaign: str, step: str, where: Mapping[str, str], order: MoveOrder
) -> list[MoveResult]:
    """Move groups to other sites; each is moved as a whole or refused with the reason.

    Parameters
    ----------
    instance
        The Dagster instance.
    campaign
        Name of the campaign.
    step
        Name of the step.
    where
        Site to which each group is to go, by name of the group.
    order
        Who does it, and why.

    Raises
    ------
    LedgerError
        If there is no such campaign, step, group or site; or the step is over, or is planned by each site itself.
    """
    board = _movable(instance, campaign, step, where.values())
    if order.dry:
        hand = _Hand(instance, board, step, board.plans[step], order)
        return [hand.look(board.plans[step].group(name), to) for name, to in where.items()]
    with changed_plan(instance, campaign, step) as change:
        hand = _Hand(instance, board, step, change.plan, order)
        results = [hand.look(change.plan.group(name), to) for name, to in where.items()]
        moved = hand.go(change, [result for result in results if result.done])
    hand.record(moved.values())
    return [moved.get(result.group, result) for result in results]


def propose(instance: dg.DagsterInstance, campaign: str, step: str, shares: Mapping[str, float]) -> dict[str, str]:
    """Choose the groups that would bring a step into balance, were they moved; nothing is changed.

    Parameters
    ----------
    instance
        The Dagster instance.
    campaign
        Name of the campaign.
    step
        Name of the step.
    shares
        Share of each site; a site that is not named is to be emptied.

    Returns
    -------
    where
        Site to which each of them would go, by name of the group.

    Raises
    ------
    LedgerError
        As `move`.
    """
    board = _movable(instance, campaign, step, shares)
    plan = board.plans[step]
    hand = _Hand(instance, board, step, plan, MoveOrder("", ""))
    elsewhere = {group.name: next((s for s in shares if s != group.site), group.site) for group in plan.groups}
    free = {group.name for group in plan.groups if hand.look(group, elsewhere[group.name]).done}
    fixed = {group.name: group.site for group in plan.groups if group.name not in free}
    return {group.name: to for group, _, to in rebalance(plan.groups, shares, fixed)}


def _movable(instance: dg.DagsterInstance, campaign: str, step: str, sites: Iterable[str]) -> Board:
    (board,) = load_boards(instance, [campaign])
    spec = board.campaign.spec
    if step not in spec.steps:
        raise LedgerError(f"campaign {campaign} has no step {step!r}", advice=f"its steps: {', '.join(spec.order())}")
    if unknown := [site for site in sites if site not in spec.sites]:
        known = f"sites of {campaign}: {', '.join(spec.sites)}"
        raise LedgerError(f"campaign {campaign} has no site {unknown[0]!r}", advice=known)
    if step not in board.plans:
        raise LedgerError(f"{campaign}/{step} has no groups yet", advice="cm status says what it waits for")
    if step in board.collected:
        raise LedgerError(f"{campaign}/{step} is done", advice="its groups are all accepted")
    if board.plans[step].lanes:
        raise LedgerError(
            f"each site has made the groups of {campaign}/{step} of its own data, which no other site has",
            advice="`barrier: all` on the steps that it needs lets groups go anywhere",
        )
    return board


class _Hand:
    """Moves groups of one step."""

    def __init__(self, instance: dg.DagsterInstance, board: Board, step: str, plan: Plan, order: MoveOrder) -> None:
        self.instance, self.board, self.step, self.plan, self.order = instance, board, step, plan, order
        self.index: AttemptIndex = index_of(instance)

    def _id(self, site: str) -> StepId:
        return StepId(self.board.name, self.step, site)

    def _latest(self, group: Group) -> Attempt | None:
        return self.index.of_step(self._id(group.site)).get(group.name)

    def _facts(self, group: Group) -> MoveFacts:
        latest = self._latest(group)
        if latest is None:
            return MoveFacts(group.site, None)
        return MoveFacts(group.site, latest.state, latest.id.number, latest.swept or not latest.began)

    def _first(self, group: Group) -> int:
        """Number of the next attempt, after those at all sites."""
        sites = self.board.campaign.spec.sites
        numbers = [a.id.number for site in sites for a in self.index.all_of(self._id(site), group.name)]
        return max([*numbers, group.first - 1], default=0) + 1

    def look(self, group: Group, to: str) -> MoveResult:
        """Say what would become of a group."""
        reason, advice = move_refusal(self._facts(group), to, abandon=self.order.abandon)
        said = reason or f"attempt {self._first(group)} is its next"
        weight = group.quanta or group.datasets or group.size
        return MoveResult(group.name, group.site, to, weight, not reason, said, advice)

    def go(self, change: Change, wanted: Sequence[MoveResult]) -> dict[str, MoveResult]:
        """Move groups; gives what became of each."""
        moves = read_moves(self.instance, self.board.name, self.step)
        groups = {each.group: self.plan.group(each.group) for each in wanted}
        now = {each.group: Moved(each.after, self._first(groups[each.group])) for each in wanted}
        write_moves(self.instance, self.board.name, self.step, {**moves, **now})
        crash_point("move.noted")
        for group in groups.values():
            self._cancel_queued(group)
        self.index = index_of(self.instance)
        results = {each.group: self.look(groups[each.group], each.after) for each in wanted}
        going = {name: moved for name, moved in now.items() if results[name].done}
        if len(going) < len(now):
            write_moves(self.instance, self.board.name, self.step, {**moves, **going})
        if going:
            change.write(replace(self.plan, groups=tuple(_moved(each, going) for each in self.plan.groups)))
            crash_point("move.planned")
            text = ", ".join(f"{name} to {moved.site}" for name, moved in list(going.items())[:20])
            said = f"{len(going)} groups are moved by {self.order.user}: {self.order.reason}"
            tell_of_plan(
                self.instance, self.board.name, self.step, said, {"moved": text, "groups": len(self.plan.groups)}
            )
        return results

    def _cancel_queued(self, group: Group) -> None:
        """Withdraw the attempt that waits at the old site; whoever takes it just now meets the cancellation."""
        latest = self._latest(group)
        if latest is not None and latest.state is State.QUEUED:
            why = f"Its group is moved by {self.order.user}: {self.order.reason}"
            events.ask_cancel(self.instance, latest.run, why)
            self.instance.report_run_canceled(latest.run, why)

    def record(self, results: Iterable[MoveResult]) -> None:
        """Write onto the page of each group, where it is now, who has moved it, and why."""
        for each in results:
            if each.done:
                decision = GroupDecision(
                    self.order.user, "move", self.order.reason, f"at {each.before}", f"at {each.after}"
                )
                decisions.record(self.instance, self._id(each.after), each.group, decision)


def _moved(group: Group, moves: Mapping[str, Moved]) -> Group:
    to = moves.get(group.name)
    return replace(group, site=to.site, first=to.first, moved=True) if to else group
