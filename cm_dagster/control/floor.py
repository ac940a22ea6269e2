"""A site at a moment: how much room there is under each limit, beside what holds steps whatever room there is."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import cached_property

import dagster as dg

from cm_dagster.control.downtime import read_downtime
from cm_dagster.control.health import read_health
from cm_dagster.control.holding import Holding
from cm_dagster.control.limits import limits, site_now
from cm_dagster.control.steps import Board, load_boards
from cm_dagster.control.waiting import wait_of
from cm_dagster.ledger.attempts import Attempt
from cm_dagster.policy.limits import Limits, Use, clock, last_return, room, room_again, share, why_full, why_slow
from cm_dagster.policy.states import SHOWN_AS, RunStatus, State
from cm_dagster.spec import SiteSpec

__all__ = ["Floor"]


class Floor(Holding):
    """A site at the moment at which it is looked at.

    Parameters
    ----------
    instance
        The Dagster instance.
    name
        Name of the site.
    spec
        The site as its file has it.
    busy
        Runs of attempts that unfinished runs of the submit job hold; None if that is not known, and the attempts that
        are claimed are taken for them.
    """

    def __init__(
        self, instance: dg.DagsterInstance, name: str, spec: SiteSpec, busy: Collection[str] | None = None
    ) -> None:
        super().__init__(instance, name)
        self.now = time.time()
        self.busy = None if busy is None else frozenset(busy)
        self.limits = limits(site_now(instance, name, spec).limits)
        self.health = read_health(instance, [name])[name]
        self.downtime = read_downtime(instance, name)
        self.open = self.index.open_at(name)

    @cached_property
    def boards(self) -> dict[str, Board]:
        """Where all campaigns stand, by name."""
        return {board.name: board for board in load_boards(self._instance)}

    # ------------------------------------------------------------------------------------------------------ limits

    @cached_property
    def flying(self) -> list[Attempt]:
        """Attempts whose workflow the site has, will have, or may have."""
        return [*self._flying(self.open), *self.index.unswept_at(self.name)]

    def _flying(self, attempts: Iterable[Attempt]) -> list[Attempt]:
        return [a for a in attempts if _is_in_hands(a) or a.run_id in (self.busy or ())]

    @cached_property
    def use(self) -> Use:
        """What is used of the site's limits."""
        ramp = self.limits.ramp
        returned = last_return(self.health.outages, ramp) if ramp else None
        return replace(self._use(self.flying, self.desk.sent(site=self.name)), returned=returned)

    def use_here(self, campaign: str) -> Use:
        """What a campaign uses of the site's limits."""
        flying = [a for a in self.flying if a.id.step.campaign == campaign]
        return self._use(flying, self.desk.sent(campaign=campaign, site=self.name))

    def _own_use(self, board: Board) -> Use:
        """What a campaign uses of its own limits, at all its sites."""
        flying = list(self.flying)
        for site in board.campaign.spec.sites:
            if site != self.name:
                flying += [*self._flying(self.index.open_at(site)), *self.index.unswept_at(site)]
        own = [a for a in flying if a.id.step.campaign == board.name]
        return self._use(own, self.desk.sent(campaign=board.name))

    def _use(self, flying: Collection[Attempt], sent: Sequence[float]) -> Use:
        pending = [a for a in flying if not a.wms_id]
        building = sum(self._is_built(a) for a in pending)
        return Use(in_flight=len(flying), pending=len(pending), building=building, sent=sent)

    def _is_built(self, attempt: Attempt) -> bool:
        if self.busy is not None:
            return attempt.run_id in self.busy
        return attempt.state is State.CLAIMED and not self.waits(attempt)

    def waits(self, attempt: Attempt) -> bool:
        """Whether an attempt is tried again later."""
        wait = wait_of(attempt)
        return wait is not None and not wait.is_due(self.now)

    def room(self, ahead: int = 1) -> int:
        """How many groups more the site takes.

        Parameters
        ----------
        ahead
            How many times as many as its limit may be about to be built.
        """
        if self.downtime is not None or not self.health.answers:
            return 0
        return room(_ahead(self.limits, ahead), self.use, self.now)

    def campaign_room(self, board: Board, ahead: int = 1) -> int:
        """How many groups more of a campaign may go, by its own limits."""
        return room(_ahead(limits(board.campaign.now.limits), ahead), self._own_use(board), self.now)

    def room_again(self, board: Board | None = None) -> int:
        """How many of those may be handed to the site once more that are in its hands already, without a workflow.

        They hold their slots, so only what is built and submitted counts: now, not that they may be. In a downtime none
        may: their workflows might be submitted only then.

        Parameters
        ----------
        board
            The campaign whose limits are asked for; None for those of the site.
        """
        if self.downtime is not None:
            return 0
        own = limits(board.campaign.now.limits) if board else self.limits
        return room_again(own, self._own_use(board) if board else self.use, self.now)

    @property
    def site_slow(self) -> str:
        """Why the site takes its time with what is in its hands already; empty but for a while after an outage."""
        reason = why_slow(self.limits, self.use, self.now)
        return reason and f"site {self.name}: {reason}"

    def share(self, campaign: str) -> tuple[Use, Callable[[int], float]]:
        """Give what a campaign uses of the site's limits, and what it would have of them with so many groups more."""
        use = self.use_here(campaign)
        return use, lambda more: share(self.limits, use, self.now, more)

    @property
    def site_full(self) -> str:
        """Why the site takes no group now; empty if it takes some."""
        if self.downtime is not None:
            return f"site {self.name} is {self.downtime}; cm site start {self.name} --reason TEXT"
        if not self.health.answers:
            since = clock(self.health.since)
            return f"the WMS of site {self.name} has not answered since {since}: {self.health.cause}"
        reason = why_full(self.limits, self.use, self.now)
        return reason and f"site {self.name}: {reason}"

    def campaign_full(self, board: Board) -> str:
        """Why no group of a campaign may go now; empty if some may."""
        reason = why_full(limits(board.campaign.now.limits), self._own_use(board), self.now)
        return reason and f"campaign {board.name}: {reason}"

    def used(self, campaign: str = "") -> dict[str, int]:
        """Say how much is used of each limit of the site, or of a campaign, by name of the setting.

        Parameters
        ----------
        campaign
            Name of the campaign; empty for the site.
        """
        use = self._own_use(self.boards[campaign]) if campaign else self.use
        return {"in_flight": use.in_flight, "per_hour": use.in_the_hour(self.now), "building": use.building}

    def take(self, run_ids: Iterable[str]) -> None:
        """Take attempts for held by a run of the submit job, from now on."""
        self.busy = frozenset({*(self.busy or ()), *run_ids})
        for name in ("flying", "use"):
            self.__dict__.pop(name, None)


def _is_in_hands(attempt: Attempt) -> bool:
    """Whether the site has the attempt's workflow, will have it, or may have it."""
    if attempt.state is State.CANCELLING:
        return attempt.began
    return SHOWN_AS[attempt.state] is RunStatus.STARTED


def _ahead(own: Limits, times: int) -> Limits:
    return own if own.building is None else replace(own, building=own.building * times)
