"""The servers of a small deployment (a code server for each site, webserver, daemon) as child processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cm_dagster.errors import CmError
from cm_dagster.local.deployment import Deployment
from cm_dagster.local.wms.process import alive, born, end_session, send, session

__all__ = ["Servers", "code_server", "free_port", "stop_left_over"]

_STOP = 20.0
"""Seconds that a server gets to stop by itself."""
_START = 120.0
"""Seconds that the webserver gets to answer."""
_LOADED = """
    {workspaceOrError {... on Workspace {locationEntries {name loadStatus locationOrLoadError {
        __typename ... on PythonError {message}}}}}}
"""


def free_port() -> int:
    """Choose a free port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Servers:
    """The servers of a deployment; a context manager that stops them.

    Each can be stopped and started alone, as an outage would.
    """

    deployment: Deployment
    port: int = field(default_factory=free_port)
    """Port of the webserver."""
    code_ports: dict[str, int] = field(default_factory=dict)
    """Port of each site's code server; those that are not given are any free ones."""
    extra: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What the environment of each site's code server has beside the usual, by site."""
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Names of all servers, in the order in which they are started."""
        return [*(code_server(site) for site in self.deployment.names), "web", "daemon"]

    @property
    def url(self) -> str:
        """Address of the web UI."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        stop_left_over(self.deployment)
        self.code_ports = {site: self.code_ports.get(site) or free_port() for site in self.deployment.names}
        self.deployment.write_workspace(self.code_ports)
        try:
            for name in self.names:
                self.start(name)
            self.wait()
        except BaseException:
            self.stop_all()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_all()

    def start(self, name: str) -> None:
        """Start one server: ``code-SITE``, ``web`` or ``daemon``."""
        with (self.deployment.logs / f"{name}.log").open("ab") as log:
            # A session of its own: Ctrl-C is for us alone, and we end what we started. Started from Python, so that
            # SIGINT is not ignored: Dagster copies its handler to SIGTERM.
            process = subprocess.Popen(
                self._command(name),
                env=self._environment(name),
                cwd=self.deployment.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running[name] = process
        self._write_pids()

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop one server and all that it has started; one that is killed leaves that behind, as in real life."""
        process = self.running.pop(name)
        since = born(process.pid)
        process.send_signal(how)
        try:
            process.wait(_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if how is signal.SIGTERM:
            end_session(process.pid, since)
        self._write_pids()

    def stop_all(self) -> None:
        """Stop all servers, the daemon first, so that nothing new is begun."""
        for name in reversed(self.names):
            if name in self.running:
                self.stop(name)
        stop_left_over(self.deployment)

    def cpu(self) -> dict[str, float]:
        """CPU seconds of each running server so far, with those of all processes that it has started."""
        return {name: sum(map(_cpu, session(process.pid))) for name, process in self.running.items()}

    def wait(self) -> None:
        """Wait until the web UI answers with the code locations of all code servers that run loaded.

        Raises
        ------
        CmError
            If a server ends, a code location does not load, or the UI does not come up in time.
        """
        end = time.monotonic() + _START
        while not self._is_up():
            for name, process in self.running.items():
                if process.poll() is not None:
                    raise CmError(f"the {name} server ended", advice=f"see {self.deployment.logs / name}.log")
            if time.monotonic() > end:
                raise CmError("the servers do not come up", advice=f"see the logs in {self.deployment.logs}")
            time.sleep(0.3)

    def _is_up(self) -> bool:
        request = urllib.request.Request(
            f"{self.url}/graphql", json.dumps({"query": _LOADED}).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                entries = json.load(answer)["data"]["workspaceOrError"]["locationEntries"]
        except OSError:
            return False
        found = {entry["name"]: entry for entry in entries if code_server(entry["name"]) in self.running}
        return len(found) == sum(map(self.running.__contains__, map(code_server, self.code_ports))) and all(
            _is_loaded(name, entry) for name, entry in found.items()
        )

    def _command(self, name: str) -> list[str]:
        tools = Path(sys.executable).parent
        if site := _site_of(name):
            at = ["--host", "127.0.0.1", "--port", str(self.code_ports[site]), "--location-name", site]
            return [str(tools / "dagster"), "code-server", "start", "-m", "cm_dagster.definitions", *at]
        workspace = ["-w", str(self.deployment.workspace)]
        if name == "web":
            return [str(tools / "dagster-webserver"), *workspace, "--host", "127.0.0.1", "--port", str(self.port)]
        return [str(tools / "dagster-daemon"), "run", *workspace]

    def _environment(self, name: str) -> dict[str, str]:
        site = _site_of(name)
        own = {"CM_CODE_SERVER": f"127.0.0.1:{self.code_ports[site]}", **self.extra.get(site, {})} if site else {}
        return {**self.deployment.environment(site), **own}

    def _write_pids(self) -> None:
        known = {name: [process.pid, born(process.pid)] for name, process in self.running.items()}
        _pid_file(self.deployment).write_text(json.dumps(known))


def code_server(site: str) -> str:
    """Name the code server of a site."""
    return f"code-{site}"


def _site_of(name: str) -> str:
    """Give the site of a code server; empty for another server."""
    return name.removeprefix("code-") if name.startswith("code-") else ""


def _is_loaded(site: str, entry: dict[str, Any]) -> bool:
    location = entry["locationOrLoadError"] or {}
    if location.get("__typename") == "PythonError" and "DagsterUserCodeUnreachableError" not in location["message"]:
        raise CmError(f"the code location {site} does not load: {location['message'].strip()}")
    return entry["loadStatus"] == "LOADED" and location.get("__typename") != "PythonError"  # else it still starts


def _cpu(pid: int) -> float:
    """User and system time of a process and of its ended children, in seconds; 0 for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def _pid_file(deployment: Deployment) -> Path:
    return deployment.folder / "servers.json"


def stop_left_over(deployment: Deployment) -> None:
    """End the servers of a deployment that still run, by pid and start time, so that no other process is hit."""
    path = _pid_file(deployment)
    if not path.exists():
        return
    known = json.loads(path.read_text()).values()
    for pid, since in known:
        send(pid, since, signal.SIGTERM)
    end = time.monotonic() + _STOP
    while any(alive(pid, since) for pid, since in known) and time.monotonic() < end:
        time.sleep(0.1)
    for pid, since in known:
        end_session(pid, since)  # what did not stop, and what a killed server has left
    path.unlink(missing_ok=True)  # its owner may be ending just now
