"""A whole deployment for benchmarks: real daemon, code server, sensors and ops, and a fake WMS that answers at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from lsst.daf.butler import Butler

from cm_dagster.control.steps import collected_key
from cm_dagster.ledger import campaigns
from cm_dagster.ledger.pulse import read_ticks
from cm_dagster.local.deployment import Deployment
from cm_dagster.local.servers import Servers, code_server
from cm_dagster.local.survey import Survey, make_synthetic_survey
from cm_dagster.local.survey_raws import RawFiles
from cm_dagster.plan.names import AttemptId, StepId, group_name
from cm_dagster.spec import CampaignSpec
from cm_dagster.testing.fakewms.session import connect
from cm_dagster.testing.fakewms.store import HOME, FakeWms
from cm_dagster.testing.postgres import Database, PostgresServer
from cm_dagster_tests.bench.code_location import OUTPUT
from cm_dagster_tests.bench.processes import is_worker, postmaster, tree
from cm_dagster_tests.bench.stand_in_bps import make_stack
from cm_dagster_tests.integration.databases import connected, pooled
from cm_dagster_tests.system.rig import wait_for

__all__ = ["AT_ONCE", "CAMPAIGN", "SITE", "TICK", "Land", "open_land"]

AT_ONCE = 1e6
"""Workflows that end in a second, where each ends as soon as it appears."""
CAMPAIGN = "bench"
SITE = "here"
TICK = 5.0
"""Seconds between two ticks of a sensor, and between two looks of Dagster's daemon at its queue, in most benchmarks."""
_SERVICE = "cm_dagster.testing.fakewms.service.FakeWmsService"


class _Servers(Servers):
    """Code server and daemon alone."""

    @property
    def names(self) -> list[str]:
        return [*(code_server(site) for site in self.deployment.names), "daemon"]

    def wait(self) -> None:
        """Wait for nothing: whoever creates a campaign waits for it to be loaded."""

    def _command(self, name: str) -> list[str]:
        found = super()._command(name)
        return ["cm_dagster_tests.bench.code_location" if word == "cm_dagster.definitions" else word for word in found]


@dataclass(frozen=True)
class Land:
    """A deployment under measurement."""

    deployment: Deployment
    survey: Survey
    instance: dg.DagsterInstance
    servers: Servers
    wms: Mapping[str, FakeWms]
    """By site."""
    database: Database | None
    """Dagster's, if it is on PostgreSQL."""
    postmaster: int | None
    """Process id of its server."""

    @property
    def roots(self) -> dict[str, int]:
        """Process ids of what is measured."""
        *codes, daemon = (self.servers.running[name].pid for name in self.servers.names)
        names = ["code server"] if len(codes) == 1 else [f"code server {site}" for site in self.wms]
        found = {"daemon": daemon, **dict(zip(names, codes, strict=True))}
        return {**found, "PostgreSQL": self.postmaster} if self.postmaster else found

    # ---------------------------------------------------------------------------------------------- the campaign

    def create(self, groups: int, steps: int) -> list[str]:
        """Create a campaign of so many steps, one after another, of so many groups each; gives the steps' names."""
        names = [f"step{number}" for number in range(1, steps + 1)]
        self._make_outputs(names, groups)
        spec = CampaignSpec.model_validate(self._document(groups, names))
        campaigns.create(self.instance, spec, user="bench", reason="bench")
        wait_for("the campaign to be loaded", self._is_loaded, 600.0)
        return names

    def start(self) -> None:
        """Let the campaign go."""
        campaigns.start(self.instance, CAMPAIGN, user="bench", reason="bench")

    def wait_for_end(self, last: str, patience: float) -> None:
        """Wait until the last step is collected and no run of it is left."""
        key = collected_key(CAMPAIGN, last)

        def look() -> bool:
            records = self.instance.get_asset_records([key])
            return any(record.asset_entry.last_materialization_storage_id for record in records)

        wait_for("the end of the campaign", look, patience, every=1.0)
        self.wait_for_runs()

    def wait_for_flight(self, groups: int, patience: float) -> None:
        """Wait until so many workflows are at the WMS and no run is left."""
        wait_for("all workflows at the WMS", lambda: len(self.living()) == groups, patience, every=1.0)
        self.wait_for_runs()

    def wait_for_runs(self) -> None:
        """Wait until no run is left."""
        codes = [pid for kind, pid in self.roots.items() if kind.startswith("code server")]

        def look() -> bool:
            return not any(is_worker(pid) for code in codes for pid in tree(code))

        wait_for("the end of its runs", look, 120.0, every=0.5)

    def _document(self, groups: int, names: list[str]) -> dict[str, Any]:
        cut = {"dimension": "visit", "dataset": "raw", "size": 1}
        needs = dict(zip(names[1:], names, strict=False))
        return {
            "campaign": CAMPAIGN,
            "butler": {
                "input": [self.survey.defaults],
                "output": OUTPUT,
                "where": f"{self.survey.where} AND visit <= {groups}",
            },
            "pipeline": "/nope/DRP.yaml",
            "stack": {"setup": "script", "script": make_stack(self.deployment.folder / "stack")},
            "sites": dict.fromkeys(self.wms, 1.0 / len(self.wms)),
            "steps": {
                name: {"pipeline": f"#{name}", "group_by": cut, "needs": [needs[name]] if name in needs else []}
                for name in names
            },
        }

    def _make_outputs(self, names: list[str], groups: int) -> None:
        """Make the RUN collection of each group, which its workflow would make; so it costs nothing that is counted."""
        with Butler.from_config(str(self.survey.root), writeable=True) as butler, butler.transaction():
            for name in names:
                for number in range(groups):
                    attempt = AttemptId(StepId(CAMPAIGN, name, SITE), group_name(number, groups), 1)
                    butler.collections.register(attempt.run(OUTPUT))

    def _is_loaded(self) -> bool:
        sites = [site for site in self.wms if site != SITE]
        ticks = {site: [tick.sensor for tick in read_ticks(self.instance, site) if tick.time] for site in self.wms}
        return "advance" in ticks[SITE] and all(f"dispatch_{site}" in ticks[site] for site in sites)

    # ---------------------------------------------------------------------------------------------------- the WMS

    @contextmanager
    def answering(self, rate: float = AT_ONCE) -> Iterator[None]:
        """Have the WMSs end workflows with success, the oldest first.

        Parameters
        ----------
        rate
            How many of them in a second, which run until then; by default each ends as soon as it appears.
        """
        over = threading.Event()

        def answer() -> None:
            began, done = time.monotonic(), 0
            while not over.wait(0.2):
                due, living = rate * (time.monotonic() - began) - done, self.living()
                if not living:  # nobody catches up on what could not end
                    began, done = time.monotonic(), 0
                for site, wms_id, _ in living[: int(due)]:
                    self.wms[site].set(wms_id, "SUCCEEDED")
                    done += 1
                for site, wms_id, state in living[int(due) :]:
                    if state == "PENDING":
                        self.wms[site].set(wms_id, "RUNNING")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def living(self) -> list[tuple[str, str, str]]:
        """Sites, ids and states of the workflows that have not ended, the oldest first."""
        found = []
        for site, wms in self.wms.items():
            with closing(connect(wms.home)) as db:
                rows = db.execute("SELECT submitted, id, state FROM workflow WHERE state IN ('PENDING', 'RUNNING')")
                found += [(submitted, site, str(wms_id), state) for submitted, wms_id, state in rows]
        return [(site, wms_id, state) for _, site, wms_id, state in sorted(found)]

    # -------------------------------------------------------------------------------------------------- the storage

    def size(self) -> float:
        """Size of Dagster's storage in MB."""
        if self.database is None:
            files = (path for path in self.deployment.home.rglob("*") if path.is_file())
            return sum(path.stat().st_size for path in files) / 1e6
        return float(self._ask("SELECT pg_database_size(current_database())")) / 1e6

    def transactions(self) -> int:
        """Number of transactions of Dagster's database so far; a statement alone is one."""
        if self.database is None:
            return 0
        time.sleep(1.5)  # PostgreSQL's own count is a second late
        query = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
        return int(self._ask(query))

    def ticks(self) -> float:
        """Number of ticks of a sensor so far, on an average; for a deployment on PostgreSQL."""
        return float(self._ask("SELECT count(*)::float / count(DISTINCT selector_id) FROM job_ticks"))

    def _ask(self, query: str) -> Any:
        assert self.database is not None
        with connected(self.database) as connection:
            row = connection.execute(query.encode()).fetchone()
        return row[0] if row else None


