"""What a submission is said to have done, when it fails or dies at any point of the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cm_dagster.plan.names import AttemptId, StepId
from cm_dagster.services.submitter import Prepared, SubmitOutcome, SubmitResult, Submitter, next_try, read_result
from cm_dagster.spec.models import StackSpec
from cm_dagster.spec.sites import SiteSpec
from cm_dagster_tests.unit.services.stub_stack import make_stack

STEP = StepId("camp", "step1", "here")
SUBMITTED, FAILED, UNKNOWN = SubmitOutcome.SUBMITTED, SubmitOutcome.FAILED, SubmitOutcome.UNKNOWN


class Bench:
    """Submits attempts whose fate is given."""

    def __init__(self, root: Path, **submit: Any) -> None:
        bin_dir = Path(sys.executable).parent
        lines = f"export PATH={bin_dir}:$PATH\n{make_stack(root / 'stack')}"
        self.stack = StackSpec(setup="script", script=lines)
        self.site = SiteSpec.model_validate(
            {
                "butler": "/repo",
                "submit_area": str(root / "area"),
                "wms": {"service": "stub.Service", "compute_site": "here"},
                "submit": submit,
            }
        )
        self.submitter = Submitter(self.site)
        self.sent_file = root / "stack" / "sent"

    def prepare(self, name: int, building: str = "", sending: str = "", after: str = "") -> Prepared:
        attempt = AttemptId(STEP, f"g{name:04d}", 1)
        config = {
            "pipelineYaml": "p.yaml",
            "stub": {"name": attempt.group, "building": building, "sending": sending, "after": after},
        }
        paths = next_try(attempt.folder(self.site.submit_area))
        return self.submitter.prepare(attempt, config, paths, self.stack)

    def submit(self, *batch: Prepared) -> dict[str, SubmitResult]:
        results = list(self.submitter.submit(batch))
        assert sorted(result.attempt.group for result in results) == sorted(one.attempt.group for one in batch)
        return {result.attempt.group: result for result in results}

    def sent(self) -> list[str]:
        return sorted(self.sent_file.read_text().split()) if self.sent_file.exists() else []

    def processes(self) -> list[int]:
        """Ids of the batch submitters, first the parent."""
        mark = str(self.site.submit_area / "_batches").encode()
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    words = (folder / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if len(words) > 2 and words[1].endswith(b"batch_submit.py") and words[2].startswith(mark):
                    found.append(int(folder.name))
        return sorted(found)

    def wait_for(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.02)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, parallel=4)


def phase(one: Prepared) -> str:
    return str(json.loads(one.paths.result.read_text())["phase"]) if one.paths.result.exists() else ""


def test_only_errors_before_sending_are_failures(bench: Bench) -> None:
    results = bench.submit(
        bench.prepare(0),
        bench.prepare(1, building="fail"),
        bench.prepare(2, sending="fail"),
        bench.prepare(3, building="die"),
        bench.prepare(4, sending="die"),
        bench.prepare(5, sending="no id"),
        bench.prepare(6, after="fail"),
        bench.prepare(7, after="die"),
    )
    outcomes = [results[f"g{i:04d}"].outcome for i in range(8)]
    assert outcomes == [SUBMITTED, FAILED, UNKNOWN, FAILED, UNKNOWN, UNKNOWN, SUBMITTED, SUBMITTED]
    # Whatever is called failed has not reached the WMS.
    assert not {"g0001", "g0003"} & set(bench.sent())
    assert {results[name].wms_id for name in ("g0000", "g0006", "g0007")} == {"id-g0000", "id-g0006", "id-g0007"}
    for result in results.values():
        assert (result.error is None) == (result.outcome is SUBMITTED)
    assert "told to fail" in str(results["g0001"].error)
    assert "killed by SIGKILL" in str(results["g0003"].error)


def test_a_full_disk_is_blamed_on_no_group(bench: Bench) -> None:
    """Whatever cannot be written: nothing that was sent is called failed, and what failed may be tried again."""

    def draft(name: int) -> str:
        """Where a group's record is written before it replaces the last one."""
        return f"block:{next_try(AttemptId(STEP, f'g{name:04d}', 1).folder(bench.site.submit_area)).result}.tmp"

    away = AttemptId(STEP, "g0004", 1).folder(bench.site.submit_area)
    batch = [
        bench.prepare(0),
        bench.prepare(1, building="full"),
        bench.prepare(2, building=draft(2)),
        bench.prepare(3, sending=draft(3)),
        bench.prepare(4, building=f"move:{away}"),
        bench.prepare(5),
    ]
    batch[5].paths.result.mkdir()
    results = bench.submit(*batch)
    outcomes = [results[f"g{i:04d}"].outcome for i in range(6)]
    assert outcomes == [SUBMITTED, FAILED, FAILED, UNKNOWN, UNKNOWN, FAILED]
    assert bench.sent() == ["g0000", "g0003"]
    for name, said in (("g0001", "no space is left"), ("g0002", "cannot be written"), ("g0005", "cannot be written")):
        error = results[name].error
        assert error is not None
        assert error.transient
        assert said in error.cause


