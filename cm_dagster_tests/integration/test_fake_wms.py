"""The fake WMS where real programs meet it: `bps submit`, our WMS client, our submitter with the stand-in for bps."""

from __future__ import annotations

import fcntl
import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cm_dagster.errors import WmsError
from cm_dagster.local.survey import Survey
from cm_dagster.plan.names import AttemptId, StepId
from cm_dagster.services.submitter import Prepared, SubmitOutcome, SubmitResult, Submitter, next_try, read_result
from cm_dagster.services.wms import WmsClient, WmsState
from cm_dagster.spec.models import StackSpec
from cm_dagster.spec.sites import SiteSpec, WmsSpec
from cm_dagster.testing.fakewms.bps import DIE, install
from cm_dagster.testing.fakewms.store import HOME, FakeWms, Fault
from cm_dagster_tests.integration.bps_bench import VISITS, Bench

SERVICE = "cm_dagster.testing.fakewms.service.FakeWmsService"
SUBMITTED, FAILED, UNKNOWN = SubmitOutcome.SUBMITTED, SubmitOutcome.FAILED, SubmitOutcome.UNKNOWN


@pytest.fixture
def wms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeWms:
    monkeypatch.setenv(HOME, str(tmp_path / "wms"))
    return FakeWms(tmp_path / "wms")


@pytest.fixture
def client(wms: FakeWms) -> WmsClient:
    return WmsClient(SERVICE, user="me", deadline=5.0)


# ---------------------------------------------------------------------------------------------- through the real BPS


class FakeBench(Bench):
    """Submits with the real BPS to the fake WMS."""

    def make_site(self, **submit: Any) -> SiteSpec:
        wms = WmsSpec(service=SERVICE, compute_site="fake")
        env = {**self.env, HOME: str(self.root / "wms")}
        return super().make_site(**submit).model_copy(update={"wms": wms, "env": env})


@pytest.fixture
def bench(tmp_path: Path, hsc_template: Survey, wms: FakeWms) -> Iterator[FakeBench]:
    shutil.copytree(hsc_template.root, tmp_path / "repo")
    made = FakeBench(tmp_path, replace(hsc_template, root=tmp_path / "repo"))
    yield made
    made.butler.close()


def test_real_bps_submits_to_it(bench: FakeBench, wms: FakeWms) -> None:
    wms.script(
        Fault("error-before", match="*.g0001.*", word="ConnectionError"),
        Fault("done-but-error", match="*.g0002.*"),
        Fault("die", match="*.g0003.*", word="before"),
    )
    batch = [bench.prepare(number, VISITS[:1]) for number in range(4)]
    results = bench.submit(*batch)
    assert [results[f"g000{n}"].outcome for n in range(4)] == [SUBMITTED, FAILED, UNKNOWN, UNKNOWN]
    error = results["g0001"].error
    assert error is not None
    assert error.transient
    assert [each.name for each in wms.workflows()] == ["camp.step1.here.g0000.a01", "camp.step1.here.g0002.a01"]
    found = wms.workflows()[0]
    assert (found.wms_id, found.user) == (results["g0000"].wms_id, "tester")
    assert found.submit_dir == str(batch[0].paths.submit_dir)
    assert found.run == "u/camp/step1/g0000/a01/run"
    assert found.jobs.keys() == {"pipetaskInit", "isr", "calibrateImage", "finalJob"}


# -------------------------------------------------------------------------------------------- through our WMS client


def test_client_is_told_all_that_the_wms_knows(client: WmsClient, wms: FakeWms) -> None:
    wms.submit("a", "/submit/a", user="me", jobs={"isr": 3, "finalJob": 1})
    wms.submit("b", "/submit/b", user="you")
    client.ping()
    (report,) = client.report_all(history=1).values()
    assert (report.wms_id, report.name, report.state, report.path) == ("1", "a", WmsState.PENDING, "/submit/a")
    assert report.tasks == {"isr": {WmsState.PENDING: 3}, "finalJob": {WmsState.PENDING: 1}}
    wms.set("1", "FAILED")
    one = client.report_one("1", history=1)
    assert one is not None
    assert (one.state, one.jobs) == (WmsState.FAILED, {WmsState.FAILED: 4})
    assert one.exit_codes == {"isr": (1, 1, 1), "finalJob": (1,)}
    assert client.restart("1") == "1"
    assert client.find(["a", "b", "c"], history=1) == {"a": ["1"], "b": [], "c": []}
    client.cancel("1")
    assert client.report_all(history=1)["1"].state is WmsState.CANCELLED
    assert client.report_all(history=0) == {}
    with pytest.raises(WmsError, match="did not cancel") as caught:
        client.cancel("1")
    assert not caught.value.transient
    assert client.report_one("7", history=1) is None


def test_what_goes_wrong_is_what_the_client_says(client: WmsClient, wms: FakeWms) -> None:
    wms.submit("a", "/submit/a")
    wms.script(Fault("down", times=2), Fault("word", word="NONSENSE"), Fault("forget", request="one"))
    for _ in range(2):
        with pytest.raises(WmsError, match="the fake WMS is down") as caught:
            client.find(["a"], history=1)
        assert caught.value.transient
    assert client.report_all(history=1)["1"].state is WmsState.UNKNOWN
    assert client.report_one("1", history=1) is None


def test_an_answer_that_comes_too_late(wms: FakeWms) -> None:
    client = WmsClient(SERVICE, deadline=0.3)
    client.report_all(history=1)
    wms.script(Fault("slow", seconds=1.0))
    with pytest.raises(WmsError, match="no answer within") as caught:
        client.report_all(history=1)
    assert caught.value.transient


# --------------------------------------------------------------------------------------- through the stand-in for bps


