"""The causes of failed submissions, from logs of real failures (paths shortened)."""

from __future__ import annotations

from pathlib import Path

import pytest

from cm_dagster.errors import EmptyGraphError, NothingToDoError, SubmitError
from cm_dagster.services.causes import job_cause, last_exception, passing_cause, setup_cause, stop_cause, submit_cause

LOGS = Path(__file__).with_name("logs")


def cause(case: str) -> SubmitError:
    return submit_cause(LOGS / case / "submit.log", LOGS / case / "submit")


@pytest.mark.parametrize(
    ("case", "said", "advice"),
    [
        ("missing_pipeline", "the pipeline file /nope/Nope.yaml does not exist", "step's pipeline"),
        ("unknown_subset", "the pipeline has no task or subset 'stepX'", "--show subsets"),
        ("missing_task", "the pipeline names no.such.module.Task, which cannot be imported", "pipeline"),
        ("missing_repository", "the Butler repository '/nope/repo' does not exist", "site's butler"),
        ("unknown_label", "the Butler repository 'main_repo_label' does not exist", "DAF_BUTLER_REPOSITORIES"),
        ("unknown_identifier", "refuses the group's predicate: Unrecognized identifier 'exposre'", "predicate"),
        ("predicate_syntax", "refuses the group's predicate: Failed to parse expression", "predicate"),
        ("unconstrained_dimension", "references a dimension dependent on skymap", "predicate"),
        ("missing_collection", "the collection 'no/such' does not exist", "inputs"),
        ("run_exists", "the RUN collection 'u/real/run' exists already", "retry"),
        ("chain_not_contiguous", "the output chain 'u/real' exists, with other inputs", "retry"),
        ("submit_dir_exists", "the submit directory /submit/ok/submit-1 exists already", "each try its own"),
        ("submit_area_not_writable", "the submit directory /proc/nope/x cannot be made", "submit_area"),
        ("missing_wms_class", "the WMS service class no.such.Service cannot be imported", "wms.service"),
        ("unknown_option", "pipetask does not know the option --no-such-option", "bps sections"),
    ],
)
def test_known_cause_is_put_in_words(case: str, said: str, advice: str) -> None:
    error = cause(case)
    assert type(error) is SubmitError
    assert said in error.cause
    assert advice in error.advice
    assert not error.transient


def test_lost_database_is_transient() -> None:
    error = cause("database_down")
    assert error.transient
    assert 'connection to server at "127.0.0.1", port 5999 failed: Connection refused' in error.cause


def test_empty_graph_says_what_the_butler_found() -> None:
    assert isinstance(cause("empty_query"), EmptyGraphError)
    error = cause("empty_collection")
    assert isinstance(error, EmptyGraphError)
    assert "No datasets of type 'raw' in collection 'MockCam/empty'" in error.cause
    assert "requires both instrument='MockCam' and instrument='NoCam'" in cause("wrong_instrument").cause


def test_all_done_before_is_not_an_empty_query() -> None:
    error = cause("nothing_to_do")
    assert isinstance(error, NothingToDoError)
    assert "isr" in error.cause
    assert "calibrateImage" in error.cause


def drops(folder: Path, *reasons: str) -> SubmitError:
    lines = [f"INFO - Dropping task t{i} because no quanta remain{why}." for i, why in enumerate(reasons)]
    text = "\n".join([*lines, "Error: QuantumGraph was empty; ERROR logs above should provide details."])
    (folder / "quantumGraphGeneration.out").write_text(text)
    return submit_cause(folder / "none.log", folder)


def test_partly_done_before_is_still_an_empty_query(tmp_path: Path) -> None:
    done = " (4 previously succeeded and skipped)"
    assert isinstance(drops(tmp_path, done, ""), EmptyGraphError)
    assert isinstance(drops(tmp_path, " (2 had no work to do)"), EmptyGraphError)
    assert isinstance(drops(tmp_path, done, " (2 had no work to do)"), NothingToDoError)
    both = " (1 had no work to do, 3 previously succeeded and skipped)"
    assert isinstance(drops(tmp_path, both), NothingToDoError)


