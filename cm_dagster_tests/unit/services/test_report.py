"""What ``pipetask report`` writes is read as far as it can be; anything else is no report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cm_dagster.services.provenance import TaskQuanta
from cm_dagster.services.report import read_report, report_command

SAID = "Execution of task 'isr' on quantum {visit: 1} failed. Exception lsst.pipe.base.AlgorithmError: no stars"


def written(folder: Path, **tasks: Any) -> Path:
    path = folder / "report.json"
    path.write_text(json.dumps({"tasks": tasks, "datasets": {}}))
    return path


def failure(*messages: str) -> dict[str, Any]:
    return {"data_id": {"visit": 1}, "runs": {"r": "FAILED"}, "messages": list(messages)}


def test_counts_exceptions_and_caveats(tmp_path: Path) -> None:
    isr = {
        "n_successful": 5,
        "n_blocked": 1,
        "n_unknown": 1,
        "n_expected": 10,
        "failed_quanta": [failure("Amp 3 is dead.", SAID), failure("Out of disk.")],
        "wonky_quanta": [failure()],
        "caveats": {"*N": [{"visit": 2}, {"visit": 3}], "+P": [{"visit": 4}]},
    }
    tasks = read_report(written(tmp_path, isr=isr), {"isr": 10, "calibrate": 4})
    assert tasks is not None
    assert tasks["isr"] == TaskQuanta(
        10,
        succeeded=5,
        failed=2,
        blocked=1,
        no_record=2,
        exceptions={"AlgorithmError": 1, "unknown": 1},
        messages=("no stars",),
        errors=("lsst.pipe.base.AlgorithmError: no stars",),
        log=("Amp 3 is dead.", SAID, "Out of disk."),
        caveats={"ALL_OUTPUTS_MISSING": 2, "NO_WORK": 2, "ANY_OUTPUTS_MISSING": 1, "PARTIAL_OUTPUTS_ERROR": 1},
    )
    assert tasks["calibrate"] == TaskQuanta(4, no_record=4)


@pytest.mark.parametrize("text", ["", '{"tasks": {"isr"', "[]", "{}", '{"tasks": []}', '{"tasks": {"isr": 1}}', "null"])
def test_what_is_no_report_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    assert read_report(path, {"isr": 1}) is None
    path.write_text(text)
    assert read_report(path, {"isr": 1}) is None


def test_the_command_asks_for_the_report_by_quanta() -> None:
    command = report_command("/repo", Path("/a/w.qg"), Path("/a/report.json"))
    assert command[:2] == ["pipetask", "report"]
    assert "--force-v2" in command
