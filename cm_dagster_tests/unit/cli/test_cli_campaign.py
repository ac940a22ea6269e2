"""``cm campaign``."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
import yaml

from cm_dagster.ledger import campaigns
from cm_dagster.spec import load_campaign
from cm_dagster_tests.unit.cli.conftest import CAMPAIGN, Cm


def test_validate_good(cm_run: Cm, home: Path, file: Path) -> None:
    ran = cm_run("campaign", "validate", file)
    assert (ran.code, ran.err) == (0, "")
    assert "campaign rc2, 3 steps: good" in ran.out


def test_validate_says_when_sites_were_not_checked(cm_run: Cm, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CM_SITES", raising=False)
    assert "sites were not checked" in cm_run("campaign", "validate", file).out


def test_all_faults_are_reported_one_a_line(cm_run: Cm, home: Path, file: Path) -> None:
    file.write_text(CAMPAIGN.replace("needs: [step1]", "needs: [step]").replace("size: 10", "sizze: 10"))
    ran = cm_run("campaign", "validate", file)
    assert (ran.code, ran.out) == (2, "")
    lines = ran.err.splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{file}:7", f"{file}:8"]
    assert "did you mean 'size'?" in lines[0]


@pytest.mark.parametrize("text", ["", "[]", "a: [", "\x00", "campaign: x"])
def test_what_is_no_campaign_file_is_refused(cm_run: Cm, home: Path, file: Path, text: str) -> None:
    file.write_text(text)
    for command in ("validate", "create"):
        ran = cm_run("campaign", command, file)
        assert ran.code == 2
        assert str(file) in ran.err
        assert "Traceback" not in ran.err


def test_a_file_that_is_absent_or_a_folder(cm_run: Cm, home: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path):
        ran = cm_run("campaign", "create", path)
        assert ran.code == 2
        assert ran.err.startswith(f"{path}: ")


def test_an_unknown_site_is_found_by_the_site_file(cm_run: Cm, home: Path, file: Path) -> None:
    file.write_text(CAMPAIGN.replace("sites: local", "sites: usdf"))
    ran = cm_run("campaign", "validate", file)
    assert ran.code == 2
    assert "usdf" in ran.err


def test_validate_json(cm_run: Cm, home: Path, file: Path) -> None:
    assert cm_run("campaign", "validate", file, "--json").json == {"file": str(file), "valid": True, "faults": []}
    file.write_text(CAMPAIGN.replace("size: 10", "sizze: 10"))
    ran = cm_run("campaign", "validate", file, "--json")
    assert ran.code == 2
    (fault,) = ran.json["faults"]
    assert set(fault) == {"file", "line", "path", "message", "expected", "nearest"}
    assert (fault["line"], fault["path"]) == (7, "steps.step1.group_by.sizze")


def test_create_start_show(cm_run: Cm, instance: dg.DagsterInstance, file: Path) -> None:
    assert "is created" in cm_run("campaign", "create", file, "--reason", "DM-1").out
    assert cm_run("campaign", "create", file, "--json").json == {"campaign": "rc2", "created": False}
    assert campaigns.find(instance, "rc2").spec == load_campaign(file)
    assert not campaigns.find(instance, "rc2").started

    assert cm_run("campaign", "start", "rc2", "--json").json == {"campaign": "rc2", "started": True, "changed": True}
    assert campaigns.find(instance, "rc2").started
    assert "was started before" in cm_run("campaign", "start", "rc2").out

    shown = cm_run("campaign", "show", "rc2").out
    assert shown.startswith("# state: running\n")
    again = file.with_name("again.yaml")
    again.write_text(shown)
    assert load_campaign(again) == load_campaign(file)
    assert yaml.safe_load(shown)["campaign"] == "rc2"


def test_another_specification_under_the_same_name_is_refused(cm_run: Cm, home: Path, file: Path) -> None:
    cm_run("campaign", "create", file)
    file.write_text(CAMPAIGN.replace("size: 10", "size: 11"))
    ran = cm_run("campaign", "create", file)
    assert ran.code == 1
    assert "another specification" in ran.err
    assert "what to do:" in ran.err


def test_history_has_who_when_why(cm_run: Cm, home: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cm_run("campaign", "create", file, "--reason", "DM-1")
    cm_run("campaign", "start", "rc2")
    monkeypatch.setenv("CM_USER", "reviewer")
    cm_run("campaign", "sign-off", "rc2", "step3", "--reason", "plots are good")
    history = cm_run("campaign", "show", "rc2", "--json").json["history"]
    assert [(entry["user"], entry["action"], entry["reason"]) for entry in history] == [
        ("pilot", "create", "DM-1"),
        ("pilot", "start", ""),
        ("reviewer", "sign-off step3", "plots are good"),
    ]
    text = cm_run("campaign", "show", "rc2", "--history").out
    assert "reviewer  sign-off step3  plots are good" in text


def test_start_refuses_an_instance_that_is_not_ours(
    cm_run: Cm, home: Path, instance: dg.DagsterInstance, file: Path
) -> None:
    cm_run("campaign", "create", file)
    ours = (home / "dagster.yaml").read_text()
    for text in ("telemetry: {enabled: false}\n", ours.replace("CampaignRunCoordinator", "Missing")):
        (home / "dagster.yaml").write_text(text)
        ran = cm_run("campaign", "start", "rc2")
        assert ran.code == 1
        assert "coordinator: " in ran.err
        assert "nothing was started" in ran.err
    assert not campaigns.find(instance, "rc2").started


def test_start_warns_where_no_daemon_runs(cm_run: Cm, home: Path, file: Path) -> None:
    cm_run("campaign", "create", file)
    ran = cm_run("campaign", "start", "rc2")
    assert ran.code == 0
    assert "warning: Dagster's daemon does not run" in ran.err


def test_sign_off_of_a_step_without_a_gate(cm_run: Cm, home: Path, file: Path) -> None:
    cm_run("campaign", "create", file)
    ran = cm_run("campaign", "sign-off", "rc2", "step1", "--reason", "why not")
    assert ran.code == 1
    assert "steps with a gate: step3" in ran.err
    assert cm_run("campaign", "sign-off", "rc2", "step3").code == 2
    assert cm_run("campaign", "sign-off", "rc2", "step3", "--reason", " ").code == 2


@pytest.mark.parametrize("command", [["start"], ["show"], ["sign-off", "step1", "--reason", "x"]])
def test_an_unknown_campaign(cm_run: Cm, home: Path, command: list[str]) -> None:
    ran = cm_run("campaign", command[0], "nope", *command[1:])
    assert ran.code == 1
    assert "there is no campaign 'nope'" in ran.err


def test_list(cm_run: Cm, home: Path, file: Path) -> None:
    assert "no campaigns" in cm_run("campaign", "list").out
    cm_run("campaign", "create", file)
    assert "rc2       created  0 of 3" in cm_run("campaign", "list").out
    (line,) = cm_run("campaign", "list", "--json").json
    assert set(line) == {
        "campaign", "state", "description", "ticket", "steps_done", "steps_total", "groups_accepted", "groups_total",
        "action", "user", "changed",
    }  # fmt: skip


def test_draft(cm_run: Cm, tmp_path: Path) -> None:
    import cm_dagster.local.minidrp as package

    (pipeline,) = Path(package.__file__).parent.glob("pipelines/MiniDRP.yaml")
    out = tmp_path / "draft.yaml"
    args = ("campaign", "draft", "--pipeline", pipeline, "--input", "HSC/defaults", "--name", "mine")
    assert cm_run(*args, "-o", out).code == 0
    spec = load_campaign(out)
    assert (spec.campaign, spec.butler.input) == ("mine", ["HSC/defaults"])
    assert cm_run(*args).out == out.read_text()

    out.write_text("edited")
    ran = cm_run(*args, "-o", out)
    assert ran.code == 2
    assert out.read_text() == "edited"


def test_draft_of_no_pipeline(cm_run: Cm, tmp_path: Path) -> None:
    ran = cm_run("campaign", "draft", "--pipeline", tmp_path / "absent.yaml")
    assert ran.code == 1
    assert "cannot be read" in ran.err
