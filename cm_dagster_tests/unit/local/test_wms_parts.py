"""Parts of the local WMS: memory of tries, commands that need no shell, cores, processes, translation from BPS."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lsst.ctrl.bps import (
    BpsConfig,
    GenericWorkflow,
    GenericWorkflowExec,
    GenericWorkflowFile,
    GenericWorkflowGroup,
    GenericWorkflowJob,
    GenericWorkflowNoopJob,
)

from cm_dagster.local.wms.command import execute
from cm_dagster.local.wms.definition import Job, Options, Workflow
from cm_dagster.local.wms.launch import pool_name
from cm_dagster.local.wms.process import Slots, alive, born, clean_environment, end_session, hold, send
from cm_dagster.local.wms.translate import translate

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@given(
    memory=st.integers(1, 10**5),
    factor=st.floats(1, 10),
    limit=st.integers(1, 10**6),
    attempt=st.integers(1, 10),
)
def test_memory_never_shrinks_and_never_exceeds_the_limit(memory: int, factor: float, limit: int, attempt: int) -> None:
    job = Job("a", "a", "true", {}, "", memory=memory, memory_factor=factor, memory_limit=limit)
    assert job.memory_of(attempt) <= job.memory_of(attempt + 1) <= limit


def test_a_workflow_is_read_as_it_was_written(tmp_path: Path) -> None:
    jobs = (Job("a", "l", "true", {"A": "1"}, "log/a"), Job("b", "l", "x", {}, "log/b", ("a",), final_exits=(1, 2)))
    workflow = Workflow("w", {"bps_operator": "me"}, "l:2", Options(2, True, ("os",)), jobs)
    workflow.write(tmp_path)
    assert Workflow.read(tmp_path) == workflow


def test_servers_are_shared_by_those_who_import_the_same() -> None:
    options = Options(2, True, ("a", "b"))
    assert pool_name(options, {}) == pool_name(Options(4, True, ("b", "a")), {"HOME": "/x"})
    assert pool_name(options, {}) != pool_name(Options(2, True, ("a",)), {})
    assert pool_name(options, {}) != pool_name(options, {"PYTHONPATH": "/x"})
    assert pool_name(Options(2, False), {}) == ""


# ------------------------------------------------------------------------------------------------------------ commands

ECHO = """
import importlib, json, os, sys, types
from cm_dagster.local.wms import command

class Cli:
    def main(self, args, prog_name):
        print(json.dumps([prog_name, *args, os.environ.get("NAME", "")]))
        sys.exit({exit})

module = types.ModuleType("echo_cli")
module.cli = Cli()
sys.modules["echo_cli"] = module
command._COMMANDS = {{"pipetask": "echo_cli"}}
command.execute(sys.argv[1], {{"NAME": "value", "PATH": os.environ["PATH"]}}, warm=True)
"""


def run_warm(command: str, exit: str = "0") -> subprocess.CompletedProcess[str]:  # noqa: A002
    code = ECHO.format(exit=exit)
    return subprocess.run([sys.executable, "-c", code, command], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("pipetask run -b repo", '["pipetask", "run", "-b", "repo", "value"]'),
        ("pipetask ${NAME}/x $NAME", '["pipetask", "value/x", "value", "value"]'),
        ("pipetask -d \"a IN (1, 2) AND b='x y'\"", '["pipetask", "-d", "a IN (1, 2) AND b=\'x y\'", "value"]'),
        ("pipetask '(a; b)'", '["pipetask", "(a; b)", "value"]'),
    ],
)
def test_commands_that_need_no_shell_run_warm(command: str, words: str) -> None:
    result = run_warm(command)
    assert result.stdout.strip() == words, result.stderr


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("echo pipetask $NAME", "pipetask value"),
        ("echo a; echo b", "a\nb"),
        ("echo '$NAME' \"$NAME\"", "$NAME value"),
        ("false || echo $(echo x)", "x"),
        ("echo a\\ b", "a b"),
    ],
)
def test_other_commands_go_to_the_shell(command: str, output: str) -> None:
    assert run_warm(command).stdout.strip() == output


@pytest.mark.parametrize(("exit", "code"), [("0", 0), ("None", 0), ("3", 3), ("'text'", 1)])
def test_exit_codes_are_those_of_a_script(exit: str, code: int) -> None:  # noqa: A002
    assert run_warm("pipetask", exit).returncode == code


@pytest.mark.parametrize(
    ("body", "output"),
    [
        ("set -e\nset -x\ngraph=$1\nrepo=$2\npipetask -i ${graph} ${repo}\n", '["pipetask", "-i", "G", "R", "value"]'),
        ("graph=$1\necho one $graph\necho two\n", "one G\ntwo"),
        ("echo $2 $3 | cat\n", "R"),
    ],
)
def test_final_job_scripts(tmp_path: Path, body: str, output: str) -> None:
    script = tmp_path / "final_job.bash"
    script.write_text(f"#!/bin/bash\n\n{body}")
    script.chmod(0o755)
    result = run_warm(f"{script} G R")
    assert result.stdout.strip() == output, result.stderr


def test_cold_jobs_never_run_in_this_interpreter(tmp_path: Path) -> None:
    pid = os.fork()
    if not pid:
        os.dup2(os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT), 1)
        execute("echo $0 $A", {"A": "1", "PATH": os.environ["PATH"]}, warm=False)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (tmp_path / "out").read_text() == "bash 1\n"


# ----------------------------------------------------------------------------------------------------------- processes


def elsewhere(function: Callable[[], object]) -> object:
    """Call a function in another process, as locks belong to processes."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(function()))
    process.start()
    answer: object = receiver.recv()
    process.join()
    return answer


