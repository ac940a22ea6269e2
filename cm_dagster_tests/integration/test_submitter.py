"""Submitting with the real BPS: results are typed and true, whatever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cm_dagster.errors import EmptyGraphError, NothingToDoError, SubmitError
from cm_dagster.local.survey import Survey
from cm_dagster.plan.render import PROVENANCE
from cm_dagster.services.submitter import SubmitOutcome, Submitter, read_result
from cm_dagster.services.wms import WmsState
from cm_dagster_tests.integration.bps_bench import VISITS, Bench, open_bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, hsc_template: Survey) -> Iterator[Bench]:
    with open_bench(tmp_path_factory.mktemp("submitter"), hsc_template) as bench:
        yield bench


def test_a_batch_of_good_empty_and_broken_groups(bench: Bench) -> None:
    broken = bench.make_spec(pipeline="/nope/DRP.yaml")
    good = bench.prepare(0, VISITS[:2])
    results = bench.submit(good, bench.prepare(1, [1]), bench.prepare(2, VISITS[2:3], spec=broken))
    done, empty, missing = (results[f"g000{i}"] for i in range(3))
    assert done.outcome is SubmitOutcome.SUBMITTED
    assert done.wms_id is not None
    assert done.submit_dir == good.paths.submit_dir
    assert 0 < done.cpu < 60
    assert empty.outcome is SubmitOutcome.FAILED
    assert type(empty.error) is EmptyGraphError
    assert missing.outcome is SubmitOutcome.FAILED
    assert type(missing.error) is SubmitError
    assert "the pipeline file /nope/DRP.yaml does not exist" in str(missing.error)
    names = [f"camp.step1.here.g000{i}.a01" for i in range(3)]
    assert bench.client.find(names, history=1) == {names[0]: [done.wms_id], names[1]: [], names[2]: []}
    report = bench.wait(done.wms_id)
    assert report.state is WmsState.SUCCEEDED
    assert report.path == str(good.paths.submit_dir)
    # pipetaskInit and the final job have no quanta.
    assert done.quanta == sum(report.jobs.values()) - 2
    assert bench.butler.chain("u/camp/step1/g0000/a01") is not None
    # What is done is not an empty query.
    again = bench.prepare(0, VISITS[:2], number=2, rescued=["u/camp/step1/g0000/a01/run"])
    assert type(bench.submit(again)["g0000"].error) is NothingToDoError
    # The next process learns the same from the files.
    found = read_result(good.attempt, good.paths.folder)
    assert found is not None
    assert (found.outcome, found.wms_id, found.quanta) == (done.outcome, done.wms_id, done.quanta)


def test_batch_and_plain_leave_the_same_files(bench: Bench) -> None:
    warm = bench.prepare(10, VISITS[:1])
    cold = bench.prepare(11, VISITS[:1])
    result = bench.submit(warm)["g0010"]
    plain = Submitter(bench.make_site(method="plain"))
    (other,) = plain.submit([cold])
    assert (result.outcome, other.outcome) == (SubmitOutcome.SUBMITTED, SubmitOutcome.SUBMITTED)
    assert other.wms_id is not None
    assert other.wms_id in bench.client.report_all(1)

    def names(folder: Path, workflow: str) -> set[str]:
        return {path.name.replace(workflow, "NAME") for path in folder.iterdir() if path.is_file()}

    batch_files = names(warm.paths.submit_dir, warm.attempt.workflow)
    plain_files = names(cold.paths.submit_dir, cold.attempt.workflow)
    assert {"NAME.qg", "NAME_config.yaml", "final_job.bash", "quantumGraphGeneration.out", "bps.yaml"} <= batch_files
    # The workflows are running: what they have written so far does not count.
    assert {name for name in batch_files ^ plain_files if "local" not in name and name != PROVENANCE} == set()
    for log in (warm.paths.log, cold.paths.log):
        text = log.read_text()
        assert "quanta for task isr." in text
        assert "Run Name: camp.step1.here" in text


@pytest.mark.parametrize("method", ["batch", "plain"])
def test_a_wms_that_is_away_fails_nothing_for_good(bench: Bench, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    gone = bench.root / f"gone-{method}"
    gone.write_text("its state cannot be where a file is")
    site = bench.make_site(method=method).model_copy(update={"env": {**bench.env, "CM_LOCAL_WMS_HOME": str(gone)}})
    monkeypatch.setattr(bench, "submitter", Submitter(site))
    one = bench.prepare({"batch": 40, "plain": 41}[method], VISITS[:1])
    (result,) = bench.submit(one).values()
    assert result.outcome is SubmitOutcome.FAILED
    assert result.error is not None
    assert "the WMS takes no workflows: RuntimeError: the local WMS cannot use its state in" in result.error.cause
    assert result.error.transient


def test_script_can_be_run_by_hand(bench: Bench) -> None:
    one = bench.prepare(20, VISITS[:1])
    done = subprocess.run(
        ["bash", str(one.paths.script)], capture_output=True, text=True, check=False, timeout=120, cwd="/"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    wms_id = done.stdout.partition("Run Id: ")[2].split()[0]
    assert bench.client.find([one.attempt.workflow], history=1) == {one.attempt.workflow: [wms_id]}


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(word) for word in found]


def test_killed_batch_still_tells_the_truth(bench: Bench) -> None:
    batch = [bench.prepare(30 + i, VISITS[i : i + 1]) for i in range(4)]

    def kill() -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            if batch[0].paths.result.exists() and '"sending"' in batch[0].paths.result.read_text():
                break
            if batch[0].paths.result.exists() and '"submitted"' in batch[0].paths.result.read_text():
                break
            time.sleep(0.001)
        for pid in children(os.getpid()):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[1:2] and words[1].endswith(b"batch_submit.py"):
                os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    results = bench.submit(*batch)
    thread.join()
    assert {result.outcome for result in results.values()} != {SubmitOutcome.SUBMITTED}, "the kill came too late"
    found = bench.client.find([one.attempt.workflow for one in batch], history=1)
    for result in results.values():
        at_wms = found[result.attempt.workflow]
        match result.outcome:
            case SubmitOutcome.SUBMITTED:
                assert at_wms == [result.wms_id]
            case SubmitOutcome.FAILED:
                assert at_wms == []
                assert result.error is not None
                assert result.error.transient
            case SubmitOutcome.UNKNOWN:
                assert len(at_wms) <= 1
        assert result.outcome is SubmitOutcome.SUBMITTED or result.error is not None
