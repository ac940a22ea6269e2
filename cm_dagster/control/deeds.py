"""What a verb comes down to on one group: looked at, done, recorded; while nobody else submits or decides about it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property

import dagster as dg

from cm_dagster.control.advance import ADVANCE
from cm_dagster.control.divide import divide, replace_by
from cm_dagster.control.redo import quanta_of, rescue_recipe, restart_ended, restartable
from cm_dagster.control.site import Site
from cm_dagster.control.steps import Board, collected_key
from cm_dagster.errors import CmError, LedgerError
from cm_dagster.ledger import campaigns, decisions, events, overrule, tags
from cm_dagster.ledger.attempts import UNFINISHED, Attempt, index_of
from cm_dagster.ledger.claims import Claims
from cm_dagster.ledger.decisions import Answer, Decided, Follows, GroupDecision, GroupHold
from cm_dagster.plan.groups import Group
from cm_dagster.plan.names import StepId, group_folder
from cm_dagster.plan.recipe import Recipe
from cm_dagster.policy.states import State
from cm_dagster.policy.verbs import GroupFacts, Verb, refusal

__all__ = ["Hand", "Order"]


@dataclass(frozen=True)
class Order:
    """What is to be done about groups, who wants it, and why."""

    verb: Verb
    user: str
    reason: str
    parts: int = 2
    """Of ``split``: how many."""
    dry: bool = False
    """Whether it is only said what would be done."""


@dataclass(frozen=True)
class _Deed:
    """What a verb comes down to on a group."""

    before: str
    after: str
    do: Callable[[], str | None]
    """Does it; may give other words for what it is after."""
    records_on: tuple[str, ...] = field(default=())
    """Further groups whose page tells of it."""


class Hand:
    """A verb on one group.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        The site that this process serves.
    board
        Where the campaign stands.
    step
        Name of the step.
    group
        Name of the group.
    order
        What is to be done.

    Raises
    ------
    LedgerError
        If the step has no such group, or another site processes it.
    """

    def __init__(
        self, instance: dg.DagsterInstance, site: Site, board: Board, step: str, group: str, order: Order
    ) -> None:
        self.instance = instance
        self.site = site
        self.board = board
        self.spec = board.campaign.spec
        self.group: Group = board.plans[step].group(group)
        self.step = StepId(board.name, step, self.group.site)
        self.order = order
        if self.group.site != site.name:
            where = f"use cm at that site (CM_SITE={self.group.site})"
            raise LedgerError(f"it belongs to site {self.group.site}, this is {site.name}", advice=where)

    def go(self) -> str:
        """Check it and, unless it is a dry run, do it and record it.

        Raises
        ------
        CmError
            If it is refused, or can't be done now.
        """
        with ExitStack() as locks:
            if not self.order.dry:  # nobody may submit, or decide otherwise, meanwhile
                claims = Claims(group_folder(self.site.area, self.step, self.group.name))
                locks.enter_context(claims.locked())
            self.index = index_of(self.instance)
            if reason := refusal(self.order.verb, self._facts()):
                raise LedgerError(reason)
            deed = self._deed()
            if self.order.dry:
                return f"{deed.before} -> {deed.after}"
            after = self._do(deed)
        return f"{deed.before} -> {after}"

    def _do(self, deed: _Deed) -> str:
        """Do it; who wanted it, and why, is on the group's page before anything is done, whatever dies meanwhile."""
        self._record(deed, deed.after)
        try:
            after = deed.do() or deed.after
        except (CmError, OSError) as error:
            self._record(deed, f"not done: {error}")
            raise
        if after != deed.after:
            self._record(deed, after)
        return after

    def _record(self, deed: _Deed, after: str) -> None:
        order = self.order
        decision = GroupDecision(order.user, str(order.verb), order.reason, deed.before, after)
        for group in dict.fromkeys([self.group.name, *deed.records_on]):
            decisions.record(self.instance, self.step, group, decision)

    # ------------------------------------------------------------------------------------------------------- facts

    @property
    def latest(self) -> Attempt | None:
        """The latest attempt."""
        return self.index.of_step(self.step).get(self.group.name)

    @property
    def ended(self) -> Attempt:
        """The latest attempt, of a verb that needs one."""
        if self.latest is None:
            raise LedgerError("it has no attempt")
        return self.latest

    @cached_property
    def decided(self) -> Decided:
        """What is to come of decisions in the step."""
        return decisions.read_decided(self.instance, [self.step]).get(self.step.tag, Decided())

    def _asked(self) -> Answer | None:
        """An attempt that was asked for and has not begun."""
        answer, latest = self.decided.answers.get(self.group.name), self.latest
        if answer is None or latest is None or not answer.is_due(latest.run_id, latest.state):
            return None
        return answer

    def _facts(self) -> GroupFacts:
        latest, hold, asked = self.latest, self.decided.holds.get(self.group.name), self._asked()
        return GroupFacts(
            state=latest.state if latest else None,
            size=self.group.size,
            held=str(hold or ""),
            asked=str(asked or ""),
            submitted=bool(latest and latest.wms_id),
            swept=latest is None or latest.swept or not latest.began,
            collecting=self.order.verb is Verb.REJECT and self._is_collecting(),
            later=tuple(name for name in self.board.plans if self.step.step in self.spec.steps[name].needs),
        )

    def _is_collecting(self) -> bool:
        wanted = dg.RunsFilter(tags={tags.KIND: ADVANCE}, statuses=UNFINISHED)
        key = collected_key(self.step.campaign, self.step.step)
        return any(key in (run.asset_selection or ()) for run in self.instance.get_runs(wanted))

    def _before(self) -> str:
        words = str(self.latest.state) if self.latest else "planned"
        words += ", held" if self.group.name in self.decided.holds else ""
        return words + (f", {asked.verb} asked for" if (asked := self._asked()) else "")

    # ------------------------------------------------------------------------------------------------------- deeds

    def _deed(self) -> _Deed:
        attempts = self.index.all_of(self.step, self.group.name)
        match self.order.verb:
            case Verb.RETRY:
                return self._follow("retry", Recipe(memory=self.ended.recipe.memory))
            case Verb.RESCUE:
                return self._follow("rescue", rescue_recipe(self.site, self.spec, attempts))
            case Verb.RESTART:
                return self._restart()
            case Verb.ACCEPT:
                return self._accept()
            case Verb.REJECT:
                return self._reject()
            case Verb.CANCEL:
                return self._cancel()
            case Verb.HOLD:
                return _Deed(self._before(), "held", lambda: self._hold(self._new_hold()))
            case Verb.RELEASE:
                return self._release()
            case Verb.SPLIT:
                return self._split()

    def _why(self) -> str:
        return f"by {self.order.user}: {self.order.reason}"

    def _follow(self, verb: Follows, recipe: Recipe) -> _Deed:
        number = self.ended.id.number + 1
        kept = f", which skips {recipe.done} quanta of attempt {', '.join(map(str, recipe.rescued))}"
        after = f"attempt {number}{kept if recipe.rescued else ''}, at the next tick of dispatch_{self.site.name}"
        return _Deed(self._before(), after, lambda: self._answer(verb, recipe))

    def _answer(self, verb: Follows, recipe: Recipe | None = None) -> None:
        number = self.ended.id.number + 1
        answer = Answer(
            after=self.ended.run_id,
            number=number,
            verb=verb,
            user=self.order.user,
            reason=self.order.reason,
            time=time.time(),
            recipe=(recipe or Recipe()).dump(number),
        )
        latest = {group: attempt.run_id for group, attempt in self.index.of_step(self.step).items()}
        decisions.set_answer(self.instance, self.site.area, self.step, self.group.name, answer, latest)

    def _new_hold(self) -> GroupHold:
        return GroupHold(self.order.user, self.order.reason, time.time())

    def _hold(self, hold: GroupHold | None) -> None:
        decisions.set_hold(self.instance, self.site.area, self.step, self.group.name, hold)

    def _release(self) -> _Deed:
        latest = self.latest
        if latest is None or latest.state is not State.CANCELLED or self._asked():
            return _Deed(self._before(), "released", lambda: self._hold(None))
        follow = self._follow("retry", Recipe(memory=latest.recipe.memory))

        def do() -> None:
            self._hold(None)
            follow.do()

        return _Deed(follow.before, follow.after, do)

    def _restart(self) -> _Deed:
        attempt = self.ended
        why = f"The workflow is restarted {self._why()}."
        return _Deed(
            self._before(),
            restartable(self.site, attempt),
            lambda: restart_ended(self.instance, self.site, attempt, why),
        )

    def _accept(self) -> _Deed:
        attempt, total = self.ended, quanta_of(self.site, self.spec, self.ended)
        message = f"Accepted {self._why()}. The registry has {total} quanta of it."
        metadata: events.Metadata = {
            "verdict": f"accepted {self._why()}",
            "workflow": attempt.wms_id,
            "attempt": attempt.id.number,
            "run collection": ", ".join(attempt.outputs(self.spec.butler.output)),
            "quanta registered": total,
        }

        def do() -> None:
            overrule.accept_by_hand(self.instance, attempt, message, metadata)
            self._hold(None)

        return _Deed(self._before(), f"accepted, with {total} quanta", do)

    def _reject(self) -> _Deed:
        attempt = self.ended
        collected = self.step.step in self.board.collected

        def do() -> None:
            self._answer("nothing")  # first: it must not be tried again by itself
            if collected:  # before it is rejected: the next step must not begin with it, whatever dies meanwhile
                self._uncollect()
            overrule.reject(self.instance, attempt, f"Rejected {self._why()}.")

        return _Deed(self._before(), "failed" + (", its step not collected any more" if collected else ""), do)

    def _uncollect(self) -> None:
        """Have a step collected anew when all of its groups are accepted again; no later one has begun with it."""
        # A new revision of the campaign is what makes Dagster take the same request for another one.
        what, order = f"reject {self.step.step} {self.group.name}", self.order
        campaigns.remark(self.instance, self.board.name, what, user=order.user, reason=order.reason)
        self.instance.wipe_assets([collected_key(self.step.campaign, self.step.step)])

    def _cancel(self) -> _Deed:
        if self._asked():
            return _Deed(self._before(), f"{self.ended.state}, nothing asked for", lambda: self._answer("nothing"))
        attempt = self.ended
        waits = attempt.state is State.QUEUED

        def do() -> None:
            events.ask_cancel(self.instance, attempt.run, f"Cancelled {self._why()}.")
            if waits:
                self.instance.report_run_canceled(attempt.run, f"Cancelled {self._why()}.")

        return _Deed(self._before(), "cancelled" if waits else "cancelling", do)

    def _split(self) -> _Deed:
        parts = divide(self.site, self.board, self.step, self.group, self.order.parts)
        names = [part.name for part in parts]

        def do() -> None:
            self._hold(None)
            replace_by(self.instance, self.board, self.step, self.group.name, parts, self._why())

        return _Deed(self._before(), f"replaced by {', '.join(names)}", do, tuple(names))
