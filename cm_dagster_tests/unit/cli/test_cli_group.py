"""``cm group``."""

from __future__ import annotations

from pathlib import Path

import pytest

from cm_dagster.control.health import write_progress
from cm_dagster.ledger import events
from cm_dagster.ledger.attempts import read_attempt
from cm_dagster.policy.backoff import Wait
from cm_dagster.policy.states import State
from cm_dagster_tests.unit.cli.conftest import Cm, Rig

CAUSE = "Workflow 17 failed: 3 of 4 quanta succeeded."


pytestmark = pytest.mark.usefixtures("filled")


@pytest.fixture
def filled(rig: Rig) -> Rig:
    """Step1: accepted at the second attempt, failed, cancelled, running, planned."""
    rig.start()
    rig.plan("step1", 5)
    rig.attempt("step1", 0, State.FAILED, message=CAUSE)
    rig.attempt("step1", 0, State.ACCEPTED, number=2)
    rig.attempt("step1", 1, State.FAILED, message=CAUSE)
    rig.attempt("step1", 2, State.CANCELLED, message="Workflow 17 was cancelled.")
    rig.attempt("step1", 3, State.RUNNING)
    return rig


def test_list_json(cm_run: Cm) -> None:
    groups = cm_run("group", "list", "rc2", "--json").json
    assert [(group["group"], group["state"], group["attempt"]) for group in groups] == [
        ("g0000", "accepted", 2),
        ("g0001", "failed", 1),
        ("g0002", "held", 1),
        ("g0003", "running", 1),
        ("g0004", "planned", None),
    ]
    assert list(groups[0]) == [
        "step", "group", "site", "state", "attempt", "run_id", "wms_id", "size", "quanta", "datasets", "label", "where",
    ]  # fmt: skip


def test_list_filters(cm_run: Cm) -> None:
    ran = cm_run("group", "list", "rc2", "--step", "step1", "--state", "failed", "--state", "held", "--json")
    assert [group["group"] for group in ran.json] == ["g0001", "g0002"]
    assert cm_run("group", "list", "rc2", "--step", "step2").out == "no groups of step step2\n"
    assert cm_run("group", "list", "rc2", "--state", "queued", "--json").json == []
    assert cm_run("group", "list", "rc2", "--state", "lost").code == 2
    ran = cm_run("group", "list", "rc2", "--step", "step9")
    assert ran.code == 1
    assert "its steps: step1, step2, step3" in ran.err


def test_a_long_table_is_cut(cm_run: Cm) -> None:
    text = cm_run("group", "list", "rc2", "--limit", "2").out
    assert "g0001" in text
    assert "g0002" not in text
    assert text.endswith("... and 3 more: --step, --state, or --limit 0\n")
    assert "g0004" in cm_run("group", "list", "rc2", "--limit", "0").out


def test_show_lists_all_attempts_with_causes_and_places(cm_run: Cm) -> None:
    document = cm_run("group", "show", "rc2", "step1", "g0000", "--json").json
    first, second = document["attempts"]
    assert (first["state"], first["end"]) == ("failed", CAUSE)
    assert first["jobs"] == {"isr": {"failed": 1}}
    assert (first["folder"], first["submit_dir"]) == ("/area/a01", "/area/a01/submit-1")
    assert first["workflow"] == "rc2.step1.local.g0000.a01"
    assert (second["attempt"], second["state"]) == (2, "accepted")
    assert second["end"] == "Accepted: 3 of 3 quanta succeeded."


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ("g0000", ["nothing; should it be processed once more"]),
        ("g0001", ["re-execute run", "materialize partition g0001 of rc2/step1/local", "/area/a01"]),
        ("g0002", ["to try again", "re-execute run"]),
        ("g0003", ["terminate run"]),
        ("g0004", ["an attempt is requested when it is its turn"]),
    ],
)
def test_show_says_what_can_be_done(cm_run: Cm, group: str, words: list[str]) -> None:
    document = cm_run("group", "show", "rc2", "step1", group, "--json").json
    for word in words:
        assert word in document["next"]


def test_the_log_of_what_was_never_submitted_is_named(cm_run: Cm, filled: Rig, tmp_path: Path) -> None:
    run_id = filled.attempt("step1", 4, State.QUEUED)
    folder = str(tmp_path / "area/rc2/step1/g0004/a01")
    show = ("group", "show", "rc2", "step1", "g0004", "--json")
    assert cm_run(*show).json["attempts"][0]["folder"] is None  # there is none yet
    attempt = read_attempt(filled.instance, run_id)
    assert attempt is not None
    events.start(filled.instance, attempt)
    events.fail(filled.instance, attempt, "Not submitted: the pipeline is wrong.")
    found = cm_run(*show).json
    assert found["attempts"][0]["folder"] == folder
    assert found["next"].endswith(f"; the log of its submission is in {folder}")


def test_page(cm_run: Cm) -> None:
    text = cm_run("group", "show", "rc2", "step1", "g0001").out
    for word in ("visit = 1", CAUSE, "out/run", "bps.yaml", "isr: 1 failed", "17 (rc2.step1.local.g0001.a01)"):
        assert word in text


def test_a_group_that_is_not_there(cm_run: Cm) -> None:
    ran = cm_run("group", "show", "rc2", "step1", "g0009")
    assert ran.code == 1
    assert "its last group is g0004" in ran.err
    assert "it is not planned yet" in cm_run("group", "show", "rc2", "step2", "g0000").err


def test_an_attempt_that_waits_says_for_what_and_since_when(cm_run: Cm, filled: Rig) -> None:
    waiting = filled.attempt("step1", 4, State.UNKNOWN)
    wait = Wait("the WMS does not show workflow 17", 3, 0.0, 60.0, 120.0)
    write_progress(filled.instance, "local", {}, {waiting: wait})
    (document,) = cm_run("group", "show", "rc2", "step1", "g0004", "--json").json["attempts"]
    assert document["waits"] == wait.to_json()
    text = " ".join(cm_run("group", "show", "rc2", "step1", "g0004").out.split())
    assert "the WMS does not show workflow 17; tried 3 times since 1970-01-01T00:00:00Z" in text
    assert "next try at 1970-01-01T00:02:00Z" in text
    (running,) = cm_run("group", "show", "rc2", "step1", "g0003", "--json").json["attempts"]
    assert running["waits"] is None
