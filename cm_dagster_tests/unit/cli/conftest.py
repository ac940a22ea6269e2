"""A deployment in a temporary folder, and a ledger that can be filled with attempts in any state."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click.testing
import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

import cm_dagster
from cm_dagster.cli import cm
from cm_dagster.control.steps import Document, accepted, collected_key, inputs_key
from cm_dagster.ledger import campaigns, events, store, tags
from cm_dagster.ledger.attempts import index_of, read_attempt
from cm_dagster.ledger.plans import Plan, save_plan
from cm_dagster.plan.groups import Group
from cm_dagster.plan.names import StepId, group_name
from cm_dagster.policy.states import State
from cm_dagster.spec import load_campaign

CAMPAIGN = """\
campaign: rc2
description: RC2 reprocessing
butler: {input: [HSC/defaults], output: HSC/runs/rc2, where: "instrument='HSC'"}
pipeline: "/pipelines/DRP.yaml"
sites: local
steps:
  step1: {pipeline: "#step1", group_by: {dimension: visit, size: 10}}
  step2: {pipeline: "#step2", needs: [step1], group_by: {dimension: tract}}
  step3: {pipeline: "#step3", needs: [step2], gate: sign-off}
"""

SITES = """\
sites:
  local:
    butler: BUTLER
    submit_area: AREA
    wms: {service: cm_dagster.local.wms.LocalWmsService, compute_site: local}
"""


@dataclass
class Ran:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


type Cm = Callable[..., Ran]


@pytest.fixture
def cm_run(monkeypatch: pytest.MonkeyPatch) -> Cm:
    """Run ``cm`` in this process, at 120 columns."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*args: str | Path) -> Ran:
        result = click.testing.CliRunner().invoke(cm, [str(arg) for arg in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A deployment with our dagster.yaml, a site file, and nothing in it."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "dagster.yaml").write_text((Path(cm_dagster.__file__).parents[1] / "dagster.yaml").read_text())
    (tmp_path / "area").mkdir()
    text = SITES.replace("BUTLER", str(tmp_path / "repo")).replace("AREA", str(tmp_path / "area"))
    (tmp_path / "sites.yaml").write_text(text)
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    monkeypatch.setenv("CM_SITES", str(tmp_path / "sites.yaml"))
    monkeypatch.setenv("CM_USER", "pilot")
    monkeypatch.delenv("CM_SITE", raising=False)
    return folder


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.get() as opened:
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A good campaign file."""
    path = tmp_path / "rc2.yaml"
    path.write_text(CAMPAIGN)
    return path


class Rig:
    """A ledger that holds campaign ``rc2``, to be brought to any state without services."""

    def __init__(self, instance: dg.DagsterInstance, file: Path) -> None:
        self.instance = instance
        self._file = file
        self.name = "rc2"
        campaigns.create(instance, load_campaign(file), user="pilot", reason="for DM-1")

    def create(self, name: str, change: Callable[[str], str]) -> None:
        """Make another campaign, of a changed file, and go on with it."""
        self.name = name
        path = self._file.with_name(f"{name}.yaml")
        path.write_text(change(CAMPAIGN.replace("rc2", name)))
        campaigns.create(self.instance, load_campaign(path), user="pilot")

    def start(self) -> None:
        campaigns.start(self.instance, self.name, user="pilot")

    def chain(self, step: str) -> None:
        """Take all accepted groups of a step for chained."""
        id_ = StepId(self.name, step, "local")
        store.put(self.instance, Document.CHAINED.key(id_), accepted(index_of(self.instance), id_))

    def plan(self, step: str, groups: int) -> None:
        made = [
            Group(group_name(place, groups), f"visit = {place}", 1, None, f"visit {place}", "local", 3)
            for place in range(groups)
        ]
        save_plan(self.instance, Plan(self.name, step, tuple(made), ("HSC/defaults",)), begun=False)
        self.instance.report_runless_asset_event(dg.AssetMaterialization(inputs_key(self.name, step)))

    def collect(self, step: str) -> None:
        self.instance.report_runless_asset_event(dg.AssetMaterialization(collected_key(self.name, step)))

    def attempt(self, step: str, place: int, state: State, *, number: int = 1, message: str = "") -> str:
        """Make an attempt at the group at a place, and bring it to a state."""
        id_ = StepId(self.name, step, "local")
        group = group_name(place, place + 1)
        run: dg.DagsterRun = create_run_for_test(
            self.instance,
            job_name="__ASSET_JOB",
            tags={
                tags.KIND: tags.WORKFLOW,
                tags.STEP: id_.tag,
                tags.GROUP: f"{id_.tag}|{group}",
                tags.ATTEMPT: str(number),
                tags.STATE: str(State.QUEUED),
                tags.PARTITION: group,
            },
        )
        self.instance.add_run_tags(run.run_id, {tags.OF: run.run_id})
        self._bring(run.run_id, state, message)
        return run.run_id

    def _bring(self, run_id: str, state: State, message: str) -> None:
        attempt = read_attempt(self.instance, run_id)
        assert attempt is not None
        if state is State.QUEUED:
            return
        events.start(self.instance, attempt)
        folder = f"/area/{attempt.id.short}"
        events.submitted(self.instance, events.Sent(attempt, "17", f"{folder}/submit-1", "out/run"))
        if state is State.FAILED:
            events.fail(self.instance, attempt, message, {"verdict": message, "jobs": {"isr": {"failed": 1}}})
        elif state is State.ACCEPTED:
            events.accept(
                self.instance, events.Acceptance(attempt, "Accepted: 3 of 3 quanta succeeded.", {"verdict": "good"})
            )
        elif state is State.CANCELLED:
            events.cancelled(self.instance, run_id, message, swept=True)
        else:
            self.instance.add_run_tags(run_id, {tags.STATE: str(state)})


@pytest.fixture
def rig(instance: dg.DagsterInstance, file: Path) -> Rig:
    return Rig(instance, file)
