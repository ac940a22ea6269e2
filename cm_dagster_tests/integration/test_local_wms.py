"""The local WMS with workflows of shell commands: order, retries, cancel, restart, crashes, cores, cost of reports."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from lsst.ctrl.bps import WmsRunReport, WmsStates

from cm_dagster.local.wms import LocalWmsService, launch, store
from cm_dagster.local.wms.definition import Job, Options, Workflow
from cm_dagster.local.wms.process import alive, send
from cm_dagster.local.wms.service import LocalWmsWorkflow
from cm_dagster.local.wms.shutdown import shutdown

pytestmark = pytest.mark.usefixtures("local_wms_home")

COLD = Options(cores=2, warm=False)


class Wms:
    """The service, and workflows for it that BPS has not made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.service = LocalWmsService({})

    def prepare(self, name: str, *jobs: Job, options: Options = COLD) -> LocalWmsWorkflow:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        jobs = tuple(replace(job, log=str(folder / "logs" / job.name)) for job in jobs)
        summary = ";".join(f"{label}:{n}" for label, n in count_labels(jobs).items())
        workflow = LocalWmsWorkflow(Workflow(name, {"bps_operator": "me"}, summary, options, jobs), {}, folder)
        workflow.write(str(folder))
        return workflow

    def submit(self, name: str, *jobs: Job, options: Options = COLD) -> int:
        run_id = self.service.submit(self.prepare(name, *jobs, options=options)).run_id
        assert isinstance(run_id, int)
        return run_id

    def report(self, run_id: int) -> WmsRunReport:
        reports, _ = self.service.report(run_id, return_exit_codes=True)
        return reports[0]

    def state(self, run_id: int) -> WmsStates:
        return self.service.get_status(run_id)[0]

    def wait(self, run_id: int) -> WmsStates:
        ended = {WmsStates.SUCCEEDED, WmsStates.FAILED, WmsStates.DELETED}
        until(lambda: self.state(run_id) in ended)
        return self.state(run_id)

    def row(self, run_id: int) -> sqlite3.Row:
        with store.connect() as db:
            row: sqlite3.Row = db.execute("SELECT * FROM run WHERE run_id = ?", (run_id,)).fetchone()
            return row


def count_labels(jobs: tuple[Job, ...]) -> dict[str, int]:
    return {job.label: sum(other.label == job.label for other in jobs) for job in jobs}


