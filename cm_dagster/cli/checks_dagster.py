"""Checks of the Dagster instance, for ``cm doctor``: storage, coordinator, launcher, daemon, sensors."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm_dagster.cli.checks import Finding

if TYPE_CHECKING:
    import dagster as dg

__all__ = [
    "check_coordinator",
    "check_daemon",
    "check_daemon_environment",
    "check_instance",
    "check_launcher",
    "check_sensors",
    "check_storage",
]

_DAEMONS = ("SENSOR", "QUEUED_RUN_COORDINATOR", "BACKFILL")
"""Parts of Dagster's daemon without which campaigns do not move."""
_AHEAD = 60.0
"""Seconds from which on a sign of life in the future is no matter of clocks that differ a little."""
_SQLITE_RUNS = 1000
"""Number of runs from which on SQLite becomes too slow."""
_STOCK = "PostgreSQL (Dagster's own storage)"
_BACKFILLS = "DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR"
_TEMPLATE = (
    "take the section from the dagster.yaml that comes with cm_dagster, and restart daemon, web UI and code servers"
)
_START = "start `dagster-daemon run` with the same DAGSTER_HOME, or look into its log"


def check_storage(instance: dg.DagsterInstance) -> Iterator[Finding]:
    """Check that the storage answers, and suits the number of runs."""
    runs = instance.get_runs_count()
    storage = _storage(instance)
    where = f"{storage} answers, {runs} runs"
    if storage == "SQLite" and runs >= _SQLITE_RUNS:
        advice = "move to PostgreSQL (the block `storage` in dagster.yaml) before the next campaign"
        yield Finding("storage", "warn", f"{where}: SQLite becomes slow from about {_SQLITE_RUNS}", advice)
    elif storage == _STOCK:
        text = f"{where}: it opens a connection for each call, and of two writers of a run one may lose its tags"
        advice = (
            "name cm_dagster's PooledPostgresStorage in the block `storage` of dagster.yaml, with the same"
            " `postgres_db`, and restart daemon, web UI and code servers; the data stays as it is"
        )
        yield Finding("storage", "warn", text, advice)
    else:
        yield Finding("storage", "ok", where)


def _storage(instance: dg.DagsterInstance) -> str:
    kind = type(instance.run_storage).__name__
    if kind == "PooledRunStorage":
        return "PostgreSQL (PooledPostgresStorage)"
    return {"SqliteRunStorage": "SQLite", "PostgresRunStorage": _STOCK}.get(kind, kind)


def check_instance(instance: dg.DagsterInstance) -> Iterator[Finding]:
    """Check that the instance is of our class, without which Dagster's daemon may cancel attempts by itself."""
    from cm_dagster.ledger.instance import CampaignInstance

    if isinstance(instance, CampaignInstance):
        yield Finding("instance", "ok", "CampaignInstance: only a person cancels an attempt")
    else:
        text = "dagster.yaml has no `instance_class`: a backfill that fails would have its workflows cancelled"
        yield Finding("instance", "fail", text, _TEMPLATE)


def check_coordinator(instance: dg.DagsterInstance) -> Iterator[Finding]:
    """Check that our run coordinator is in use, with the rule that keeps attempts from Dagster's own launching."""
    from cm_dagster.ledger import tags
    from cm_dagster.ledger.coordinator import CampaignRunCoordinator

    coordinator = instance.run_coordinator
    if not isinstance(coordinator, CampaignRunCoordinator):
        text = f"{type(coordinator).__name__} is in use, not cm_dagster's CampaignRunCoordinator: no run is an attempt"
        yield Finding("coordinator", "fail", text, _TEMPLATE)
        return
    queue = instance.get_concurrency_config().run_queue_config
    limits = list(queue.tag_concurrency_limits) if queue else []
    rule = {"key": tags.KIND, "value": tags.WORKFLOW, "limit": 0}
    if rule not in [dict(limit) for limit in limits]:
        text = f"the rule {{key: {tags.KIND}, value: {tags.WORKFLOW}, limit: 0}} is missing from tag_concurrency_limits"
        yield Finding("coordinator", "fail", f"{text}: Dagster would launch attempts itself", _TEMPLATE)
    elif queue is not None and queue.max_concurrent_runs != -1:
        text = (
            f"max_concurrent_runs is {queue.max_concurrent_runs}: workflows in flight count, and block all other runs"
        )
        yield Finding("coordinator", "fail", text, "set it to -1; the limits by tag hold back ordinary runs")
    else:
        yield Finding(
            "coordinator", "ok", "CampaignRunCoordinator, with the rule for attempts and no limit on all runs"
        )


