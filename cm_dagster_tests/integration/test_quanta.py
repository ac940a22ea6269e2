"""What a workflow did is told truly, and a final job that did not run is found and run."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from lsst.daf.butler import Butler

from cm_dagster.errors import ServiceError
from cm_dagster.local.survey import Survey
from cm_dagster.plan.render import PROVENANCE
from cm_dagster.services.causes import job_cause
from cm_dagster.services.quanta import QuantaSummary, final_job_command, read_quanta, run_final_job
from cm_dagster.services.wms import WmsState
from cm_dagster_tests.integration.bps_bench import VISITS, Bench, open_bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, hsc_template: Survey) -> Iterator[Bench]:
    with open_bench(tmp_path_factory.mktemp("quanta"), hsc_template) as bench:
        yield bench


def count(bench: Bench, run: str, dataset_type: str) -> Counter[int]:
    """Count datasets of a RUN per visit or exposure, asking the Butler itself."""
    with Butler.from_config(str(bench.survey.root)) as butler, butler.query() as query:
        refs = list(query.datasets(dataset_type, run))
    return Counter(int(ref.dataId["exposure" if "exposure" in ref.dataId else "visit"]) for ref in refs)


def test_failed_and_blocked_quanta(bench: Bench) -> None:
    bench.strike(
        {
            "action": "raise",
            "task": "isr",
            "where": f"exposure={VISITS[0]}",
            "message": "bad pixel map",
            "log": "amp 3 is dead",
        }
    )
    prepared = bench.prepare(0, VISITS[:2])
    result, report = bench.run(prepared)
    assert report.state is WmsState.FAILED
    summary = read_quanta(prepared.paths.submit_dir, bench.butler)
    raws = count(bench, "HSC/raw/all", "raw")
    bad, good = raws[VISITS[0]], raws[VISITS[1]]
    isr, calibrate = summary.tasks["isr"], summary.tasks["calibrateImage"]
    assert (isr.expected, isr.succeeded, isr.failed, isr.blocked, isr.no_record) == (bad + good, good, bad, 0, 0)
    assert (calibrate.succeeded, calibrate.failed, calibrate.blocked) == (good, 0, bad)
    assert isr.exceptions == {"ValueError": bad}
    assert isr.messages == ("bad pixel map",)
    assert "amp 3 is dead" in isr.log
    assert calibrate.log == ()
    assert (summary.expected, summary.succeeded) == (result.quanta, 2 * good)
    run = "u/camp/step1/g0000/a01/run"
    registered = {task: count(bench, run, f"{task}_metadata").total() for task in summary.tasks}
    assert summary.registered == registered == {"isr": good, "calibrateImage": good}
    assert summary.complete
    logs = [path for path in prepared.paths.submit_dir.rglob("*.err") if "isr" in path.name]
    assert "ValueError: bad pixel map" in {job_cause(path) for path in logs}


def without_provenance(bench: Bench, submit_dir: Path) -> QuantaSummary:
    """Run a final job again that writes no provenance graph, as in stacks that can't."""
    final_job_command(submit_dir)
    script = submit_dir / "final_job.bash"
    script.write_text(script.read_text().replace(f"-o {submit_dir / PROVENANCE}", ""))
    (submit_dir / PROVENANCE).unlink(missing_ok=True)
    done = run_final_job(submit_dir, bench.spec.stack, bench.site)
    assert done.ok, done.log.read_text()
    assert not (submit_dir / PROVENANCE).exists()
    return read_quanta(submit_dir, bench.butler)


def test_without_a_provenance_graph_a_report_tells_the_same(bench: Bench) -> None:
    bench.strike(
        {"action": "raise", "task": "isr", "where": f"exposure={VISITS[5]}", "message": "bad pixel map"},
        {"action": "nowork", "task": "isr", "where": f"exposure={VISITS[6]}"},
        {"action": "signal", "task": "calibrateImage", "where": f"visit={VISITS[7]}"},
    )
    prepared = bench.prepare(5, VISITS[5:8])
    bench.run(prepared)
    submit_dir = prepared.paths.submit_dir
    graph, report = read_quanta(submit_dir, bench.butler), without_provenance(bench, submit_dir)
    assert (graph.source, report.source) == ("provenance graph", "pipetask report")
    assert report.succeeded is None  # it knows no more than the registry of what the final job has left out
    assert report.registered == graph.registered
    assert report.complete is (report.registered_total == report.expected)
    for label, told in graph.tasks.items():
        other = report.tasks[label]
        assert (other.expected, other.succeeded, other.failed) == (told.expected, told.succeeded, told.failed)
        assert (other.blocked, other.no_record) == (told.blocked, told.no_record)
        assert (other.exceptions, other.messages, other.errors) == (told.exceptions, told.messages, told.errors)
        assert other.caveats.keys() == told.caveats.keys() & other.caveats.keys()
    isr = report.tasks["isr"]
    assert isr.exceptions == {"ValueError": isr.failed}
    assert isr.caveats["NO_WORK"] > 0
    assert report.tasks["calibrateImage"].no_record > 0


