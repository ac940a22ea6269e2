"""The mini pipeline: its four steps on the real records, and the faults that can be injected into it."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lsst.daf.butler import Butler
from lsst.pipe.base import Pipeline

from cm_dagster.local.minidrp import PIPELINE
from cm_dagster.local.minidrp.faults import FAULTS
from cm_dagster.local.survey import Survey
from cm_dagster.local.wms.command import execute, preload
from cm_dagster.local.wms.process import clean_environment, redirect

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

ONE = "visit = 903334 AND detector = 16"


@dataclass
class Result:
    """How a command ended."""

    code: int
    errors: str


def pipetask(survey: Survey, step: str, inputs: str, where: str, run: str = "run", **env: str) -> Result:
    """Run a step of the pipeline into the RUN ``<step>/<run>`` of the chain ``<step>``, as a warm job."""
    words = ["pipetask", "--log-level", "ERROR", "run", "-b", str(survey.root), "-i", inputs, "-o", step]
    words += ["--output-run", f"{step}/{run}", "-p", f"{PIPELINE}#{step}", "--register-dataset-types"]
    command = shlex.join(words) + f' -d "{survey.where} AND ({where})"'
    errors = survey.root.parent / "errors"
    preload(["cm_dagster.local.minidrp.tasks"])
    pid = os.fork()
    if not pid:
        redirect(Path(os.devnull), errors)
        sys.stderr = os.fdopen(2, "w")  # pytest's own does not write there, nor do its handlers
        logging.getLogger().handlers.clear()
        execute(command, clean_environment(os.environ) | env, warm=True)
    _, status = os.waitpid(pid, 0)
    return Result(os.waitstatus_to_exitcode(status), errors.read_text())


def count(survey: Survey, run: str) -> Counter[str]:
    with Butler.from_config(str(survey.root)) as butler:
        if not butler.collections.query(run):
            return Counter()
        found = butler.query_all_datasets(run, find_first=False)
        return Counter(ref.datasetType.name for ref in found)


def test_steps_are_declared() -> None:
    assert list(Pipeline.fromFile(str(PIPELINE)).to_graph().steps) == ["step1", "step2", "step3", "step4"]


def test_four_steps_use_every_raw_once_per_patch(hsc_repo: Survey) -> None:
    inputs = hsc_repo.defaults
    for step in ("step1", "step2", "step3", "step4"):
        result = pipetask(hsc_repo, step, inputs, "1 = 1")
        assert result.code == 0, result.errors
        inputs = f"{step},{inputs}"
    assert count(hsc_repo, "step1/run")["initial_stars"] == 33
    assert count(hsc_repo, "step2/run")["visitSummary"] == 11
    assert count(hsc_repo, "step3/run")["warp"] == 22
    assert count(hsc_repo, "step3/run")["coadd"] == 6
    with Butler.from_config(str(hsc_repo.root), collections="step4") as butler:
        (ref,) = butler.query_datasets("objectTable_tract")
        table = butler.get(ref)
    # Each warp sums its calexps and the visit's summary, which sums all calexps of the visit.
    with Butler.from_config(str(hsc_repo.root)) as butler:
        overlaps = butler.query_data_ids(["visit", "detector", "patch"], where=hsc_repo.where)
        detectors = Counter(visit for visit, _ in {(row["visit"], row["detector"]) for row in overlaps})
        warps = {(row["visit"], row["patch"]) for row in overlaps}
        assert table["value"] == len(overlaps) + sum(detectors[visit] for visit, _ in warps)


def rules(tmp_path: Path, *faults: dict[str, Any]) -> str:
    path = tmp_path / "faults.json"
    path.write_text(json.dumps(faults))
    return str(path)


def test_a_fault_strikes_only_its_quantum(hsc_repo: Survey, tmp_path: Path) -> None:
    fault = {"task": "isr", "where": "exposure=903334 AND detector=16", "action": "raise"}
    fault |= {"exception": "builtins.RuntimeError", "message": "hot"}
    result = pipetask(hsc_repo, "step1", hsc_repo.defaults, "visit = 903334", **{FAULTS: rules(tmp_path, fault)})
    assert result.code != 0
    assert "RuntimeError: hot" in result.errors
    found = count(hsc_repo, "step1/run")
    assert found["calexp"] == found["postISRCCD"] > 0
    with Butler.from_config(str(hsc_repo.root)) as butler:
        assert not butler.query_datasets("calexp", "step1/run", where=f"{hsc_repo.where} AND {ONE}", explain=False)


def test_a_fault_can_wear_off(hsc_repo: Survey, tmp_path: Path) -> None:
    env = {FAULTS: rules(tmp_path, {"task": "calibrateImage", "action": "raise", "times": 1})}
    assert pipetask(hsc_repo, "step1", hsc_repo.defaults, ONE, **env).code != 0
    assert count(hsc_repo, "step1/run")["calexp"] == 0
    result = pipetask(hsc_repo, "step1", hsc_repo.defaults, ONE, run="run2", **env)
    assert result.code == 0, result.errors
    assert count(hsc_repo, "step1/run2")["calexp"] == 1


@pytest.mark.parametrize(
    ("fault", "code", "made"),
    [
        ({"action": "nowork"}, 0, ["calibrateImage_metadata"]),
        ({"action": "partial", "keep": ["calexp"]}, 1, ["calexp"]),
        ({"action": "exit", "code": 42}, 42, []),
        ({"action": "signal"}, -signal.SIGKILL, []),
        ({"action": "memory", "megabytes": 4000}, -signal.SIGKILL, []),
        ({"action": "memory", "megabytes": 50}, 0, ["calexp", "initial_stars", "calibrateImage_metadata"]),
        ({"action": "sleep", "seconds": 0.01}, 0, ["calexp", "initial_stars", "calibrateImage_metadata"]),
    ],
)
def test_kinds_of_faults(hsc_repo: Survey, tmp_path: Path, fault: dict[str, Any], code: int, made: list[str]) -> None:
    env = {FAULTS: rules(tmp_path, {"task": "calibrateImage"} | fault), "CM_LOCAL_WMS_MEMORY": "2000"}
    result = pipetask(hsc_repo, "step1", hsc_repo.defaults, ONE, **env)
    assert result.code == code, result.errors
    found = count(hsc_repo, "step1/run")
    outputs = ("calexp", "initial_stars", "calibrateImage_metadata")
    assert [name for name in outputs if found[name]] == made


def test_a_misspelt_rule_is_an_error(hsc_repo: Survey, tmp_path: Path) -> None:
    env = {FAULTS: rules(tmp_path, {"action": "rais"})}
    result = pipetask(hsc_repo, "step1", hsc_repo.defaults, ONE, **env)
    assert result.code != 0
    assert "validation error" in result.errors
