"""What a person or an error rule does about groups, through one implementation: checked, done, recorded.

Further attempts are not launched here: the answer to the attempt that ended is written down, and the sensor `dispatch`
requests the attempt at its next tick, through the same way as all others. So no web server is needed, and what was
asked for while the daemon is away is not lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import dagster as dg

from cm_dagster.control.deeds import Hand, Order
from cm_dagster.control.health import SiteHealth
from cm_dagster.control.overview import groups_of
from cm_dagster.control.site import Site
from cm_dagster.control.steps import Board, load_boards
from cm_dagster.errors import CmError, LedgerError
from cm_dagster.ledger.attempts import index_of
from cm_dagster.ledger.decisions import read_decided
from cm_dagster.plan.names import StepId
from cm_dagster.policy.states import GroupState

__all__ = ["Order", "Result", "act", "choose"]


@dataclass(frozen=True)
class Result:
    """What became of a verb on a group."""

    group: str
    done: bool
    """Whether it was done, or would be; if not, it was refused and nothing has changed."""
    said: str
    """What was done, or would be, or why not."""
    advice: str = ""

    def to_json(self) -> dict[str, str | bool]:
        """Give it as JSON can hold it."""
        return {"group": self.group, "done": self.done, "said": self.said, "advice": self.advice}


def choose(
    instance: dg.DagsterInstance,
    campaign: str,
    step: str,
    names: Sequence[str],
    states: Iterable[str] = (),
    health: Mapping[str, SiteHealth] | None = None,
) -> list[str]:
    """Choose groups of a step by names, patterns and states; all that are given must fit.

    Parameters
    ----------
    instance
        The Dagster instance.
    campaign
        Name of the campaign.
    step
        Name of the step.
    names
        Names of groups, or patterns with ``*``; none for any.
    states
        States of groups, of which one must fit; none for any.
    health
        Health of sites: what one that is away has in its hands is ``unknown`` here too, as people are shown it.

    Raises
    ------
    LedgerError
        If there is no such campaign, step or group.
    """
    board = _board(instance, campaign, step)
    decided = read_decided(instance, [StepId(campaign, step, site) for site in board.campaign.spec.sites])
    views = groups_of(board, step, index_of(instance), health, decided)
    known = {each.group.name: each.state for each in views}
    for name in names:
        if not any(fnmatchcase(other, name) for other in known):
            last = f"its last group is {list(known)[-1]}" if known else "it is not planned yet: cm status"
            raise LedgerError(f"{campaign}/{step} has no group {name!r}", advice=last)
    wanted = {GroupState(state) for state in states}
    return [
        group
        for group, state in known.items()
        if (not names or any(fnmatchcase(group, name) for name in names)) and (not wanted or state in wanted)
    ]


def _board(instance: dg.DagsterInstance, campaign: str, step: str) -> Board:
    (board,) = load_boards(instance, [campaign])
    if step not in board.campaign.spec.steps:
        steps = ", ".join(board.campaign.spec.order())
        raise LedgerError(f"campaign {campaign} has no step {step!r}", advice=f"its steps: {steps}")
    return board


def act(
    instance: dg.DagsterInstance, site: Site, campaign: str, step: str, groups: Iterable[str], order: Order
) -> list[Result]:
    """Do something about groups; each is done as a whole or not at all.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        The site that this process serves.
    campaign
        Name of the campaign.
    step
        Name of the step.
    groups
        Names of groups of the step.
    order
        What is to be done.

    Returns
    -------
    results
        One for each group, in their order.

    Raises
    ------
    LedgerError
        If there is no such campaign or step, or it is not planned.
    """
    board = _board(instance, campaign, step)
    if step not in board.plans:
        raise LedgerError(f"{campaign}/{step} has no groups yet", advice="cm status says what it waits for")
    return [_result(instance, site, board, step, group, order) for group in groups]


def _result(instance: dg.DagsterInstance, site: Site, board: Board, step: str, group: str, order: Order) -> Result:
    try:
        return Result(group, True, Hand(instance, site, board, step, group, order).go())
    except CmError as error:
        return Result(group, False, error.cause, error.advice)
    except OSError as error:
        return Result(group, False, f"the submit area can't be used: {error}", "see `cm doctor`")
