"""Two groups from the queue to the step's chain, with the real BPS, WMS and Butler, no final job having run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from cm_dagster.control.audit import audit
from cm_dagster.control.chain import chain
from cm_dagster.control.collect import collect
from cm_dagster.control.finalize import finalize
from cm_dagster.control.history import end_details
from cm_dagster.control.inputs import prepare_inputs
from cm_dagster.local.minidrp import PIPELINE
from cm_dagster.local.survey import Survey
from cm_dagster.local.wms.shutdown import shutdown
from cm_dagster.policy.judge import FINAL_JOB_TRIES
from cm_dagster.policy.states import State
from cm_dagster_tests.integration.bps_bench import VISITS
from cm_dagster_tests.integration.ledger_rig import LOG, STEP1, Rig, make_spec, open_rig


@pytest.fixture
def real(tmp_path: Path, blank_home: Path, hsc_repo: Survey) -> Iterator[Rig]:
    """A site with real services."""
    faults = tmp_path / "faults.json"
    site = {
        "butler": str(hsc_repo.root),
        "bps": {"numberOfRetries": 0, "site": {"local": {"cores": 2, "warm": True}}},
        "submit": {"timeout": 3.0},
        "env": {"CM_MINIDRP_FAULTS": str(faults)},
    }
    with open_rig(tmp_path, blank_home, site) as made:
        # A file that says so is refused.
        made.restrict(bps={**made.site.spec.bps, "finalJob": {"whenRun": "NEVER"}})
        del made.site.wms, made.site.submitter
        rule = {"task": "isr", "where": f"exposure={VISITS[1]}", "action": "raise", "message": "bad pixel map"}
        faults.write_text(json.dumps([rule]))
        try:
            yield made
        finally:
            shutdown()


def watch_until(rig: Rig, done: Callable[[], bool]) -> list[str]:
    """Tick until something is so; gives the runs that were to be finalized, in order."""
    asked: list[str] = []
    end = time.monotonic() + 180
    while not done():
        assert time.monotonic() < end
        asked += [run_id for run_id in rig.watch().finalize if run_id not in asked]
        time.sleep(0.3)
    return asked


def test_from_the_queue_to_the_chain(real: Rig, hsc_repo: Survey) -> None:
    group_by = {"dimension": "visit", "values": list(VISITS[:2])}
    spec = real.create(
        make_spec(
            pipeline=str(PIPELINE),
            butler={"input": [hsc_repo.defaults], "output": "u/camp", "where": hsc_repo.where},
            steps={"step1": {"pipeline": "#step1", "group_by": group_by}},
        )
    )
    prepare_inputs(real.instance, real.site, spec, "step1")
    good, bad = runs = [real.queue("g0000"), real.queue("g0001")]
    assert real.submit(*runs).submitted == 2
    assert len(real.site.wms.report_all(1)) == 2

    # Both end without their outputs being registered, one as SUCCEEDED: that alone accepts nothing, fails nothing.
    asked = watch_until(real, lambda: all(real.state(run_id) is State.FINALIZING for run_id in runs))
    assert sorted(asked) == sorted(runs)
    assert "its final job did not (fully) run; it is run again" in real.notes(good)
    finalize(real.instance, real.site, runs, "a finalize run", LOG)
    assert [(real.state(run_id), real.attempt(run_id).finalized) for run_id in runs] == [(State.ENDED, 1)] * 2
    finalize(real.instance, real.site, runs, "another finalize run", LOG)  # there is nothing to do any more
    real.watch()

    assert (real.state(good), real.state(bad)) == (State.ACCEPTED, State.FAILED)
    assert real.instance.get_materialized_partitions(dg.AssetKey(STEP1.asset)) == {"g0000"}
    assert "bad pixel map" in real.end_message(bad)
    details = end_details(real.instance, good)
    assert details["quanta expected"] == details["quanta registered"] > 0
    assert details["run collection"] == "u/camp/step1/g0000/a01/run"
    assert "uniqProcName: camp.step1.here.g0000.a01" in details["BPS configuration"]

    # The failed group is tried again, and all that follows needs both.
    (real.folder / "faults.json").write_text("[]")
    again = real.queue("g0001", 2)
    assert real.submit(again).submitted == 1
    watch_until(real, lambda: real.state(again) is State.FINALIZING)
    finalize(real.instance, real.site, [again], "a third finalize run", LOG)
    real.watch()
    assert real.state(again) is State.ACCEPTED
    chain(real.instance, real.site, STEP1).remember(real.instance)
    collect(real.instance, real.site, spec, "step1")
    runs_of = [f"u/camp/step1/{name}/run" for name in ("g0000/a01", "g0001/a02")]
    assert real.site.butler(spec).chain("u/camp/step1") == runs_of
    assert audit(real.instance, real.site, LOG).all_well
    real.site.butler(spec).close()


def test_a_final_job_that_never_helps_fails_the_attempt(real: Rig, hsc_repo: Survey) -> None:
    spec = real.create(
        make_spec(
            pipeline=str(PIPELINE),
            butler={"input": [hsc_repo.defaults], "output": "u/camp", "where": hsc_repo.where},
            steps={"step1": {"pipeline": "#step1", "group_by": {"dimension": "visit", "values": [VISITS[0]]}}},
        )
    )
    prepare_inputs(real.instance, real.site, spec, "step1")
    run_id = real.queue("g0000")
    real.submit(run_id)
    watch_until(real, lambda: real.state(run_id) is State.FINALIZING)
    (Path(real.attempt(run_id).submit_dir) / "final_job.bash").write_text("exit 3\n")
    for number in range(FINAL_JOB_TRIES):
        assert real.attempt(run_id).finalized == number
        finalize(real.instance, real.site, [run_id], f"finalize run {number}", LOG)
        real.watch()
    assert real.state(run_id) is State.FAILED
    assert "did not help" in real.end_message(run_id)
    real.site.butler(spec).close()