def test_a_lock_has_one_holder_and_children_do_not_inherit_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    descriptor = hold(path, 7)
    assert descriptor is not None
    child = subprocess.Popen(["sleep", "100"], pass_fds=[descriptor])
    try:
        assert elsewhere(lambda: hold(path, 7)) is None
        assert elsewhere(lambda: hold(path, 8)) is not None
        os.close(descriptor)
        assert elsewhere(lambda: hold(path, 7)) is not None
    finally:
        child.kill()
        child.wait()


def test_cores_are_given_out_once(tmp_path: Path) -> None:
    path = tmp_path / "slots"
    mine = Slots(path, 3)
    first = mine.acquire(1)
    second = mine.acquire(1)
    assert first is not None
    assert second is not None
    assert sorted(first + second) == [0, 1]
    assert elsewhere(lambda: Slots(path, 3).acquire(1)) == [2]
    assert elsewhere(lambda: Slots(path, 2).acquire(1)) is None
    mine.release(first)
    assert elsewhere(lambda: Slots(path, 2).acquire(1)) == first


def test_a_wide_job_keeps_what_it_has_got_until_it_has_all(tmp_path: Path) -> None:
    path = tmp_path / "slots"
    mine = Slots(path, 2)
    small = mine.acquire(1)
    assert small is not None
    assert mine.acquire(16) is None
    assert elsewhere(lambda: Slots(path, 2).acquire(1)) is None
    mine.release(small)
    wide = mine.acquire(16)
    assert wide is not None
    assert sorted(wide) == [0, 1]
    mine.release(wide)
    assert elsewhere(lambda: Slots(path, 2).acquire(2)) == [0, 1]


def test_a_process_is_known_by_number_and_birth() -> None:
    process = subprocess.Popen(["sleep", "100"])
    since = born(process.pid)
    assert alive(process.pid, since)
    assert not alive(process.pid, "another boot:1")
    assert not send(process.pid, "another boot:1", signal.SIGKILL)
    assert alive(process.pid, since)
    assert send(process.pid, since, signal.SIGKILL)
    process.wait()
    assert not alive(process.pid, since)
    assert not send(process.pid, since, signal.SIGKILL)
    assert not alive(None, None)


def test_a_session_is_ended_after_its_leader() -> None:
    leader = subprocess.Popen(
        ["bash", "-c", "sleep 100 & echo $!"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    since = born(leader.pid)
    assert leader.stdout is not None
    child = int(leader.stdout.readline())
    leader.stdout.close()
    leader.wait()
    left = born(child)
    assert left is not None
    end_session(leader.pid, since)
    deadline = 200
    while alive(child, left) and deadline:
        deadline -= 1
        signal.sigtimedwait([], 0.01)
    assert not alive(child, left)


def test_a_session_of_another_process_of_that_number_is_left_alone() -> None:
    process = subprocess.Popen(["sleep", "100"], start_new_session=True)
    end_session(process.pid, "another boot:1")
    assert process.poll() is None
    end_session(process.pid, born(process.pid))
    assert process.wait() == -signal.SIGKILL


def test_environment_of_jobs() -> None:
    environment = clean_environment({"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "4", "A": "1"})
    assert environment == {"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "A": "1"}


# --------------------------------------------------------------------------------------------------------- translation


def generic(*names: str) -> GenericWorkflow:
    workflow = GenericWorkflow("w")
    for name in names:
        job = GenericWorkflowJob(name, label=name.rstrip("0123456789"))
        job.executable = GenericWorkflowExec("tool", "tool")
        job.arguments = "{who} <FILE:graph> <ENV:HERE>/x"
        job.cmdvals = {"who": name}
        job.tags = {"visit": 12}
        job.environment = {"A": "<ENV:HERE>/a"}
        job.retry_unless_exit = 2
        job.number_of_retries = 3
        job.request_memory, job.memory_multiplier, job.request_memory_max = 100, 2.0, 300
        workflow.add_job(job)
        workflow.add_job_inputs(name, [GenericWorkflowFile("graph", "<ENV:HERE>/graph.qg")])
    return workflow


def config(**more: object) -> BpsConfig:
    site = {"local": {"cores": 3, "warm": False, "preload": "os, sys"}}
    template = {"subDirTemplate": "{label}/{visit}/{patch}"}
    return BpsConfig({"computeSite": "local", "site": site} | template | more, search_order=["payload", "site"])


def test_jobs_of_bps_become_ours(tmp_path: Path) -> None:
    source = generic("a1", "b1")
    source.add_job_relationships("a1", "b1")
    workflow = translate(config(), source, tmp_path)
    assert workflow.options == Options(3, False, ("os", "sys"))
    assert workflow.summary == "a:1;b:1"
    job = next(job for job in workflow.jobs if job.name == "b1")
    assert job == Job(
        name="b1",
        label="b",
        command="tool b1 ${HERE}/graph.qg ${HERE}/x",
        environment={"A": "${HERE}/a"},
        log=f"{tmp_path}/logs/b/12/b1",
        parents=("a1",),
        retries=3,
        final_exits=(2,),
        memory=100,
        memory_factor=2.0,
        memory_limit=300,
    )


def test_no_ops_only_order(tmp_path: Path) -> None:
    source = generic("a1")
    source.add_job(GenericWorkflowNoopJob("wait", "order"), parent_names=["a1"])
    noop = translate(config(), source, tmp_path).jobs[1]
    assert (noop.command, noop.parents) == ("", ("a1",))


def test_groups_are_refused(tmp_path: Path) -> None:
    source = generic("a1")
    source.add_job(GenericWorkflowGroup("g", "order"))
    with pytest.raises(NotImplementedError, match="'g' of GenericWorkflowGroup"):
        translate(config(), source, tmp_path)