def test_unknown_cause_is_quoted_with_its_file(tmp_path: Path) -> None:
    log = tmp_path / "submit.log"
    log.write_text('Traceback (most recent call last):\n  File "x.py", line 1, in f\nodd.Strange: what\n')
    error = submit_cause(log, tmp_path)
    assert error.cause == "bps submit failed: Strange: what"
    assert str(log) in error.advice


def test_absent_log_is_said_to_be_absent(tmp_path: Path) -> None:
    assert "its log is empty or absent" in submit_cause(tmp_path / "no.log", tmp_path).cause


def test_last_exception_is_the_outer_one_of_a_chain() -> None:
    text = (
        "Traceback (most recent call last):\n  File 'a', line 1\nKeyError: 'inner'\n\n"
        "The above exception was the direct cause of the following exception:\n\n"
        "Traceback (most recent call last):\n  File 'b', line 2\nlsst.x.OuterError: first line\nsecond line\n"
        "INFO 2026-11-22T23:32:50.780+00:00 lsst.x ()(y.py:1) - going on\nValueError: not raised, only printed\n"
    )
    found = last_exception(text)
    assert found is not None
    assert (found.kind, found.message) == ("lsst.x.OuterError", "first line\nsecond line")
    assert str(found) == "OuterError: first line second line"


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("batch.sh: line 9: RUBIN_EUPS_PATH: set it in the env of the site", "RUBIN_EUPS_PATH is not set"),
        ("batch.sh: line 9: /cvmfs/w_9/loadLSST.bash: No such file or directory", "no /cvmfs/w_9/loadLSST.bash"),
        ("setup: No such tag: w_2099_01", "EUPS has not set up the campaign's stack"),
        ("batch.sh: line 12: exec: bps: not found", "bps is not there"),
        ("Traceback (most recent call last):\n  F\nModuleNotFoundError: No module named 'lsst'", "Python module lsst"),
        ("something odd", "could not be set up: something odd"),
    ],
)
def test_stack_that_is_not_there(output: str, said: str) -> None:
    assert said in setup_cause(output).cause


def test_stopped_before_anything_was_sent_may_be_tried_again() -> None:
    stopped = stop_cause({"type": "Stopped", "message": "x"})
    late = stop_cause({"type": "TimeLimit", "message": "not done after 60 s"})
    assert stopped is not None
    assert stopped.transient
    assert late is not None
    assert not late.transient
    assert "not done after 60 s" in late.cause
    assert stop_cause({"type": "builtins.ValueError", "message": "the log tells"}) is None


def test_job_cause_is_the_last_exception_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "job.stderr"
    log.write_text("x\nTraceback (most recent call last):\n  File 'a'\nRuntimeError: bad pixel map\n\nmore\n")
    assert job_cause(log) == "RuntimeError: bad pixel map"
    with log.open("a") as more:
        more.write("Traceback (most recent call last):\n  File 'b'\nx.MPGraphExecutorError: One or more tasks failed\n")
    assert job_cause(log) == "RuntimeError: bad pixel map"
    log.write_text("slurmstepd: error: Exceeded memory limit\n")
    assert job_cause(log) == "slurmstepd: error: Exceeded memory limit"


@pytest.mark.parametrize(
    ("cause", "passes"),
    [
        ("OperationalError: connection to server at 127.0.0.1 failed: Connection refused", True),
        ("OSError: [Errno 28] No space left on device: '/area/x'", True),
        ("RuntimeError: cannot create directory '/area/x': [Errno 28] No space left on device", True),
        ("sqlite3.OperationalError: database is locked", True),
        ("OperationalError: no such table: run", False),
        ("ValueError: no stars", False),
    ],
)
def test_what_passes_by_itself(cause: str, passes: bool) -> None:
    assert (passing_cause(cause) is not None) == passes


def test_a_log_cut_off_by_a_full_disk_says_so(tmp_path: Path) -> None:
    log = tmp_path / "submit.log"
    log.write_text("Traceback (most recent call last):\n  ...\nOSError: [Errno 28] No space left on device\n")
    error = submit_cause(log, tmp_path)
    assert error.transient
    assert "no space is left" in error.cause