def test_while_the_area_cannot_be_written_no_failure_is_final(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that meets a full disk fails in its own way, and its log, which would tell, is empty."""
    one, other = bench.prepare(0, building="fail"), bench.prepare(1, building="fail")
    final = bench.submit(one)["g0000"].error
    assert final is not None
    assert not final.transient
    monkeypatch.setattr("cm_dagster.services.submitter.unwritable", lambda _: "No space left on device")
    passing = bench.submit(other)["g0001"].error
    assert passing is not None
    assert passing.transient
    assert "the submit area cannot be written: No space left on device" in str(passing)


def test_results_come_as_they_are_ready(tmp_path: Path) -> None:
    bench = Bench(tmp_path, parallel=2)
    slow, fast = bench.prepare(0, building="sleep"), bench.prepare(1)
    results = bench.submitter.submit([slow, fast])
    assert next(results).attempt == fast.attempt
    results.close()  # type: ignore[attr-defined]
    assert bench.processes() == []


def test_time_limit(tmp_path: Path) -> None:
    bench = Bench(tmp_path, parallel=2, timeout=3 / 60)
    results = bench.submit(bench.prepare(0, building="sleep"), bench.prepare(1, sending="sleep"))
    assert results["g0000"].outcome is FAILED
    assert "took too long" in str(results["g0000"].error)
    assert results["g0001"].outcome is UNKNOWN


def run_and(bench: Bench, batch: list[Prepared], act: Callable[[], None]) -> dict[str, SubmitResult]:
    """Submit, and do something meanwhile."""
    thread = threading.Thread(target=act)
    thread.start()
    try:
        return bench.submit(*batch)
    finally:
        thread.join()


def test_killed_batch_leaves_a_truthful_result_for_all(tmp_path: Path) -> None:
    bench = Bench(tmp_path, parallel=3)
    batch = [
        bench.prepare(0),
        bench.prepare(1, building="sleep"),
        bench.prepare(2, sending="sleep"),
        bench.prepare(3, building="sleep"),
        bench.prepare(4),
    ]

    def kill() -> None:
        bench.wait_for(lambda: [phase(one) for one in batch] == ["submitted", "building", "sending", "building", ""])
        os.kill(bench.processes()[0], signal.SIGKILL)

    results = run_and(bench, batch, kill)
    outcomes = [results[f"g{i:04d}"].outcome for i in range(5)]
    assert outcomes == [SUBMITTED, UNKNOWN, UNKNOWN, UNKNOWN, FAILED]
    assert bench.processes() == []
    last = results["g0004"].error
    assert last is not None
    assert last.transient
    assert bench.sent() == ["g0000", "g0002"]


def test_while_groups_are_being_submitted_the_caller_can_do_other_things(bench: Bench) -> None:
    batch = [bench.prepare(0, building="sleep")]

    def meanwhile() -> None:
        if found := bench.processes():
            os.kill(found[-1], signal.SIGKILL)

    (result,) = bench.submitter.submit(batch, meanwhile=meanwhile)
    assert result.outcome is not SUBMITTED


def test_stopped_batch_kills_what_has_sent_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, parallel=1)
    batch = [bench.prepare(0, building="sleep"), bench.prepare(1)]

    def stop() -> None:
        bench.wait_for(lambda: phase(batch[0]) == "building")
        time.sleep(0.2)
        os.kill(bench.processes()[0], signal.SIGTERM)

    for result in run_and(bench, batch, stop).values():
        assert result.outcome is FAILED
        assert result.error is not None
        assert result.error.transient
    assert bench.sent() == []


def test_batch_goes_on_when_its_caller_dies(bench: Bench) -> None:
    one = bench.prepare(0, after="")
    late = bench.prepare(1, building="")
    folder = bench.submitter._write_batch([one, late])
    process = subprocess.Popen(["bash", str(folder / "batch.sh")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(30) == 0
    for prepared in (one, late):
        result = read_result(prepared.attempt, prepared.paths.folder)
        assert result is not None
        assert result.outcome is SUBMITTED


def test_locks_stay_held_as_long_as_a_submission_lives(bench: Bench, tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    batch = [bench.prepare(0, building="sleep")]
    thread = threading.Thread(target=lambda: list(bench.submitter.submit(batch, pass_fds=[write_end])), name="submit")
    thread.start()
    bench.wait_for(lambda: phase(batch[0]) == "building" and len(bench.processes()) == 2)
    os.close(write_end)
    child = bench.processes()[1]
    assert str(Path(f"/proc/{child}/fd/{write_end}").readlink()).startswith("pipe:")
    os.kill(child, signal.SIGKILL)
    thread.join()
    assert os.read(read_end, 1) == b""
    os.close(read_end)


def test_stack_that_cannot_be_set_up_fails_all(bench: Bench) -> None:
    bench.stack = StackSpec(setup="eups", version="w_2026_43")
    result = bench.submit(bench.prepare(0))["g0000"]
    assert result.outcome is FAILED
    assert "RUBIN_EUPS_PATH is not set" in str(result.error)
    bench.stack = StackSpec(setup="script", script="export PATH=/usr/bin PYTHONPATH=; python() { :; }")
    assert bench.submit(bench.prepare(1))["g0001"].outcome is FAILED


def test_two_stacks_in_one_batch(bench: Bench) -> None:
    good = bench.prepare(0)
    bench.stack = StackSpec(setup="script", script="exit 7")
    results = bench.submit(good, bench.prepare(1))
    assert (results["g0000"].outcome, results["g0001"].outcome) == (SUBMITTED, FAILED)


@pytest.fixture
def plain(tmp_path: Path) -> Bench:
    return Bench(tmp_path, method="plain", parallel=2)


def test_so_it_can_during_a_plain_submission(plain: Bench) -> None:
    called: list[float] = []
    (result,) = plain.submitter.submit([plain.prepare(0)], meanwhile=lambda: called.append(time.monotonic()))
    assert result.outcome is SUBMITTED
    assert called


def test_plain_submission_fails_only_on_evidence(plain: Bench) -> None:
    results = plain.submit(
        plain.prepare(0),
        plain.prepare(1, building="fail"),
        plain.prepare(2, sending="fail"),
        plain.prepare(3, sending="die"),
    )
    outcomes = [results[f"g{i:04d}"].outcome for i in range(4)]
    assert outcomes == [SUBMITTED, FAILED, UNKNOWN, UNKNOWN]
    assert results["g0000"].wms_id == "id-g0000"
    assert "told to fail" in str(results["g0002"].error)


def test_time_limit_of_plain_submission(tmp_path: Path) -> None:
    plain = Bench(tmp_path, method="plain", parallel=2, timeout=5 / 60)
    results = plain.submit(plain.prepare(0, building="sleep"), plain.prepare(1, sending="sleep"))
    assert results["g0000"].outcome is FAILED
    assert "took too long" in str(results["g0000"].error)
    assert results["g0001"].outcome is UNKNOWN


def test_files_of_an_interrupted_attempt(bench: Bench) -> None:
    one = bench.prepare(0)
    folder = one.paths.folder
    assert read_result(one.attempt, folder) is None
    assert next_try(folder).number == 1
    one.paths.log.write_text("cm: stack is set up\nStarting submission process\n")
    assert next_try(folder).number == 2
    interrupted = read_result(one.attempt, folder)
    assert interrupted is not None
    assert interrupted.outcome is UNKNOWN
    one.paths.log.write_text("cm: stack is set up\nRun Id: 17\nRun Name: x\n")
    found = read_result(one.attempt, folder)
    assert found is not None
    assert (found.outcome, found.wms_id) == (SUBMITTED, "17")


def test_latest_try_counts(bench: Bench) -> None:
    assert bench.submit(bench.prepare(0, building="fail"))["g0000"].outcome is FAILED
    second = bench.prepare(0)
    assert second.paths.number == 2
    assert bench.submit(second)["g0000"].outcome is SUBMITTED
    found = read_result(second.attempt, second.paths.folder)
    assert found is not None
    assert found.wms_id == "id-g0000"
    assert found.submit_dir == second.paths.submit_dir
