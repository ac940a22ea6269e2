"""What tests of verbs and rules need: a registry whose RUN collections are set by hand, and short ways to ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from cm_dagster.control.dispatch import wishes
from cm_dagster.control.steps import inputs_key
from cm_dagster.control.verbs import Order, Result, act
from cm_dagster.errors import ButlerError
from cm_dagster.ledger.decisions import Decided, read_decided
from cm_dagster.ledger.plans import load_plan, save_plan
from cm_dagster.plan.names import AttemptId, StepId
from cm_dagster.plan.predicates import Row
from cm_dagster.policy.verbs import Verb
from cm_dagster.services.butler import ButlerService, Shape
from cm_dagster_tests.integration.ledger_rig import STEP1, Rig, make_spec

CUT = {
    "step1": {"pipeline": "#step1", "group_by": {"dimension": "visit", "size": 10}},
    "step2": {"pipeline": "#step2", "needs": ["step1"]},
}


def cut_campaign(rig: Rig, **changes: Any) -> Rig:
    """Make a campaign whose first step has six groups."""
    rig.create(make_spec(steps=CUT, **changes))
    rig.plan(6)
    return rig


def requested(rig: Rig) -> dict[str, dict[str, str]]:
    """Tags of the further attempts that the dispatcher requests now, by group."""
    return {wish.id.group: dict(wish.tags) for wish in wishes(rig.instance, rig.site) if wish.id.number > 1}


class Registry:
    """Stands for the Butler of a site."""

    def __init__(self) -> None:
        self.down = False
        self.runs: dict[str, dict[str, int]] = {}
        """Finished quanta of each RUN collection, by task."""
        self.visits = range(10)
        """Visits of every group."""
        self.chains: dict[str, list[str]] = {}

    def _ask(self) -> None:
        if self.down:
            raise ButlerError("the Butler does not answer", transient=True)

    def quanta_in(self, run: str) -> dict[str, int] | None:
        self._ask()
        return self.runs.get(run)

    def run_counts(self, run: str, tasks: Sequence[str]) -> dict[str, int] | None:
        self._ask()
        return {task: self.runs[run].get(task, 0) for task in tasks} if run in self.runs else None

    def exists(self, collection: str) -> bool:
        self._ask()
        return collection in self.runs or collection in self.chains

    def set_chain(self, name: str, children: Sequence[str]) -> bool:
        self._ask()
        changed = self.chains.get(name) != list(children)
        self.chains[name] = list(children)
        return changed

    def check_inputs(self, collections: Sequence[str]) -> None:
        self._ask()

    def shape(self, dimension: str) -> Shape:
        return Shape(("instrument", dimension), 1, integers=True, recorded=True)

    def counts(self, columns: Sequence[str], *_: object) -> list[tuple[Row, int]]:
        self._ask()
        return [(("HSC", visit), 1) for visit in self.visits]

    @classmethod
    def at(cls, rig: Rig) -> Registry:
        """Give a rig's site such a Butler."""
        registry = cls()
        rig.site._butlers[rig.site.spec.butler] = cast("ButlerService", registry)
        return registry


def run_of(group: str, number: int = 1, step: StepId = STEP1) -> str:
    """Name of the RUN collection of an attempt."""
    return AttemptId(step, group, number).run("u/camp")


def do(rig: Rig, verb: Verb, *groups: str, step: str = "step1", **more: Any) -> list[Result]:
    """Use a verb on groups."""
    order = Order(verb, "ann", "since I say so", **more)
    return act(rig.instance, rig.site, "camp", step, groups, order)


def done(rig: Rig, verb: Verb, group: str = "g0000", **more: Any) -> str:
    """Use a verb on a group, which must be done; says what was done."""
    (result,) = do(rig, verb, group, **more)
    assert result.done, result
    return result.said


def refused(rig: Rig, verb: Verb, group: str = "g0000", **more: Any) -> str:
    """Use a verb on a group, which must be refused; says why."""
    (result,) = do(rig, verb, group, **more)
    assert not result.done, result
    return result.said


def decided(rig: Rig, step: StepId = STEP1) -> Decided:
    """What is to come of decisions in a step."""
    return read_decided(rig.instance, [step]).get(step.tag, Decided())


def resize(rig: Rig, group: str, size: int) -> None:
    """Let a group of the first step hold a number of values."""
    plan = load_plan(rig.instance, "camp", "step1")
    assert plan is not None
    groups = tuple(replace(each, size=size) if each.name == group else each for each in plan.groups)
    save_plan(rig.instance, replace(plan, groups=groups), begun=False)
    rig.materialize(inputs_key("camp", "step1"))