def test_caveats_and_what_quanta_have_used(bench: Bench) -> None:
    bench.strike({"action": "nowork", "task": "isr", "where": f"exposure={VISITS[4]}"})
    prepared = bench.prepare(4, [VISITS[4]])
    _, report = bench.run(prepared)
    assert report.state is WmsState.SUCCEEDED
    summary = read_quanta(prepared.paths.submit_dir, bench.butler)
    assert summary.source == "provenance graph"
    isr, calibrate = summary.tasks["isr"], summary.tasks["calibrateImage"]
    assert isr.succeeded == isr.expected > 0
    assert isr.caveats["NO_WORK"] == isr.expected
    assert "ADJUST_QUANTUM_RAISED" not in isr.caveats
    assert calibrate.caveats["ADJUST_QUANTUM_RAISED"] == calibrate.expected
    used = isr.usage
    assert used is not None
    assert 20 < used.memory_median <= used.memory_max < 4000  # a Python that has imported the stack
    assert 0 < used.time_median <= used.time_max <= used.time_total < 600
    assert used.cpu_total > 0
    (prepared.paths.submit_dir / PROVENANCE).unlink()
    bare = read_quanta(prepared.paths.submit_dir, bench.butler)
    assert (bare.source, bare.tasks["isr"].usage) == ("registry counts", None)


def unfinished(bench: Bench, index: int) -> tuple[Path, QuantaSummary]:
    """Run a group whose workflow has no final job."""
    bench.strike()
    spec = bench.make_spec(bps={"finalJob": {"whenRun": "NEVER"}})
    prepared = bench.prepare(index, VISITS[:1], spec=spec)
    _, report = bench.run(prepared)
    assert report.state is WmsState.SUCCEEDED
    return prepared.paths.submit_dir, read_quanta(prepared.paths.submit_dir, bench.butler)


def test_final_job_that_did_not_run_is_found_and_run(bench: Bench) -> None:
    submit_dir, before = unfinished(bench, 1)
    assert (before.registered, before.registered_total, before.succeeded) == (None, None, None)
    assert not before.complete
    for _ in range(2):  # once more does no harm
        done = run_final_job(submit_dir, bench.spec.stack, bench.site)
        assert done.ok, done.log.read_text()
        after = read_quanta(submit_dir, bench.butler)
        assert after.complete
        assert after.succeeded == after.registered_total == after.expected > 0
    run = "u/camp/step1/g0001/a01/run"
    assert count(bench, run, "calexp").total() == after.tasks["calibrateImage"].succeeded
    chain = bench.butler.chain("u/camp/step1/g0001/a01")
    assert chain is not None
    assert chain[0] == run
    # Part of a provenance graph, left by a final job that was killed, is as good as none.
    graph = submit_dir / PROVENANCE
    graph.write_bytes(graph.read_bytes()[:200])
    part = read_quanta(submit_dir, bench.butler)
    assert not part.provenance
    assert part.complete


def test_final_job_that_fails_says_why(bench: Bench, tmp_path: Path) -> None:
    submit_dir, _ = unfinished(bench, 2)
    final_job_command(submit_dir)
    (submit_dir / "final_job.bash").write_text('echo "no such graph: $1" >&2\nexit 3\n')
    failed = run_final_job(submit_dir, bench.spec.stack, bench.site)
    assert not failed.ok
    assert "no such graph" in str(failed.error)
    missing = run_final_job(submit_dir, bench.spec.stack.model_copy(update={"setup": "eups"}), bench.site)
    assert "RUBIN_EUPS_PATH" in str(missing.error)
    shutil.rmtree(submit_dir)
    with pytest.raises(ServiceError, match="no quantum graph"):
        read_quanta(submit_dir, bench.butler)


def test_quanta_that_never_started_are_not_failures(bench: Bench) -> None:
    bench.strike({"action": "sleep", "seconds": 60, "task": "isr"})
    prepared = bench.prepare(3, VISITS[:1])
    result = bench.submit(prepared)["g0003"]
    assert result.wms_id is not None
    bench.wait(result.wms_id, WmsState.RUNNING)
    bench.client.cancel(result.wms_id)
    assert bench.wait(result.wms_id).state is WmsState.CANCELLED
    cancelled = read_quanta(prepared.paths.submit_dir, bench.butler)
    assert cancelled.registered is None
    assert run_final_job(prepared.paths.submit_dir, bench.spec.stack, bench.site).ok
    summary = read_quanta(prepared.paths.submit_dir, bench.butler)
    assert summary.expected == sum(task.no_record + task.blocked for task in summary.tasks.values())
    assert summary.tasks["isr"].no_record > 0
    assert summary.succeeded == 0
    assert summary.complete
