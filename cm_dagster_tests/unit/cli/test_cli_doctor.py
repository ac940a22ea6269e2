"""``cm doctor``."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from cm_dagster import zipguard
from cm_dagster.cli import checks
from cm_dagster.cli.checks_dagster import check_daemon, check_daemon_environment, check_instance
from cm_dagster.local.survey import make_hsc_survey
from cm_dagster_tests.unit.cli.conftest import Cm

_INSTANCE_CLASS = "instance_class:\n  module: cm_dagster.ledger.instance\n  class: CampaignInstance\n"


def found(ran: Any, check: str) -> list[tuple[str, str]]:
    return [(entry["level"], entry["message"]) for entry in ran.json["checks"] if entry["check"] == check]


def test_a_good_deployment_without_a_daemon(cm_run: Cm, home: Path, tmp_path: Path) -> None:
    make_hsc_survey(tmp_path / "repo")
    ran = cm_run("doctor", "--json")
    assert ran.code == 1
    levels = {entry["check"]: entry["level"] for entry in ran.json["checks"]}
    assert levels == {
        "interpreter": "ok", "packages": "ok", "programs": "ok", "DAGSTER_HOME": "ok", "storage": "ok",
        "instance": "ok", "coordinator": "ok", "launcher": "ok", "daemon": "fail", "sensors": "warn", "sites": "ok",
        "butler local": "ok", "wms local": "ok", "submit area local": "ok",
        "code server local": "warn",
    }  # fmt: skip
    assert set(ran.json) == {"ok", "checks"}
    assert not ran.json["ok"]
    assert all(entry["advice"] for entry in ran.json["checks"] if entry["level"] != "ok")


def test_nothing_is_set_up(cm_run: Cm, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DAGSTER_HOME", "CM_SITES", "CM_SITE"):
        monkeypatch.delenv(name, raising=False)
    ran = cm_run("doctor")
    assert ran.code == 1
    for words in ("DAGSTER_HOME is not set", "CM_SITES is not set", "2 of 5 failed"):
        assert words in ran.out


@pytest.mark.parametrize(
    ("old", "new", "check", "message"),
    [
        ("class: CampaignRunCoordinator", "class: Missing", "coordinator", "Missing"),
        ("cm_dagster.ledger.coordinator\n  class: CampaignRunCoordinator", "dagster\n  class: QueuedRunCoordinator",
         "coordinator", "not cm_dagster's CampaignRunCoordinator"),
        ("value: workflow, limit: 0", "value: workflow, limit: 1", "coordinator", "is missing"),
        ("max_concurrent_runs: -1", "max_concurrent_runs: 10", "coordinator", "max_concurrent_runs is 10"),
        ("cm_dagster.ledger.launcher\n  class: CampaignRunLauncher", "dagster\n  class: DefaultRunLauncher",
         "launcher", "not cm_dagster's CampaignRunLauncher"),
    ],
)  # fmt: skip
def test_a_wrong_dagster_yaml(cm_run: Cm, home: Path, old: str, new: str, check: str, message: str) -> None:
    file = home / "dagster.yaml"
    text = file.read_text()
    assert old in text
    text = text.replace(old, new)
    if check == "launcher":
        text = text.replace("    inner: {}", "    {}")
    file.write_text(text)
    ((level, said),) = found(cm_run("doctor", "--json"), check)
    assert level == "fail"
    assert message in said


def test_a_wrong_site_file(cm_run: Cm, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CM_SITE", "usdf")
    ((level, said),) = found(cm_run("doctor", "--json"), "sites")
    assert (level, "usdf" in said) == ("fail", True)
    (tmp_path / "sites.yaml").write_text("sites: {local: {butlr: x}}")
    faults = found(cm_run("doctor", "--json"), "sites")
    assert {level for level, _ in faults} == {"fail"}
    assert any("did you mean 'butler'?" in said for _, said in faults)


def test_services_that_are_not_there(cm_run: Cm, home: Path, tmp_path: Path) -> None:
    file = tmp_path / "sites.yaml"
    text = file.read_text().replace("LocalWmsService", "NoSuchService").replace(str(tmp_path / "area"), "/proc/area")
    file.write_text(text)
    ran = cm_run("doctor", "--json")
    for check, word in (
        ("butler local", str(tmp_path / "repo")),
        ("wms local", "imported"),
        ("submit area local", "/proc"),
    ):
        ((level, said),) = found(ran, check)
        assert level == "fail"
        assert word in said


def test_daemon_by_its_heartbeats(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    class Beat:
        errors: None = None

        def __init__(self, age: float) -> None:
            self.timestamp = time.time() - age

    beats = {"SENSOR": Beat(5), "QUEUED_RUN_COORDINATOR": Beat(10), "BACKFILL": Beat(20)}
    monkeypatch.setattr(type(instance), "get_daemon_heartbeats", lambda _: beats)
    assert [finding.level for finding in check_daemon(instance)] == ["ok"]
    beats["SENSOR"] = Beat(900)
    (finding,) = check_daemon(instance)
    assert finding.level == "fail"
    assert "sensor (15 min ago)" in finding.message
    beats["SENSOR"] = Beat(-7200)
    _, finding = check_daemon(instance)
    assert finding.level == "warn"
    assert "120 min in the future: a clock was set back" in finding.message


def test_an_instance_of_dagsters_own_class(tmp_path: Path) -> None:
    for text, level in (("", "fail"), (_INSTANCE_CLASS, "ok")):
        (tmp_path / "dagster.yaml").write_text(text)
        with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
            assert [finding.level for finding in check_instance(instance)] == [level]


def test_a_daemon_without_the_variable_for_backfills_is_seen(home: Path) -> None:
    def start(**more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "import time; time.sleep(60)", "dagster-daemon"]
        return subprocess.Popen(command, env={"DAGSTER_HOME": str(home), **more})

    for more, warnings in (({}, 1), ({"DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR": "1"}, 0)):
        process = start(**more)
        try:
            deadline = time.monotonic() + 10
            while not Path(f"/proc/{process.pid}/cmdline").read_bytes().endswith(b"dagster-daemon\0"):
                assert time.monotonic() < deadline
            assert len(list(check_daemon_environment(home))) == warnings
        finally:
            process.kill()
            process.wait()


def test_an_affected_interpreter_without_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipguard, "affected", lambda: True)
    monkeypatch.setattr(zipguard, "installed", lambda: False)
    monkeypatch.setattr(checks, "_CHILD", "print('zipfile')")
    (finding,) = checks.check_interpreter()
    assert finding.level == "fail"
    assert "this process and its children lack the guard" in finding.message
    assert "3.12.9" in finding.advice


def test_a_sound_interpreter_needs_no_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipguard, "affected", lambda: False)
    (finding,) = checks.check_interpreter()
    assert finding.level == "ok"
