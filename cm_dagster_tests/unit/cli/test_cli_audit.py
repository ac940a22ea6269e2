"""``cm audit``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from lsst.ctrl.bps.cli import bps
from lsst.daf.butler.cli import butler

from cm_dagster.cli import cm
from cm_dagster.control.audit import Audit
from cm_dagster.control.evidence import Gap
from cm_dagster.plan.names import AttemptId, StepId
from cm_dagster.policy import audit as rules
from cm_dagster.policy import audit_traces as traces
from cm_dagster.policy.audit_traces import Chain
from cm_dagster.policy.findings import Finding, Kind, Known, Place, Workflow
from cm_dagster.policy.states import State
from cm_dagster_tests.unit.cli.conftest import Cm, Rig

TWIN = Finding(Kind.TWIN_WORKFLOW, "rc2", "WMS: two", "cancel 2", step="step1", group="g0001", attempt=1, wms_id="2")
ORPHAN = Finding(Kind.ORPHAN_OUTPUT, "rc2", "Butler: one", "remove it", since=1.0e9)
GAP = Gap("WMS of local: workflows", "no answer within 60 s", "ask who runs it")

type Answer = Callable[..., dict[str, Any]]


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Have the audit give an answer; what it was asked is returned, once it was."""

    def give(*findings: Finding, gaps: tuple[Gap, ...] = ()) -> dict[str, Any]:
        asked: dict[str, Any] = {}

        def audit(_: object, site: Any, __: object, **options: Any) -> Audit:
            asked.update(options, site=site.name)
            return Audit("local", 1.0e9, findings, gaps, {"attempts": 7})

        monkeypatch.setattr("cm_dagster.control.audit.audit", audit)
        return asked

    return give


def test_all_is_well(cm_run: Cm, rig: Rig, answer: Answer) -> None:
    asked = answer()
    ran = cm_run("audit")
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "all is well")
    assert asked == {"campaigns": None, "fix_by": "", "site": "local"}


def test_findings_are_shown_with_what_to_do(cm_run: Cm, rig: Rig, answer: Answer) -> None:
    answer(TWIN, ORPHAN)
    ran = cm_run("audit", "rc2")
    assert ran.code == 1
    for text in (
        "twin-workflow (1): two workflows of one name",
        "rc2 step1 g0001 a01  WMS: two",
        "what to do: cancel 2",
        "what to do: remove it",
        "2 findings, 1 of them alarming",
        "attempts 7",
    ):
        assert text in ran.out
    assert "(since 2001-09-0" in ran.out
    assert ran.out.index("twin-workflow") < ran.out.index("orphan-output")


def test_many_findings_alike_do_not_hide_the_others(cm_run: Cm, rig: Rig, answer: Answer) -> None:
    answer(*[TWIN] * 50, ORPHAN)
    ran = cm_run("audit")
    assert ran.out.count("what to do: ") == 21
    assert "... and 30 more: cm audit --json" in ran.out
    assert len(cm_run("audit", "--json").json["findings"]) == 51


@pytest.mark.parametrize("findings", [(), (TWIN,)])
def test_a_source_that_could_not_be_asked_is_not_all_well(
    cm_run: Cm, rig: Rig, answer: Answer, findings: tuple[Finding, ...]
) -> None:
    answer(*findings, gaps=(GAP,))
    ran = cm_run("audit")
    assert ran.code == 3
    assert "not done: WMS of local: workflows: no answer within 60 s\nwhat to do: ask who runs it" in ran.out
    assert "all is well" not in ran.out
    assert cm_run("audit", "--json").code == 3


def test_json(cm_run: Cm, rig: Rig, answer: Answer) -> None:
    answer(TWIN, ORPHAN, gaps=(GAP,))
    document = cm_run("audit", "--json").json
    assert list(document) == ["site", "time", "all_well", "looked_at", "not_done", "counts", "findings"]
    assert (document["time"], document["all_well"]) == ("2001-09-09T01:46:40Z", False)
    assert document["counts"]["twin-workflow"] == 1
    assert document["counts"]["stuck"] == 0
    first, second = document["findings"]
    assert first == {
        "kind": "twin-workflow",
        "alarm": True,
        "campaign": "rc2",
        "step": "step1",
        "group": "g0001",
        "attempt": 1,
        "run_id": None,
        "wms_id": "2",
        "since": None,
        "seen": "WMS: two",
        "advice": "cancel 2",
        "done": None,
    }
    assert (second["alarm"], second["since"], second["step"]) == (False, "2001-09-09T01:46:40Z", None)