def until(done: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def job(name: str, command: str, *parents: str, **settings: object) -> Job:
    return Job(name, name.rstrip("0123456789"), command, {}, "", parents, **settings)  # type: ignore[arg-type]


def exists(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def number_in(path: Path) -> int:
    until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


@pytest.fixture
def wms(tmp_path: Path) -> Wms:
    return Wms(tmp_path)


def test_jobs_run_in_order_and_are_counted_by_task(wms: Wms) -> None:
    jobs = [job(f"a{n}", f"echo a{n} >> order") for n in range(3)]
    run_id = wms.submit("w", *jobs, job("b0", "echo b0 >> order", "a0", "a1", "a2"), job("last", "true", is_final=True))
    assert wms.wait(run_id) is WmsStates.SUCCEEDED
    assert sorted((wms.folder / "w/order").read_text().split()[:3]) == ["a0", "a1", "a2"]
    assert (wms.folder / "w/order").read_text().split()[3] == "b0"
    report = wms.report(run_id)
    assert {label: of[WmsStates.SUCCEEDED] for label, of in report.job_summary.items()} == {"a": 3, "b": 1, "last": 1}
    assert list(report.job_summary) == ["a", "b", "last"]
    assert report.total_number_jobs == 5
    assert report.label == "w"
    assert report.operator == "me"


def test_a_failure_prunes_what_depends_on_it_and_nothing_else(wms: Wms) -> None:
    run_id = wms.submit(
        "w",
        job("bad0", "exit 7"),
        job("good0", "true"),
        job("child0", "true", "bad0"),
        job("grandchild0", "true", "child0", "good0"),
        job("other0", "true", "good0"),
        job("final", "touch final", is_final=True),
    )
    assert wms.wait(run_id) is WmsStates.FAILED
    states = {item.name: item.state.name for item in wms.report(run_id).jobs}
    assert states == {
        "bad0": "FAILED",
        "good0": "SUCCEEDED",
        "child0": "PRUNED",
        "grandchild0": "PRUNED",
        "other0": "SUCCEEDED",
        "final": "SUCCEEDED",
    }
    assert wms.report(run_id).exit_code_summary["bad"] == [7]
    assert (wms.folder / "w/final").exists()


def test_retries_give_more_memory_and_stop_at_final_exit_codes(wms: Wms) -> None:
    grow = "echo $CM_LOCAL_WMS_MEMORY >> memory; test $CM_LOCAL_WMS_MEMORY -ge 400"
    run_id = wms.submit(
        "w",
        job("grow0", grow, retries=5, memory=100, memory_factor=2.0, memory_limit=1000),
        job("stop0", "echo x >> tries; exit 2", retries=5, final_exits=(2,)),
        job("killed0", "kill -9 $$", retries=1),
    )
    assert wms.wait(run_id) is WmsStates.FAILED
    assert (wms.folder / "w/memory").read_text().split() == ["100", "200", "400"]
    assert (wms.folder / "w/tries").read_text().split() == ["x"]
    assert wms.report(run_id).exit_code_summary == {"grow": [], "stop": [2], "killed": [137]}
    assert [path.name for path in sorted((wms.folder / "w/logs").glob("killed0*.err"))] == [
        "killed0.1.err",
        "killed0.2.err",
    ]


def test_restart_runs_only_what_did_not_succeed(wms: Wms) -> None:
    run_id = wms.submit(
        "w",
        job("good0", "echo x >> good"),
        job("bad0", "test -e fixed"),
        job("child0", "touch child", "bad0"),
        job("final", "echo x >> final", is_final=True),
    )
    assert wms.service.restart(run_id)[0] is None or wms.wait(run_id)
    assert wms.wait(run_id) is WmsStates.FAILED
    (wms.folder / "w/fixed").touch()
    assert wms.service.restart(run_id) == (str(run_id), "w", "")
    assert wms.wait(run_id) is WmsStates.SUCCEEDED
    assert (wms.folder / "w/good").read_text() == "x\n"
    assert (wms.folder / "w/child").exists()
    assert (wms.folder / "w/final").read_text() == "x\nx\n"
    assert wms.service.restart(run_id) == (None, None, "nothing to restart: all jobs succeeded")


def test_cancel_leaves_no_process_behind(wms: Wms) -> None:
    stubborn = "trap '' TERM; sleep 1000 & echo $! > child; echo $$ > leader; while true; do sleep 1; done"
    run_id = wms.submit("w", job("stubborn0", stubborn), job("next0", "true", "stubborn0"))
    processes = [number_in(wms.folder / "w" / name) for name in ("leader", "child")]
    assert all(exists(pid) for pid in processes)
    assert wms.service.cancel(run_id) == (True, "")
    assert wms.wait(run_id) is WmsStates.DELETED
    assert not any(exists(pid) for pid in processes)
    assert {item.state for item in wms.report(run_id).jobs} == {WmsStates.DELETED}
    assert wms.service.cancel(run_id) == (False, "run already DELETED")


def test_children_that_a_job_leaves_are_ended_with_it(wms: Wms) -> None:
    run_id = wms.submit("w", job("a0", "sleep 1000 & echo $! > child"))
    assert wms.wait(run_id) is WmsStates.SUCCEEDED
    assert not exists(number_in(wms.folder / "w/child"))


def test_a_killed_runner_is_a_failed_run_that_can_be_restarted(wms: Wms) -> None:
    jobs = [job("a0", "echo x >> a"), job("b0", "sleep 1000 & echo $! > child; test -e go || sleep 1000", "a0")]
    run_id = wms.submit("w", *jobs)
    child = number_in(wms.folder / "w/child")
    row = wms.row(run_id)
    assert send(row["pid"], row["born"], signal.SIGKILL)
    until(lambda: not alive(row["pid"], row["born"]))
    assert wms.service.get_status(run_id) == (WmsStates.FAILED, "runner process is gone; use bps restart")
    until(lambda: not exists(child))
    report = wms.report(run_id)
    assert str(report.specific_info) == "runner process is gone; use bps restart"
    assert report.job_summary["b"][WmsStates.FAILED] == 1
    (wms.folder / "w/go").touch()
    assert wms.service.restart(run_id)[0] == str(run_id)
    assert wms.wait(run_id) is WmsStates.SUCCEEDED
    assert (wms.folder / "w/a").read_text() == "x\n"


def test_a_run_without_a_runner_waits_and_is_begun_by_whoever_asks(wms: Wms, monkeypatch: pytest.MonkeyPatch) -> None:
    workflow = wms.prepare("w", job("a0", "echo x >> a"))
    with store.connect() as db:  # as a submitter that was killed right after
        run_id = store.insert(db, workflow.workflow, wms.folder / "w", "")
    assert wms.state(run_id) is WmsStates.PENDING
    assert [report.run for report in wms.service.report(hist=1)[0]] == ["w"]
    monkeypatch.setattr(launch, "_PATIENCE", 0.0)
    assert wms.service.ping(None) == (0, "")
    assert wms.wait(run_id) is WmsStates.SUCCEEDED
    assert (wms.folder / "w/a").read_text() == "x\n"


def test_two_runners_never_run_one_run(wms: Wms) -> None:
    workflow = wms.prepare("w", job("a0", "echo x >> a; sleep 0.3"))
    with store.connect() as db:
        run_id = store.insert(db, workflow.workflow, wms.folder / "w", "")
        row = db.execute("SELECT * FROM run").fetchone()
    for _ in range(5):
        launch.begin(row)
    assert wms.wait(run_id) is WmsStates.SUCCEEDED
    assert (wms.folder / "w/a").read_text() == "x\n"


def test_a_pending_run_can_be_cancelled(wms: Wms) -> None:
    workflow = wms.prepare("w", job("a0", "touch a"))
    with store.connect() as db:
        run_id = store.insert(db, workflow.workflow, wms.folder / "w", "")
        row = db.execute("SELECT * FROM run").fetchone()
    assert wms.service.cancel(run_id) == (True, "")
    launch.begin(row)
    time.sleep(0.3)
    assert wms.state(run_id) is WmsStates.DELETED
    assert not (wms.folder / "w/a").exists()


def test_cores_are_shared_by_all_workflows(wms: Wms) -> None:
    # Each job writes how many run while it does.
    command = "touch ../on.$$; ls .. | grep -c '^on' >> ../most; sleep 0.1; rm ../on.$$"
    runs = [wms.submit(f"w{n}", *(job(f"a{m}", command) for m in range(4))) for n in range(3)]
    assert {wms.wait(run_id) for run_id in runs} == {WmsStates.SUCCEEDED}
    counts = [int(word) for word in (wms.folder / "most").read_text().split()]
    assert len(counts) == 12
    assert max(counts) == 2


def test_a_job_of_all_cores_runs_alone_and_is_not_starved(wms: Wms) -> None:
    command = "touch ../on.$$; sleep 0.1; rm ../on.$$"
    small = wms.submit("small", *(job(f"a{n}", command) for n in range(20)))
    wide = wms.submit("wide", job("w0", "ls .. | grep -c '^on' > ../seen; true", cores=16))
    assert wms.wait(wide) is WmsStates.SUCCEEDED
    assert wms.state(small) is WmsStates.RUNNING
    assert (wms.folder / "seen").read_text() == "0\n"


def test_environment_of_jobs(wms: Wms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "a b")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    show = 'echo "$MINE|$OWN|$OMP_NUM_THREADS|$PYTHONDONTWRITEBYTECODE" > env; echo $CM_LOCAL_WMS_HOME > home'
    run_id = wms.submit("w", replace(job("a0", show), environment={"OWN": "${MINE}/c"}))
    assert wms.wait(run_id) is WmsStates.SUCCEEDED
    assert (wms.folder / "w/env").read_text() == "a b|a b/c|1|\n"
    assert (wms.folder / "w/home").read_text() == f"{store.home()}\n"
    assert (store.home() / "slots.lock").exists()  # or the cores would be shared with runs of another home
    assert (wms.folder / "w/local_wms.env.json").stat().st_mode & 0o077 == 0


def test_a_lost_submit_directory_fails_the_run(wms: Wms) -> None:
    workflow = wms.prepare("w", job("a0", "true"))
    (wms.folder / "w/local_wms.json").unlink()
    run_id = wms.service.submit(workflow).run_id
    assert wms.wait(run_id) is WmsStates.FAILED
    assert "local_wms.json" in wms.service.get_status(run_id)[1]


def test_the_same_name_twice_is_two_runs(wms: Wms) -> None:
    runs = [wms.submit("w", job("a0", "true")) for _ in range(2)]
    for run_id in runs:
        wms.wait(run_id)
    reports, _ = wms.service.report(hist=1)
    assert [(report.wms_id, report.run) for report in reports] == [(str(run_id), "w") for run_id in runs]
    assert wms.service.report(str(wms.folder / "w"))[0][0].wms_id == str(runs[1])


def test_what_is_not_there(wms: Wms) -> None:
    assert wms.service.report(99) == ([], "")
    assert wms.service.get_status(99) == (WmsStates.UNKNOWN, "no such run: 99")
    assert wms.service.cancel(99) == (False, "no such run: 99")
    assert wms.service.restart(99) == (None, None, "no such run: 99")
    assert wms.service.list_submitted_jobs(99) == []


def test_ended_runs_are_reported_as_long_as_asked(wms: Wms) -> None:
    old, new = (wms.submit(name, job("a0", "true")) for name in ("old", "new"))
    for run_id in (old, new):
        wms.wait(run_id)
    with store.connect() as db:
        db.execute("UPDATE run SET ended = ended - 2 * 86400 WHERE run_id = ?", (old,))
    names = {days: [report.run for report in wms.service.report(hist=days)[0]] for days in (0, 1, 3)}
    assert names == {0: [], 1: ["new"], 3: ["old", "new"]}
    assert wms.service.report(hist=3, user="you")[0] == []


def test_report_asks_as_much_for_many_runs_as_for_one(wms: Wms, monkeypatch: pytest.MonkeyPatch) -> None:
    workflow = wms.prepare("w", *(job(f"a{n}", "true") for n in range(20)))

    def statements() -> tuple[int, int]:
        seen: list[str] = []
        connect = sqlite3.connect

        def traced(*args: object, **settings: object) -> sqlite3.Connection:
            db: sqlite3.Connection = connect(*args, **settings)  # type: ignore[call-overload]
            db.set_trace_callback(seen.append)
            return db

        with monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", traced)
            reports, _ = wms.service.report(hist=1, return_exit_codes=True)
        return len(reports), len(seen)

    counts = []
    for total in (1, 50):
        with store.connect() as db:
            while db.execute("SELECT count(*) FROM run").fetchone()[0] < total:
                store.insert(db, workflow.workflow, wms.folder / "w", "")
        counts.append(statements())
    assert [runs for runs, _ in counts] == [1, 50]
    assert counts[0][1] == counts[1][1] < 10


def test_shutdown_ends_only_its_own(wms: Wms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "echo $$ > pid; sleep 1000"
    mine = wms.submit("mine", job("a0", command))
    home = os.environ[store.HOME]
    monkeypatch.setenv(store.HOME, str(tmp_path / "other"))
    other = Wms(tmp_path)
    theirs = other.submit("theirs", job("a0", command))
    processes = {name: number_in(tmp_path / name / "pid") for name in ("mine", "theirs")}
    monkeypatch.setenv(store.HOME, home)
    assert shutdown() == 1
    assert not exists(processes["mine"])
    assert wms.state(mine) is WmsStates.DELETED
    assert exists(processes["theirs"])
    monkeypatch.setenv(store.HOME, str(tmp_path / "other"))
    assert other.state(theirs) is WmsStates.RUNNING
    assert shutdown() == 1


WARM = Options(cores=4, warm=True)


@contextlib.contextmanager
def server() -> Iterator[Callable[[], sqlite3.Row]]:
    """Tell which process is the warm server."""

    def find() -> sqlite3.Row:
        with store.connect() as db:
            rows = db.execute("SELECT * FROM server").fetchall()
        return rows[0] if rows else {"pid": None, "born": None}  # type: ignore[return-value]

    yield find


def test_the_server_imports_once_for_all_workflows_and_none_needs_it(wms: Wms) -> None:
    imported = job("a0", "pipetask --help")
    with server() as find:
        first = wms.submit("first", imported, options=WARM)
        assert wms.wait(first) is WmsStates.SUCCEEDED
        before = find()
        assert alive(before["pid"], before["born"])
        runs = [
            wms.submit(f"w{n}", imported, job("b0", "echo $$ > pid; test -e go || sleep 1000", "a0"), options=WARM)
            for n in range(2)
        ]
        for n in range(2):
            number_in(wms.folder / f"w{n}/pid")
        assert find()["born"] == before["born"]
        assert "run-qbb" in (wms.folder / "first/logs/a0.1.out").read_text()

        send(before["pid"], before["born"], signal.SIGKILL)
        until(lambda: not launch.poke(before["pool"], 0))
        assert {wms.state(run_id) for run_id in runs} == {WmsStates.RUNNING}
        after = wms.submit("after", imported, options=WARM)
        assert wms.wait(after) is WmsStates.SUCCEEDED
        assert find()["born"] != before["born"]


def test_a_server_that_hangs_blocks_nobody(wms: Wms, monkeypatch: pytest.MonkeyPatch) -> None:
    with server() as find:
        assert wms.wait(wms.submit("first", job("a0", "true"), options=WARM)) is WmsStates.SUCCEEDED
        hanging = find()
        send(hanging["pid"], hanging["born"], signal.SIGSTOP)
        run_id = wms.submit("w", job("a0", "echo x >> a"), options=WARM)
        assert wms.state(run_id) is WmsStates.PENDING
        monkeypatch.setattr(launch, "_PATIENCE", 0.0)
        assert wms.wait(run_id) is WmsStates.SUCCEEDED
        send(hanging["pid"], hanging["born"], signal.SIGCONT)
        time.sleep(0.5)
        assert (wms.folder / "w/a").read_text() == "x\n"


def test_stop_command(wms: Wms) -> None:
    run_id = wms.submit("w", job("a0", "sleep 1000"))
    until(lambda: wms.state(run_id) is WmsStates.RUNNING)
    result = subprocess.run(
        [sys.executable, "-m", "cm_dagster.local.wms", "stop"], capture_output=True, text=True, check=True
    )
    assert result.stdout == f"{os.environ[store.HOME]}: 1 runs cancelled\n"
    assert wms.state(run_id) is WmsStates.DELETED
