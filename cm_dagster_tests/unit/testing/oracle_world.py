"""A campaign as the oracle sees it, made right, to be spoiled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cm_dagster.testing.oracle.facts import Attempt, AtWms, Facts, GroupKey, Step
from cm_dagster.testing.oracle.findings import Findings
from cm_dagster.testing.oracle.rules import judge

__all__ = ["BLAMELESS", "G1", "G2", "LAST", "World", "accepted", "complete", "workflow"]

G1, G2 = (GroupKey("camp", "step1", "here", f"g000{n}") for n in (1, 2))
LAST = GroupKey("camp", "step2", "here", "g0000")
BLAMELESS = (
    "failed",
    "never submitted",
    "short",
    "cancelled at the WMS",
    "cancelled",
    "cancelled early",
    "turned away",
)
"""Ends of attempts after which another one may follow."""


@dataclass
class World:
    """A campaign as the oracle sees it, to be made and spoiled."""

    time: float = 0.0
    attempts: list[Attempt] = field(default_factory=list)
    workflows: list[AtWms] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    chains: dict[str, list[str]] | None = field(default_factory=dict)
    unmarked: list[str] = field(default_factory=list)

    def now(self) -> float:
        self.time += 1.0
        return self.time

    def judge(self, *, running: bool = False) -> Findings:
        facts = Facts(self.workflows, self.attempts, self.steps, self.unmarked, self.chains)
        return judge(facts, running=running)

    def count(self, *, running: bool = False) -> dict[str, int]:
        """Number of findings of the kinds of which there are any."""
        return {kind: n for kind, n in self.judge(running=running).counts.items() if n}

    # ------------------------------------------------------------------------------------------------------ as it is

    def begin(self, key: GroupKey, number: int, state: str, **more: object) -> Attempt:
        """Begin an attempt whose workflow is in a state now."""
        run_id, wms_id = f"run{len(self.attempts)}", str(len(self.workflows) + 1)
        made = Attempt(run_id, key, number, "STARTED", wms_id, started=self.now())
        made = replace(made, **more)  # type: ignore[arg-type]
        self.attempts.append(made)
        ended = state in ("SUCCEEDED", "FAILED")
        self.workflows.append(AtWms(made.wms_id, made.name, state, self.now(), ended))
        return made

    def end(self, attempt: Attempt, status: str, **more: object) -> Attempt:
        done = replace(attempt, status=status, ended=self.now(), **more)  # type: ignore[arg-type]
        self.attempts[self.attempts.index(attempt)] = done
        return done

    def accept(self, key: GroupKey, number: int = 1, **more: object) -> Attempt:
        done = self.end(self.begin(key, number, "SUCCEEDED", **more), "SUCCESS", materialized=True)
        if self.chains is not None:
            run = f"u/camp/{key.step}/{key.group}/a{number:02d}/run"
            for chain in (f"u/camp/{key.step}", f"u/camp/{key.step}/at/here"):
                former = [each for each in self.chains.get(chain, []) if f"/{key.group}/" not in each]
                self.chains[chain] = [*former, run]
        return done

    def blameless(self, key: GroupKey, number: int, how: str) -> Attempt:
        """Make an attempt that did not come to anything."""
        if how == "failed":
            return self.end(self.begin(key, number, "FAILED"), "FAILURE")
        if how == "short":
            return self.end(self.begin(key, number, "SUCCEEDED"), "FAILURE", expected=9, registered=4)
        if how == "cancelled at the WMS":
            return self.end(self.begin(key, number, "DELETED"), "FAILURE")
        if how == "cancelled":
            asked = {"cancel_asked": self.now(), "swept": True}
            return self.end(self.begin(key, number, "DELETED"), "CANCELED", **asked)
        made = Attempt(f"run{len(self.attempts)}", key, number, "QUEUED")
        if how == "never submitted":
            made = replace(made, started=self.now())
        if how == "cancelled early":
            made = replace(made, cancel_asked=self.now())
        self.attempts.append(made)
        return self.end(made, "FAILURE" if how == "never submitted" else "CANCELED", swept=True)

    def twin(self, attempt: Attempt, state: str) -> World:
        """Have a second workflow of an attempt's name appear with the first."""
        when = next(each.submitted for each in self.workflows if each.wms_id == attempt.wms_id)
        ended = state in ("SUCCEEDED", "FAILED")
        self.workflows.append(AtWms(str(len(self.workflows) + 1), attempt.name, state, when, ended))
        return self

    def change(self, attempt: Attempt, **more: object) -> World:
        self.attempts[self.attempts.index(attempt)] = replace(attempt, **more)  # type: ignore[arg-type]
        return self

    def change_workflow(self, wms_id: str, **more: object) -> World:
        self.workflows = [
            replace(each, **more) if each.wms_id == wms_id else each  # type: ignore[arg-type]
            for each in self.workflows
        ]
        return self

    def plan(self, name: str, *groups: GroupKey, needs: tuple[str, ...] = ()) -> World:
        self.steps.append(Step("camp", name, needs, groups, output="u/camp"))
        return self

    def change_step(self, name: str, **more: object) -> World:
        self.steps = [replace(each, **more) if each.name == name else each for each in self.steps]  # type: ignore[arg-type]
        return self

    def chain(self, name: str, children: Sequence[str]) -> World:
        assert self.chains is not None
        self.chains[name] = list(children)
        return self

    def collect(self, name: str) -> World:
        return self.change_step(name, collected=self.now())

    def at(self, moment: float) -> World:
        """The same campaign as it was at a moment."""
        begun = [each for each in self.attempts if each.started is not None and each.started <= moment]
        over = {each.run_id for each in begun if (each.ended or 0.0) <= moment}
        ended = {each.wms_id for each in begun if each.run_id in over}
        there = [each for each in self.workflows if each.submitted <= moment]
        ids = {each.wms_id for each in there}
        runs = {"state": "RUNNING", "ended_itself": False}
        steps = [each if (each.collected or 0.0) <= moment else replace(each, collected=None) for each in self.steps]
        return World(
            attempts=[
                each
                if each.run_id in over
                else replace(each, status="STARTED", ended=None, wms_id=each.wms_id if each.wms_id in ids else "")
                for each in begun
            ],
            workflows=[each if each.wms_id in ended else replace(each, **runs) for each in there],  # type: ignore[arg-type]
            steps=steps,
        )


def complete(former: dict[GroupKey, list[str]] | None = None) -> World:
    """Make a campaign of two steps as it should be, with attempts that came to nothing before the accepted ones."""
    world = World()
    world.plan("step1", G1, G2)
    world.plan("step2", LAST, needs=("step1",))
    for step in ("step1", "step2"):
        for key in (G1, G2) if step == "step1" else (LAST,):
            number = 1
            for how in (former or {}).get(key, []):
                world.blameless(key, number, how)
                number += 1 if how != "turned away" else 0  # its number is given again
            world.accept(key, number)
        world.collect(step)
    return world


def accepted(world: World, key: GroupKey) -> Attempt:
    return next(each for each in world.attempts if each.key == key and each.accepted)


def workflow(world: World, attempt: Attempt) -> AtWms:
    return next(each for each in world.workflows if each.wms_id == attempt.wms_id)