@contextmanager
def open_land(
    folder: Path,
    groups: int,
    *,
    postgres: bool = True,
    in_flight: int = 500,
    batch: int = 100,
    sites: Sequence[str] = (SITE,),
    tick: float = TICK,
    dequeue: int = int(TICK),
) -> Iterator[Land]:
    """Start a deployment.

    Parameters
    ----------
    folder
        Where its files are to be; it is made.
    groups
        Most groups of a step.
    postgres
        Whether Dagster's storage is PostgreSQL, or SQLite.
    in_flight
        Most workflows at each site at a time.
    batch
        Most workflows that one submit run takes.
    sites
        Names of the sites, of one Butler; the first one is the home site.
    tick
        Seconds between two looks at the WMS.
    dequeue
        Seconds between two looks of Dagster's daemon at its queue.
    """
    deployment = Deployment(folder)
    survey = make_synthetic_survey(
        folder / "repo", visits=groups, detectors=1, tracts=1, patches=1, raws=RawFiles.SHARED
    )
    wms = {site: FakeWms(folder / "wms_state" / site) for site in sites}
    document = {
        site: {
            "home": site == SITE,
            "butler": str(survey.root),
            "submit_area": str(deployment.submit_area(site)),
            "wms": {"service": _SERVICE, "compute_site": "fake", "settle": 0.0},
            "submit": {"batch": batch},
            "limits": {"in_flight": in_flight},
            "tick": tick,
            "env": {HOME: str(wms[site].home)},
        }
        for site in sites
    }
    deployment.write({"sites": document}, dequeue_seconds=dequeue)
    with ExitStack() as stack:
        server = stack.enter_context(PostgresServer()) if postgres else None
        database = server.create("dagster") if server else None
        if database:
            _use(deployment, pooled(database))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in deployment.environment(SITE).items():
            patch.setenv(name, value)
        instance = stack.enter_context(dg.DagsterInstance.get())
        instance.get_runs(limit=1)
        instance.get_asset_keys()
        instance.all_instigator_state()
        servers = stack.enter_context(_Servers(deployment))
        yield Land(deployment, survey, instance, servers, wms, database, postmaster(server) if server else None)


def _use(deployment: Deployment, storage: Mapping[str, Any]) -> None:
    path = deployment.home / "dagster.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "storage": dict(storage)}))
