"""Submit many groups to BPS from one warm process; runs inside a campaign's own LSST stack.

This file stands alone: standard library and ``lsst.ctrl.bps`` only. It is run by path (``python batch_submit.py
MANIFEST.json``), because cm_dagster need not be installed in the stack of a campaign. ``bps submit`` costs 3 s of CPU
for a small group, nearly all of it imports (its own and those of the ``pipetask`` that it starts); here they are paid
once per batch and each group is a fork: same steps, same files, same errors.

The manifest is a JSON object::

    {"parallel": 2, "timeout": 1800.0, "preload": ["a.module"], "pipelines": ["a.yaml#step1"],
     "groups": [{"name": "c.step1.usdf.g0001.a01", "config": "bps.yaml", "log": "submit-1.log",
                 "result": "submit-1.json"}]}

Each group's result file is replaced atomically as the group goes on; its ``phase`` says how far it came:

==========  ================================================================================================
building    nothing was sent to the WMS
sending     the WMS plugin's submit was about to be called: from here on only a look-up tells what became of it
submitted   the WMS gave an id
==========  ================================================================================================

``ok`` is true (submitted), false (nothing was sent, and nothing will be) or null (unknown). On standard output comes
one JSON line when the imports are done (``{"event": "ready", ...}``) and one per finished group (``{"event": "group",
...}``, otherwise equal to its result file). Children die with this process (on Linux, at once).
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import gc
import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, TextIO

_CORE = ("lsst.ctrl.bps.drivers", "lsst.ctrl.bps.pre_transform")
_WARM = (
    "lsst.ctrl.mpexec.cli.pipetask",
    "lsst.ctrl.mpexec.cli.cmd",
    "lsst.pipe.base.all_dimensions_quantum_graph_builder",
    "lsst.pipe.base.quantum_graph",
    "lsst.daf.butler.direct_butler",
    "lsst.daf.butler.registry.databases.sqlite",
    "lsst.daf.butler.datastores.fileDatastore",
    "lsst.daf.butler.cli.cmd",
    "lsst.pipe.base.cli.cmd",
)
_POLL = 0.03
"""Seconds between looks at the children."""
_GRACE = 20.0
"""Seconds that a group gets to finish its talk with the WMS after SIGTERM."""
_PR_SET_PDEATHSIG = 1
_NO_RECORD = 74
"""Exit code of a child that could not write its record (EX_IOERR): the disk is full, or away."""


@dataclasses.dataclass(frozen=True)
class Group:
    """One group to submit."""

    name: str
    config: str
    log: str
    result: str


def write_json(path: str, data: dict[str, Any]) -> None:
    """Replace a file by a JSON object, so that a reader or a crash meets the old or the new one, never a part."""
    temporary = Path(f"{path}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            json.dump(data, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def read_json(path: str) -> dict[str, Any]:
    """Read a result file; one that is absent, or on a disk that is away, is empty."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError:
        return {}
    return data if isinstance(data, dict) else {}


class Record:
    """The result file of one group, as its child writes it."""

    def __init__(self, group: Group) -> None:
        self.path = group.result
        self.data = read_json(group.result)

    def update(self, **values: Any) -> None:
        """Write what is known now."""
        self.data.update(values)
        write_json(self.path, self.data)

    def error(self, error: BaseException) -> None:
        """Record an exception: definite before anything was sent, unknown after, of no interest once an id is known."""
        if self.data["phase"] == "submitted":
            return
        kind = type(error)
        text = {"type": f"{kind.__module__}.{kind.__qualname__}", "message": str(error)}
        self.update(ok=False if self.data["phase"] == "building" else None, error=text)


# --------------------------------------------------------------------------------------------------- in the child


