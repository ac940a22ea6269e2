"""Starting ``cm``: help, schema, exit codes, what is said where something is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cm_dagster_tests.unit.cli.conftest import Cm

HEAVY = (
    "import sys; sys.argv = ['cm', *{args!r}]\nfrom cm_dagster.cli import main\ntry: main()\nexcept SystemExit: pass\n"
)
CHECK = (
    "print([name for name in sys.modules if name.split('.')[0] in ('dagster', 'lsst', 'sqlalchemy')], file=sys.stderr)"
)


@pytest.mark.parametrize("args", [["--help"], ["campaign", "--help"], ["status", "--help"], ["schema", "campaign"]])
def test_help_and_schema_import_neither_dagster_nor_the_rubin_packages(args: list[str]) -> None:
    code = HEAVY.format(args=args) + CHECK
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert done.stdout


def test_help_documents_exit_codes_and_environment(cm_run: Cm) -> None:
    text = cm_run("--help").out
    for word in ("Exit codes", "DAGSTER_HOME", "CM_SITES", "CM_SITE ", "CM_USER", "campaign", "doctor"):
        assert word in text


@pytest.mark.parametrize("command", ["validate", "create", "start", "list", "show", "draft", "sign-off"])
def test_campaign_commands_have_help(cm_run: Cm, command: str) -> None:
    assert cm_run("campaign", command, "--help").code == 0


def test_a_misspelt_command_is_a_usage_error_with_the_nearest(cm_run: Cm) -> None:
    ran = cm_run("statsu")
    assert ran.code == 2
    assert "status" in ran.err


@pytest.mark.parametrize(("kind", "key"), [("campaign", "steps"), ("site", "sites")])
def test_schema(cm_run: Cm, kind: str, key: str) -> None:
    assert key in cm_run("schema", kind).json["properties"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "DAGSTER_HOME is not set"),
        ("relative", "not an absolute path"),
        ("/nowhere/at/all", "does not exist"),
        ("/", "has no dagster.yaml"),
    ],
)
def test_bad_dagster_home(cm_run: Cm, monkeypatch: pytest.MonkeyPatch, value: str | None, message: str) -> None:
    if value is None:
        monkeypatch.delenv("DAGSTER_HOME", raising=False)
    else:
        monkeypatch.setenv("DAGSTER_HOME", value)
    ran = cm_run("status")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("error: ")
    assert message in ran.err
    assert "what to do: set it to" in ran.err


def test_storage_that_cannot_be_opened_is_a_message(cm_run: Cm, home: Path) -> None:
    (home / "dagster.yaml").write_text(
        "storage:\n  postgres:\n    postgres_url: postgresql+psycopg2://u@127.0.0.1:1/d\n"
    )
    ran = cm_run("status")
    assert ran.code == 1
    assert "Dagster's storage cannot be used" in ran.err
    assert "cm doctor" in ran.err


def test_wrong_dagster_yaml_is_a_message(cm_run: Cm, home: Path) -> None:
    (home / "dagster.yaml").write_text("storge: {}\n")
    ran = cm_run("status")
    assert ran.code == 1
    assert "Dagster's storage cannot be used" in ran.err