class Desk:
    """Submits with the stand-in for ``bps``."""

    def __init__(self, root: Path, **submit: Any) -> None:
        self.program = install(root / "bin")
        self.stack = StackSpec(setup="script", script=f"export PATH={root / 'bin'}:$PATH")
        self.site = SiteSpec.model_validate(
            {
                "butler": "/repo",
                "submit_area": str(root / "a submit area"),
                "wms": {"service": SERVICE, "compute_site": "here"},
                "submit": {"method": "plain", "parallel": 2, "timeout": 0.05, **submit},
                "env": {HOME: str(root / "wms")},
            }
        )
        self.submitter = Submitter(self.site)

    def prepare(self, number: int) -> Prepared:
        attempt = AttemptId(StepId("camp", "step1", "here"), f"g{number:04d}", 1)
        paths = next_try(attempt.folder(self.site.submit_area))
        config = {
            "uniqProcName": attempt.workflow,
            "operator": "me",
            "submitPath": str(paths.submit_dir),
            "pipelineYaml": "p.yaml",
            "payload": {"output": attempt.output("u/camp"), "outputRun": attempt.run("u/camp")},
        }
        return self.submitter.prepare(attempt, config, paths, self.stack)

    def submit(self, *batch: Prepared) -> dict[int, SubmitResult]:
        return {int(result.attempt.group[1:]): result for result in self.submitter.submit(batch)}


@pytest.fixture
def desk(tmp_path: Path, wms: FakeWms) -> Desk:
    return Desk(tmp_path)


def test_our_submitter_reads_the_stand_in_right(desk: Desk, wms: FakeWms) -> None:
    kinds = {
        1: Fault("error-before", match="*.g0001.*"),
        2: Fault("lost-submit", match="*.g0002.*"),
        3: Fault("done-but-error", match="*.g0003.*"),
        4: Fault("done-but-timeout", match="*.g0004.*", seconds=60.0),
        5: Fault("die", match="*.g0005.*", word="before"),
        6: Fault("die", match="*.g0006.*"),
    }
    wms.script(*kinds.values())
    batch = [desk.prepare(number) for number in range(7)]
    results = desk.submit(*batch)
    assert {n: result.outcome for n, result in results.items()} == {
        0: SUBMITTED,
        1: FAILED,
        2: UNKNOWN,
        3: UNKNOWN,
        4: UNKNOWN,
        5: UNKNOWN,
        6: UNKNOWN,
    }
    assert sorted(int(each.name.split(".")[3][1:]) for each in wms.workflows()) == [0, 3, 4, 6]
    assert str(results[1].error).startswith("bps submit failed: RuntimeError: the fake WMS was told to fail")
    found = next(each for each in wms.workflows() if ".g0000." in each.name)
    assert (found.wms_id, found.user, found.run) == (results[0].wms_id, "me", "u/camp/step1/g0000/a01/run")
    assert found.submit_dir == str(batch[0].paths.submit_dir)
    assert (batch[0].paths.submit_dir / "bps.yaml").exists()
    # Who comes later and finds only the files is told the same of what was done, and nothing definite of the rest.
    left = [read_result(one.attempt, one.paths.folder) for one in batch]
    assert [each and each.outcome for each in left] == [SUBMITTED, *[UNKNOWN] * 6]


def test_a_directory_that_exists_is_refused_as_by_bps(desk: Desk, wms: FakeWms) -> None:
    one = desk.prepare(0)
    one.paths.submit_dir.mkdir()
    result = desk.submit(one)[0]
    assert result.outcome is FAILED
    assert "exists already: an earlier try has left it" in str(result.error)
    assert wms.workflows() == []


def test_the_stand_in_keeps_the_locks_of_who_submits(desk: Desk, wms: FakeWms, tmp_path: Path) -> None:
    wms.script(Fault("slow", request="submit", seconds=1.0))
    path = tmp_path / "lock"
    lock = os.open(path, os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    one = desk.prepare(0)
    process = subprocess.Popen(["bash", str(one.paths.script)], pass_fds=[lock])
    os.close(lock)
    with path.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    process.wait()
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(("place", "made"), [("before", 0), ("after", 1)])
def test_dying_by_chance(tmp_path: Path, wms: FakeWms, place: str, made: int) -> None:
    desk = Desk(tmp_path)
    desk.site = desk.site.model_copy(update={"env": {**desk.site.env, DIE: f"{place}:0.5:seed"}})
    desk.submitter = Submitter(desk.site)
    results = desk.submit(*[desk.prepare(number) for number in range(12)])
    dead = [n for n, result in results.items() if result.outcome is UNKNOWN]
    assert 0 < len(dead) < 12
    assert all(result.outcome is SUBMITTED for n, result in results.items() if n not in dead)
    assert len(wms.workflows()) == 12 - len(dead) * (1 - made)


@pytest.mark.parametrize("width", [80, math.inf])
def test_the_stand_in_reads_values_that_go_on_in_the_next_line(
    desk: Desk, wms: FakeWms, tmp_path: Path, width: float
) -> None:
    folder = tmp_path / ("long" * 20) / "a submit area" / ("long" * 20)
    config = tmp_path / "bps.yaml"
    settings = {"uniqProcName": "name", "submitPath": str(folder), "operator": "me", "payload": {"outputRun": "u/run"}}
    config.write_text(yaml.safe_dump(settings, width=width))
    subprocess.run([desk.program, "submit", config], check=True)
    assert [each.submit_dir for each in wms.workflows()] == [str(folder)]


def test_words_that_the_stand_in_does_not_know(desk: Desk) -> None:
    done = subprocess.run([desk.program, "report"], capture_output=True, text=True, check=False)
    assert (done.returncode, "Usage: bps submit" in done.stderr) == (2, True)
