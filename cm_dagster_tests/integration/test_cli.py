"""The installed ``cm`` as a program: a campaign from its file to its status, by a script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cm_dagster
from cm_dagster.local.survey import make_hsc_survey

CM = Path(sys.executable).parent / "cm"

CAMPAIGN = """\
campaign: rc2
butler: {input: [INPUT], output: HSC/runs/rc2, where: "WHERE"}
pipeline: "/pipelines/DRP.yaml"
sites: local
steps:
  step1: {pipeline: "#step1", group_by: {dimension: visit, dataset: raw, size: 4}}
  step2: {pipeline: "#step2", needs: [step1]}
"""

SITES = """\
sites:
  local:
    butler: REPO
    submit_area: AREA
    wms: {service: cm_dagster.local.wms.LocalWmsService, compute_site: local}
"""


class Shell:
    """A pilot's shell in a new deployment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "home").mkdir()
        (folder / "area").mkdir()
        template = Path(cm_dagster.__file__).parents[1] / "dagster.yaml"
        (folder / "home/dagster.yaml").write_text(template.read_text())
        survey = make_hsc_survey(folder / "repo")
        sites = SITES.replace("REPO", str(survey.root)).replace("AREA", str(folder / "area"))
        (folder / "sites.yaml").write_text(sites)
        (folder / "rc2.yaml").write_text(CAMPAIGN.replace("INPUT", survey.defaults).replace("WHERE", survey.where))
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("CM_", "DAGSTER_"))},
            "DAGSTER_HOME": str(folder / "home"),
            "CM_SITES": str(folder / "sites.yaml"),
            "CM_USER": "pilot",
        }

    def cm(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [CM, *args], cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=120, check=False
        )


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("deployment"))


def test_from_file_to_status(shell: Shell) -> None:
    assert shell.cm("campaign", "validate", "rc2.yaml").returncode == 0
    plan = json.loads(shell.cm("plan", "rc2.yaml", "--json").stdout)
    assert [len(step["groups"]) for step in plan["steps"]] == [3, 0]
    for command in (["campaign", "create", "rc2.yaml"], ["campaign", "start", "rc2", "--reason", "go"]):
        done = shell.cm(*command)
        assert done.returncode == 0, done.stderr
    status = json.loads(shell.cm("status", "rc2", "--json").stdout)
    assert [step["state"] for step in status["steps"]] == ["planning", "waiting"]
    history = json.loads(shell.cm("campaign", "show", "rc2", "--json").stdout)["history"]
    assert [(entry["user"], entry["action"]) for entry in history] == [("pilot", "create"), ("pilot", "start")]
    assert list((shell.folder / "area").iterdir()) == []


def test_a_faulty_file_gives_a_line_for_each_fault_and_2(shell: Shell) -> None:
    text = (shell.folder / "rc2.yaml").read_text()
    (shell.folder / "bad.yaml").write_text(text.replace("size: 4", "sise: 4").replace("[step1]", "[stepp]"))
    done = shell.cm("campaign", "create", "bad.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.split(" ")[0] for line in done.stderr.splitlines()] == ["bad.yaml:6:", "bad.yaml:7:"]


def test_a_closed_pipe_is_silent(shell: Shell) -> None:
    command = f"set -o pipefail; {CM} plan rc2.yaml | head -n 1"
    done = subprocess.run(
        ["bash", "-c", command], cwd=shell.folder, env=shell.env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "step1 would be cut into 3 groups\n"


def test_expected_failures_have_no_traceback(shell: Shell) -> None:
    broken = Shell.__new__(Shell)
    broken.folder = shell.folder
    for name, value in (("DAGSTER_HOME", str(shell.folder / "nowhere")), ("CM_SITES", "absent.yaml")):
        broken.env = {**shell.env, name: value}
        for command in (["status"], ["plan", "rc2.yaml"], ["campaign", "start", "nope"], ["doctor"]):
            done = broken.cm(*command)
            assert "Traceback" not in done.stderr + done.stdout
            assert done.returncode in (0, 1, 2)


def test_doctor_finds_what_is_wrong(shell: Shell) -> None:
    done = shell.cm("doctor", "--json")
    assert done.returncode == 1
    wrong = {entry["check"] for entry in json.loads(done.stdout)["checks"] if entry["level"] == "fail"}
    assert wrong == {"daemon"}