def run_pipetask(command: str, filename: str, *_: object) -> int:
    """Stand in for ``lsst.ctrl.bps.pre_transform.execute``: run pipetask in a fork of this warm process.

    Parameters
    ----------
    command
        The command line, as BPS made it.
    filename
        File for the output of the command.

    Returns
    -------
    code
        Exit code of the command.
    """
    argv = shlex.split(command)
    sys.stdout.flush()
    sys.stderr.flush()
    if argv[0] != "pipetask":
        with Path(filename).open("w", encoding="utf-8") as stream:
            print(command, "\n", file=stream, flush=True)
            code = subprocess.run(argv, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode
    elif (pid := os.fork()) == 0:
        die_with_parent()
        redirect(filename, command + "\n\n\n")
        os._exit(pipetask_main(argv))
    else:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    sys.stderr.write(Path(filename).read_text(encoding="utf-8", errors="replace"))
    return code


def pipetask_main(argv: list[str]) -> int:
    """Run a pipetask command line in this process; return its exit code."""
    from lsst.ctrl.mpexec.cli import pipetask
    from lsst.daf.butler.cli.cliLog import CliLog

    CliLog.resetLog()
    sys.argv = argv
    code = 0
    try:
        pipetask.cli.main(args=argv[1:], prog_name=argv[0], standalone_mode=True)
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, where the kernel can (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def redirect(path: str, first: str = "") -> None:
    """Send standard output and error to a new file that begins with a text."""
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    os.write(target, first.encode())
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)


def count_quanta(config: Any) -> int | None:
    """Read the number of quanta from the header of the group's quantum graph; None where that cannot be had."""
    try:
        from lsst.pipe.base.quantum_graph import PredictedQuantumGraph

        with PredictedQuantumGraph.open(config[".bps_defined.runQgraphFile"]) as reader:
            return int(reader.header.n_quanta)
    except Exception:  # a number for the pilot only: never a reason not to submit
        return None


def submit_group(group: Group, warm: bool) -> int:
    """Do what ``bps submit`` does for one group, keeping its record; runs in a fork of its own."""
    from lsst.ctrl.bps import drivers, pre_transform
    from lsst.daf.butler.cli.cliLog import CliLog

    record = Record(group)
    send = drivers.submit

    def marked_submit(config: Any, wms_workflow: Any, *args: Any, **kwargs: Any) -> Any:
        record.update(phase="sending", quanta=count_quanta(config))
        workflow = send(config, wms_workflow, *args, **kwargs)
        wms_id = getattr(workflow, "run_id", None) or getattr(wms_workflow, "run_id", None)
        if wms_id is None:
            raise RuntimeError("the WMS plugin gave no id")
        record.update(phase="submitted", ok=True, wms_id=str(wms_id))
        return workflow

    drivers.submit = marked_submit
    if warm:
        pre_transform.execute = run_pipetask
    CliLog.initLog(longlog=False)
    CliLog.setLogLevels([(None, "INFO")])
    try:
        drivers.submit_driver(group.config)
    except BaseException as error:
        traceback.print_exc()
        try:
            record.error(error)
        except OSError:
            return _NO_RECORD
        return 1
    return 0


# -------------------------------------------------------------------------------------------------- in the parent


def preload(modules: list[str], pipelines: list[str]) -> bool:
    """Import what the children will need.

    Returns
    -------
    warm
        Whether quantum graphs can be built in forks of this process; where not, BPS starts ``pipetask`` as ever.
    """
    for name in _CORE:
        importlib.import_module(name)
    warm = True
    for name in (*_WARM, *modules):
        try:
            importlib.import_module(name)
        except ImportError as error:
            sys.stderr.write(f"not preloaded: {name}: {error}\n")
            warm = warm and name != _WARM[0]
    for pipeline in pipelines if warm else ():
        preload_pipeline(pipeline)
    preload_versions()
    # A thread of a library's allocator makes CPython warn at each fork; no Python code runs in it.
    warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork.*")
    gc.collect()
    gc.freeze()
    return warm


def preload_pipeline(uri: str) -> None:
    """Import the tasks of a pipeline; whatever is wrong with it is for its groups to say."""
    from lsst.pipe.base import Pipeline

    try:
        Pipeline.fromFile(os.path.expandvars(uri)).to_graph()
    except Exception as error:
        sys.stderr.write(f"not preloaded: {uri}: {error}\n")


def preload_versions() -> None:
    """Look up which packages are installed, once: BPS notes their versions for each group, at 0.5 s of CPU."""
    with contextlib.suppress(Exception):
        from lsst.utils import packages

        packages.packages_distributions = functools.cache(packages.packages_distributions)
        packages.Packages.fromSystem()


@dataclasses.dataclass
class Child:
    """A running fork."""

    group: Group
    started: float
    why: str = ""
    """Why we killed it; empty if we did not."""


class Batch:
    """Submit the groups of a manifest, some at a time.

    Parameters
    ----------
    manifest
        See the module's description.
    out
        Where the JSON lines go.
    """

    def __init__(self, manifest: dict[str, Any], out: TextIO) -> None:
        self.waiting = [Group(**group) for group in manifest["groups"]]
        self.parallel = int(manifest.get("parallel", 1))
        self.timeout = float(manifest.get("timeout", 1800.0))
        self.warm = preload(manifest.get("preload", []), manifest.get("pipelines", []))
        self.children: dict[int, Child] = {}
        self.stopped: float | None = None
        self.out: TextIO | None = out
        self.waiting.reverse()

    def run(self) -> None:
        """Submit all groups, and say how each ended."""
        signal.signal(signal.SIGTERM, self._stop)
        self._say(event="ready", warm=self.warm)
        while self.waiting or self.children:
            if self.stopped is not None:
                self._give_up()
            while self.waiting and len(self.children) < self.parallel:
                self._start(self.waiting.pop())
            self._kill_late()
            if not self._reap():
                time.sleep(_POLL)

    def _stop(self, *_: object) -> None:
        self.stopped = self.stopped or time.monotonic()

    def _give_up(self) -> None:
        """Begin no more groups; kill those that have sent nothing, and later those that do not end."""
        now = time.time()
        while self.waiting:
            group = self.waiting.pop()
            error = {"type": "Stopped", "message": "the batch was stopped before this group was begun"}
            self._end(group, {"ok": False, "phase": "building", "started": now, "error": error}, cpu=0.0)
        late = time.monotonic() - (self.stopped or 0.0) > _GRACE
        for pid, child in self.children.items():
            if late or read_json(child.group.result).get("phase") == "building":
                self._kill(pid, "Stopped")

    def _start(self, group: Group) -> None:
        started = time.time()
        try:
            write_json(group.result, {"name": group.name, "ok": None, "phase": "building", "started": started})
        except OSError as error:  # nothing is sent of which no record can be kept
            self._end(
                group, {"ok": False, "phase": "building", "started": started, "error": _no_record(error)}, cpu=0.0
            )
            return
        parent = os.getpid()
        if (pid := os.fork()) != 0:
            with contextlib.suppress(OSError):
                os.setpgid(pid, pid)
            self.children[pid] = Child(group, started)
            return
        code = 1
        try:
            os.setpgid(0, 0)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            die_with_parent()
            if os.getppid() == parent:
                redirect(group.log)
                code = submit_group(group, self.warm)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)

    def _kill_late(self) -> None:
        for pid, child in self.children.items():
            if time.time() - child.started > self.timeout:
                self._kill(pid, "TimeLimit")

    def _kill(self, pid: int, why: str) -> None:
        if not self.children[pid].why:
            self.children[pid].why = why
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def _reap(self) -> bool:
        """Collect the children that ended; return whether there was one."""
        ended = [(pid, *os.wait4(pid, os.WNOHANG)[1:]) for pid in self.children if _has_ended(pid)]
        for pid, status, usage in ended:
            child = self.children.pop(pid)
            data = {"started": child.started, **read_json(child.group.result)}
            if data.get("ok") is None and "error" not in data:
                # It did not live to say how it ended. Its phase was on disk before it sent anything.
                data["ok"] = False if data.get("phase") == "building" else None
                data["error"] = self._death(child, os.waitstatus_to_exitcode(status))
            self._end(child.group, data, cpu=usage.ru_utime + usage.ru_stime)
        return bool(ended)

    def _death(self, child: Child, code: int) -> dict[str, str]:
        if child.why == "TimeLimit":
            return {"type": "TimeLimit", "message": f"not done after {self.timeout:.0f} s, and killed"}
        if child.why:
            return {"type": child.why, "message": "the batch was stopped, and this group killed"}
        if code == _NO_RECORD:
            return _no_record(f"see {child.group.log}")
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return {"type": "Killed", "message": f"the submitting process was {how}"}

    def _end(self, group: Group, data: dict[str, Any], *, cpu: float) -> None:
        data.update(name=group.name, ended=time.time(), cpu=round(cpu, 3))
        with contextlib.suppress(OSError):  # whoever listens hears of it anyway
            write_json(group.result, data)
        self._say(event="group", **data)

    def _say(self, **data: Any) -> None:
        """Print a line; when nobody listens any more, the result files still tell."""
        if self.out is not None:
            try:
                print(json.dumps(data), file=self.out, flush=True)
            except OSError:
                self.out = None


def _no_record(why: object) -> dict[str, str]:
    return {"type": "NoRecord", "message": str(why)}


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def main(argv: list[str]) -> int:
    """Run the batch of a manifest; exit code 0 when every group has a result, whatever it is."""
    # What libraries print must not mix with our lines.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    Batch(json.loads(Path(argv[1]).read_text(encoding="utf-8")), out).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