def check_launcher(instance: dg.DagsterInstance) -> Iterator[Finding]:
    """Check that our run launcher is in use."""
    from cm_dagster.ledger.launcher import CampaignRunLauncher

    launcher = instance.run_launcher
    if isinstance(launcher, CampaignRunLauncher):
        inner = type(launcher.inner).__name__
        yield Finding("launcher", "ok", f"CampaignRunLauncher; runs other than attempts go to {inner}")
    else:
        text = (
            f"{type(launcher).__name__} is in use, not cm_dagster's CampaignRunLauncher: Terminate cancels no workflow"
        )
        yield Finding("launcher", "fail", text, _TEMPLATE)


def check_daemon(instance: dg.DagsterInstance) -> Iterator[Finding]:
    """Check that the parts of Dagster's daemon that campaigns need are alive."""
    from cm_dagster.ledger.pulse import DAEMON_DEAD

    beats = instance.get_daemon_heartbeats()
    now = time.time()
    ages = {name: now - beats[name].timestamp if name in beats else None for name in _DAEMONS}
    dead = [f"{name.lower()} ({_ago(age)})" for name, age in ages.items() if age is None or age > DAEMON_DEAD]
    if len(dead) == len(_DAEMONS):
        newest = min((age for age in ages.values() if age is not None), default=None)
        yield Finding("daemon", "fail", f"Dagster's daemon does not run (last sign of life: {_ago(newest)})", _START)
    elif dead:
        yield Finding("daemon", "fail", f"parts of Dagster's daemon give no sign of life: {', '.join(dead)}", _START)
    else:
        oldest = max(age for age in ages.values() if age is not None)
        yield Finding("daemon", "ok", f"alive (last sign of life: {_ago(oldest)})")
    if (ahead := -min((age for age in ages.values() if age is not None), default=0.0)) > _AHEAD:
        text = f"its last sign of life is {ahead / 60:.0f} min in the future: a clock was set back"
        yield Finding("daemon", "warn", text, "check the hosts' clocks, and restart the daemon: parts of it wait")
    for name in _DAEMONS:
        errors = beats[name].errors if name in beats else None
        if errors:
            text = errors[0].message.strip()
            yield Finding("daemon", "warn", f"{name.lower()} reports: {text}", "see the log of the daemon")


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    return f"{seconds:.0f} s ago" if seconds < 120 else f"{seconds / 60:.0f} min ago"


def check_daemon_environment(home: Path) -> Iterator[Finding]:
    """Check the environment of a daemon of this user on this host; it can't be seen on another one.

    Parameters
    ----------
    home
        Dagster's home folder.
    """
    for environment in _daemons_here(home):
        if environment.get(_BACKFILLS) != "1":
            text = f"the daemon runs without {_BACKFILLS}=1: a code server that restarts fails the backfills under way"
            advice = f"restart the daemon with {_BACKFILLS}=1 in its environment"
            yield Finding("daemon", "warn", f"{text}; their attempts go on, but nothing more is launched", advice)


def _daemons_here(home: Path) -> Iterator[dict[str, str]]:
    """Give the environments of this user's processes that are a daemon of this instance (Linux)."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            if b"dagster-daemon" not in command and b"dagster._daemon" not in command:
                continue
            lines = os.fsdecode((folder / "environ").read_bytes()).split("\0")
        except OSError:  # ended meanwhile, or another user's
            continue
        environment = dict(line.split("=", 1) for line in lines if "=" in line)
        if environment.get("DAGSTER_HOME", "").rstrip("/") == str(home).rstrip("/"):
            yield environment


def check_sensors(instance: dg.DagsterInstance) -> Iterator[Finding]:
    """Check how the latest tick of each sensor, and of the nightly audit's schedule, went."""
    states = instance.all_instigator_state()
    sensors = sum(state.instigator_type.value == "SENSOR" for state in states)
    if not sensors:
        text = "no sensor has ever run: the code server is not loaded"
        yield Finding("sensors", "warn", text, "start the code server, and look at Deployment in the web UI")
    bad = 0
    for state in states:
        for finding in _sensor(instance, state):
            bad += 1
            yield finding
    if sensors and not bad:
        yield Finding("sensors", "ok", f"{sensors} sensors, the latest tick of each went well")


def _sensor(instance: dg.DagsterInstance, state: Any) -> Iterator[Finding]:
    if state.status.value == "STOPPED":
        yield Finding(
            "sensors", "warn", f"{state.name} is stopped", "start it in the web UI unless it is to be stopped"
        )
        return
    ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
    if ticks and ticks[0].status.value == "FAILURE":
        error = ticks[0].error.message.strip() if ticks[0].error else "no error was given"
        yield Finding(
            "sensors", "warn", f"the latest tick of {state.name} failed: {error}", "see its ticks in the web UI"
        )
