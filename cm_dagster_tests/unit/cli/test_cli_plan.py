"""``cm plan``, on a real Butler with real survey records."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from cm_dagster.local.survey import Survey, make_hsc_survey
from cm_dagster_tests.unit.cli.conftest import CAMPAIGN, Cm, Rig


@pytest.fixture(scope="session")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    return make_hsc_survey(tmp_path_factory.mktemp("survey") / "repo")


@pytest.fixture
def hsc(survey: Survey, home: Path, tmp_path: Path) -> Path:
    """A campaign file for the survey, whose repository is the site's own."""
    shutil.copytree(survey.root, tmp_path / "repo")
    path = tmp_path / "hsc.yaml"
    text = CAMPAIGN.replace("instrument='HSC'", survey.where).replace("campaign: rc2", "campaign: hsc")
    path.write_text(text.replace("size: 10", "dataset: raw, size: 4"))
    return path


def test_plan_of_a_file_that_is_not_created(cm_run: Cm, hsc: Path, tmp_path: Path) -> None:
    document = cm_run("plan", hsc, "--json").json
    first, second, third = document["steps"]
    assert not document["created"]
    assert (first["state"], second["state"], third["state"]) == ("possible", "waiting", "waiting")
    assert second["reason"] == "the output of step1 does not exist yet"
    assert sum(group["size"] for group in first["groups"]) == 11
    assert sum(group["datasets"] for group in first["groups"]) == 33
    payload = document["example"]["config"]["payload"]
    assert payload["dataQuery"] == first["groups"][0]["where"]
    assert document["example"]["script"].startswith("#!/bin/bash\n")
    assert list((tmp_path / "area").iterdir()) == []


def test_page_holds_the_files_as_they_are(cm_run: Cm, hsc: Path) -> None:
    text = cm_run("plan", hsc, "--step", "step1", "--group", "g0001").out
    assert "step1 would be cut into 3 groups" in text
    config, _, script = text.partition("bps.yaml\n")[2].partition("\n# ")
    assert yaml.safe_load(config)["uniqProcName"] == "hsc.step1.local.g0001.a01"
    assert "\nexec bps submit " in script


def test_a_planned_step_shows_the_groups_that_are_made(cm_run: Cm, rig: Rig) -> None:
    rig.plan("step1", 7)
    document = cm_run("plan", "rc2", "--step", "step1", "--json").json
    assert document["created"]
    assert document["steps"][0]["state"] == "planned"
    assert len(document["steps"][0]["groups"]) == 7
    assert "... and 2 more, the last one g0006" in cm_run("plan", "rc2").out


def test_what_was_checked_is_shown(cm_run: Cm, hsc: Path) -> None:
    """In whole for one step; of all steps what is missing, or to be known."""
    text = hsc.read_text()
    checked = cm_run("plan", hsc, "--json").json["steps"][0]["checked"]
    assert [row["kind"] for row in checked] == ["collection", "pipeline", "disk space", "inodes"]
    assert all(row["met"] for row in checked)
    short = cm_run("plan", hsc).out
    assert "checked: 4 things\n" in short
    assert "not checked: it can't be read" in " ".join(short.split())
    assert "disk space" not in short
    assert "disk space" in cm_run("plan", hsc, "--step", "step1").out
    hsc.write_text(text.replace("steps:", "defaults: {requirements: {raw: 40, gain: 1}}\nsteps:"))
    ran = cm_run("plan", hsc, "--step", "step1")
    assert ran.code == 1
    assert "the inputs of step1 are not complete: requirement raw: 33 found, 40 wanted (and 1 more)" in ran.err
    assert "checked: 6 things, 2 missing" in ran.out
    assert [line.split()[1] for line in ran.out.splitlines() if line.startswith("missing")] == ["raw", "gain"]


def test_data_that_is_missing_is_said(cm_run: Cm, hsc: Path) -> None:
    hsc.write_text(hsc.read_text().replace("[HSC/defaults]", "[HSC/default]"))
    ran = cm_run("plan", hsc, "--step", "step1")
    assert ran.code == 1
    assert "HSC/defaults" in ran.err
    assert cm_run("plan", hsc).code == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--step", "step9"], "its steps: step1, step2, step3"),
        (["--step", "step1", "--group", "g0099"], "its last one is g0002"),
        (["--group", "g0001"], "--group needs --step"),
    ],
)
def test_wrong_use(cm_run: Cm, hsc: Path, args: list[str], message: str) -> None:
    ran = cm_run("plan", hsc, *args)
    assert ran.code == 2
    assert message in ran.err


def test_no_site_file(cm_run: Cm, hsc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CM_SITES")
    ran = cm_run("plan", hsc)
    assert ran.code == 1
    assert "CM_SITES is not set" in ran.err


def test_sites_are_summed_up(cm_run: Cm, hsc: Path, tmp_path: Path) -> None:
    """The survey has 11 visits and 33 raws; groups are balanced by raws."""
    site = f"{{butler: {tmp_path / 'repo'}, submit_area: {tmp_path / 'area'}, wms: {{service: a.B, compute_site: x}}"
    (tmp_path / "sites.yaml").write_text(f"sites: {{local: {site}, home: true}}, other: {site}}}}}")
    hsc.write_text(hsc.read_text().replace("sites: local", "sites: {local: 2, other: 1}"))
    text = cm_run("plan", hsc).out
    assert "local: 2 groups, 23 datasets, 69.7% of what is shared (wanted: 66.7%)" in text
    assert "other: 1 group, 10 datasets, 30.3% of what is shared (wanted: 33.3%)" in text
    document = cm_run("plan", hsc, "--json").json["steps"][0]
    assert [group["site"] for group in document["groups"]] == ["local", "other", "local"]
    assert [(site["site"], site["groups"], site["amount"]) for site in document["sites"]] == [
        ("local", 2, 23),
        ("other", 1, 10),
    ]


def test_sites_are_not_summed_up_where_there_is_one(cm_run: Cm, hsc: Path) -> None:
    assert "of what is shared" not in cm_run("plan", hsc).out