def test_fix_is_done_in_the_name_of_the_pilot(cm_run: Cm, rig: Rig, answer: Answer) -> None:
    asked = answer()
    cm_run("audit", "rc2", "--site", "local", "--fix")
    assert asked == {"campaigns": ("rc2",), "fix_by": "pilot (cm audit --fix)", "site": "local"}


def test_a_site_that_there_is_not(cm_run: Cm, rig: Rig) -> None:
    ran = cm_run("audit", "--site", "nowhere")
    assert ran.code == 2
    assert "there are: local" in ran.err


def test_an_audit_that_cannot_be_made_is_neither_well_nor_a_finding(
    cm_run: Cm, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = cm_run("audit", "rc3")
    assert ran.code == 3
    assert "there is no campaign 'rc3'" in ran.err
    monkeypatch.delenv("DAGSTER_HOME")
    assert cm_run("audit").code == 3


def test_without_services(cm_run: Cm, rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real audit of a deployment whose repository is not there yet."""
    monkeypatch.setenv("CM_LOCAL_WMS_HOME", str(tmp_path / "wms"))
    ran = cm_run("audit")
    assert ran.code == 3
    assert "not done: Butler: output of rc2" in ran.out
    assert "not done: submit area of local: claims" in ran.out


# ---------------------------------------------------------------------------------------------------------- advice


ID = AttemptId(StepId("camp", "step1", "here"), "g0001", 1)
PLACE = Place("here", "a.WmsService", Path("/the area"), settle=60.0)


def run_in(state: State, *wms_ids: str) -> Known:
    return Known(ID, "r1", state, frozenset(wms_ids), since=0.0)


def every_finding() -> list[Finding]:
    """Give findings of each kind, with each advice that there is."""
    flows = {state: Workflow("2", ID, state) for state in ("running", "succeeded")}
    own = Workflow("1", ID, "running")
    runs = [run_in(state, *ids) for state in State for ids in ((), ("1",))]
    stale = rules.stale_unknown(run_in(State.UNKNOWN, "1"), 9e9, PLACE)
    lost = traces.compare_chain(Chain("chain", "camp", "step1", {"run": "g0001"}, "cure"), None, "/repo")
    assert stale is not None
    assert lost is not None
    return [
        *rules.strange_campaigns([own], set(), PLACE),
        *(each for flow in flows.values() for each in rules.compare_workflows([flow], [], PLACE)),
        *(
            each
            for run in runs
            for flow in flows.values()
            for each in rules.compare_workflows([own, flow], [run], PLACE)
        ),
        rules.missing_workflow(run_in(State.RUNNING, "1"), [own], PLACE),
        *rules.compare_attempts([run_in(State.RUNNING, "1"), replace(run_in(State.FAILED, "2"), run_id="r2")]),
        stale,
        *(rules.stuck(run_in(State.QUEUED), PLACE, queued=queued) for queued in (True, False)),
        rules.stuck_job("r1", "submit_here", 0.0, queued=True),
        *traces.compare_claims({ID: "r9"}, [run_in(State.RUNNING)], {}, PLACE),
        *traces.compare_claims({}, [run_in(State.RUNNING)], {}, PLACE),
        traces.strange_folder(Path("/the area/gone")),
        *traces.compare_outputs([(run_in(State.ACCEPTED, "1"), "run")], set(), "/the repo"),
        lost,
        traces.orphan_output(ID, "u/run", "/the repo"),
    ]


def test_each_command_of_an_advice_is_one_that_there_is() -> None:
    programs: dict[str, click.Group] = {"cm": cm, "bps": bps.cli, "butler": butler.cli}
    found = every_finding()
    assert {finding.kind for finding in found} == set(Kind)
    said = {words[0] for finding in found for words in map(shlex.split, re.findall("`([^`]+)`", finding.advice))}
    assert said == {*programs, "rm", "mkdir"}
    for finding in found:
        for words in map(shlex.split, re.findall("`([^`]+)`", finding.advice)):
            command: click.Command | None = programs.get(words.pop(0))
            while isinstance(command, click.Group):
                command = command.get_command(click.Context(command), words.pop(0))
                assert command is not None, finding.advice
            if command is not None:
                command.make_context("a command", words)  # raises where an argument is wrong
