"""A whole deployment on this machine, and campaigns on it that tests can look at and act on."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from cm_dagster.control.overview import CampaignView, overview
from cm_dagster.ledger import campaigns
from cm_dagster.ledger.refusal import attempts_at
from cm_dagster.local.deployment import Deployment
from cm_dagster.local.minidrp import PIPELINE
from cm_dagster.local.servers import Servers
from cm_dagster.local.survey import Survey
from cm_dagster.local.wms.process import born, end_session
from cm_dagster.plan.names import StepId
from cm_dagster.services.wms import WmsClient, WorkflowReport
from cm_dagster.spec import CampaignSpec, load_campaign, load_sites
from cm_dagster.testing.graphql import Launched, Partitions, Run, WebUi

SITE = "local"
"""Name of the site."""
CODE = f"code-{SITE}"
"""Name of its code server."""
PATIENCE = 180.0
"""Seconds that anything may take that comes by itself; on a quiet machine it takes a tenth of that."""
MONITORING = 2
"""Seconds between two looks of Dagster's run monitoring."""
TICK = 2.0
"""Seconds between two ticks of a sensor that are asked for; Dagster's daemon makes it 5."""
TICKS = 16.0
"""Seconds in which every sensor ticks at least twice: what was to happen by itself has happened then."""
_TOOLS = Path(sys.executable).parent


def wms_rows(home: Path, query: str) -> list[tuple[Any, ...]]:
    """Read the state of a local WMS without its help: its commands would act on what they find."""
    with closing(sqlite3.connect(f"file:{home}/wms.sqlite?mode=ro", uri=True, timeout=60)) as db:
        return db.execute(query).fetchall()


def wait_for[T](what: str, look: Callable[[], T | None], patience: float = PATIENCE, every: float = 1.0) -> T:
    """Look every so often (by default once a second) until there is something to see, and give it.

    Raises
    ------
    AssertionError
        If there is nothing after a time.
    """
    end = time.monotonic() + patience
    while not (seen := look()):
        assert time.monotonic() < end, f"waited {patience:.0f} s for {what}"
        time.sleep(every)
    return seen


@dataclass(frozen=True)
class Rig:
    """A deployment with its servers."""

    deployment: Deployment
    survey: Survey
    servers: Servers
    wms: WmsClient
    instance: dg.DagsterInstance
    prefix: tuple[str, ...] = ()
    """What comes before the command of a program that is run."""

    @property
    def ui(self) -> WebUi:
        """The web UI, as a pilot sees it."""
        return WebUi(self.servers.url, location=SITE, user="pilot")

    def program(self, *words: str | Path, code: int | None = 0, **environment: str) -> str:
        """Run a program of this environment in the deployment, and give its output; None is any exit code."""
        command = [*self.prefix, str(_TOOLS / words[0]), *map(str, words[1:])]
        environment = {**self.deployment.environment(SITE), "COLUMNS": "200", **environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert code in (None, done.returncode), f"{command}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def workflows(self) -> list[WorkflowReport]:
        """All workflows that were ever submitted, as the WMS tells."""
        return list(self.wms.report_all(history=1.0).values())

    def describe(
        self, name: str, *, visits: Sequence[int], steps: Sequence[str] = ("step1",), faults: Sequence[Any] = ()
    ) -> Case:
        """Write a campaign file: a group per visit in the first step, one group in each further step."""
        case = Case(self, name)
        case.set_faults(faults)
        case.file.write_text(yaml.safe_dump(self._document(case, visits, steps)))
        return case

    def campaign(
        self,
        name: str,
        *,
        visits: Sequence[int],
        steps: Sequence[str] = ("step1",),
        faults: Sequence[Any] = (),
        start: bool = False,
    ) -> Case:
        """Create a campaign, and let it go if it is to be started."""
        case = self.describe(name, visits=visits, steps=steps, faults=faults)
        campaigns.create(self.instance, case.spec(), user="pilot", reason="to be tested")
        if start:
            case.start()
        return case

    def _document(self, case: Case, visits: Sequence[int], steps: Sequence[str]) -> dict[str, Any]:
        first, further = steps[0], steps[1:]
        chosen: dict[str, Any] = {
            first: {"pipeline": f"#{first}", "group_by": {"dimension": "visit", "dataset": "raw", "size": 1}}
        }
        for before, step in zip(steps, further, strict=False):
            chosen[step] = {"pipeline": f"#{step}", "needs": [before], "group_by": {"dimension": "visit", "count": 1}}
        listed = ", ".join(map(str, visits))
        return {
            "campaign": case.name,
            "butler": {
                "input": [self.survey.defaults],
                "output": f"u/test/{case.name}",
                "where": f"{self.survey.where} AND visit IN ({listed})",
            },
            "pipeline": str(PIPELINE),
            "sites": SITE,
            "bps": {"environment": {"CM_MINIDRP_FAULTS": str(case.faults_file)}},
            "steps": chosen,
        }

    @contextmanager
    def without_sensor(self, name: str) -> Iterator[None]:
        """Have a sensor switched off for a while, and wait until its last tick is over."""
        # A tick under way writes the sensor's state at its end, and may undo the switch.
        while self.ui.sensor_status(name) != "STOPPED":
            self.ui.stop_sensor(name)
            time.sleep(6.0)
        try:
            yield
        finally:
            self.ui.start_sensor(name)

    def kill(self, name: str) -> None:
        """Have a server die, with all that it has started in its session: its host is gone."""
        process = self.servers.running[name]
        end_session(process.pid, born(process.pid))
        self.servers.stop(name, signal.SIGKILL)

    def revive(self, *names: str) -> None:
        """Start servers that died, and wait until the UI shows the code location again."""
        for name in names:
            self.servers.start(name)
        self.servers.wait()


@dataclass(frozen=True)
class Case:
    """A campaign under test."""

    rig: Rig
    name: str

    @property
    def folder(self) -> Path:
        return self.rig.deployment.folder

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.yaml"

    @property
    def faults_file(self) -> Path:
        return self.folder / f"{self.name}.faults.json"

    def set_faults(self, faults: Sequence[Any]) -> None:
        """Tell the tasks of this campaign from now on what faults to commit."""
        draft = self.faults_file.with_suffix(".draft")
        draft.write_text(json.dumps(list(faults)))
        draft.replace(self.faults_file)  # whole: tasks read it at any moment

    def spec(self) -> CampaignSpec:
        return load_campaign(self.file, load_sites(self.rig.deployment.sites))

    def start(self) -> None:
        """Let the campaign go."""
        campaigns.start(self.rig.instance, self.name, user="pilot", reason="to be tested")

    def view(self) -> CampaignView:
        """Where the campaign stands."""
        return overview(self.rig.instance, [self.name])[0]

    def count(self, step: str = "step1") -> dict[str, int]:
        """Number of groups of a step by state, those in which there are any."""
        (found,) = [each for each in self.view().steps if each.step == step]
        return {str(state): count for state, count in found.groups.items() if count}

    def wait_until_done(self) -> None:
        """Wait until the campaign is done."""
        wait_for(f"the end of {self.name}", lambda: self.view().state == "done", 2 * PATIENCE)

    def step(self, step: str) -> StepId:
        return StepId(self.name, step, SITE)

    def key(self, step: str = "step1", stage: str = SITE) -> tuple[str, str, str]:
        """Asset key of a step's groups, or of its ``inputs`` or ``collected``."""
        return (self.name, step, stage)

    def wait_for_assets(self) -> None:
        """Wait until the UI shows the campaign."""
        wait_for(f"assets of {self.name}", lambda: self.key() in self.rig.ui.assets())

    def make_groups(self, step: str = "step1") -> list[str]:
        """Materialize a step's inputs by hand, and give the names of its groups."""
        self.wait_for_assets()
        run = self.rig.ui.launch([self.key(step, "inputs")])
        wait_for(f"inputs of {step}", lambda: self.rig.ui.run(run.run_id).status == "SUCCESS")
        return sorted(self.partitions(step).unmaterialized)

    def partitions(self, step: str = "step1") -> Partitions:
        return self.rig.ui.partitions(self.key(step))

    def launch(self, group: str, step: str = "step1") -> Launched:
        """Materialize a group as the UI does."""
        return self.rig.ui.launch([self.key(step)], group)

    def attempts(self, group: str, step: str = "step1") -> list[Run]:
        """Runs that are attempts at a group, the first one first; those that were turned away at once are none."""
        found = attempts_at(self.rig.instance, self.step(step).tag, group, but="")
        return [self.rig.ui.run(run.run_id) for run in found]

    def runs(self, step: str = "step1") -> list[Run]:
        """All attempts at a step."""
        return self.rig.ui.runs({"cm/kind": "workflow", "cm/step": self.step(step).tag})

    def wait_until(self, run_id: str, *statuses: str) -> Run:
        """Wait until a run has one of the statuses; another end is a failure."""

        def look() -> Run | None:
            run = self.rig.ui.run(run_id)
            over = run.status in ("SUCCESS", "FAILURE", "CANCELED")
            assert not over or run.status in statuses, (run.status, self.end_message(run))
            return run if run.status in statuses else None

        return wait_for(f"{' or '.join(statuses)} of {self.name} {run_id}", look)

    def wait_until_running(self, run_id: str) -> Run:
        """Wait until jobs of an attempt's workflow run."""

        def look() -> Run | None:
            run = self.rig.ui.run(run_id)
            assert run.status in ("QUEUED", "STARTED"), run.status
            return run if run.tags.get("cm/state") == "running" else None

        return wait_for(f"running jobs of {self.name} {run_id}", look)

    def first_attempt(self, group: str) -> Run:
        """Wait until a group has an attempt, and give its first."""
        return wait_for(f"an attempt at {self.name} {group}", lambda: self.attempts(group))[0]

    def wait_until_cancelled(self, wms_id: str) -> None:
        """Wait until the WMS says that a workflow was cancelled."""
        wait_for(f"the cancellation of {wms_id}", lambda: self.workflow(wms_id).state == "cancelled")

    def end_message(self, run: Run) -> str:
        """What was said when a run ended."""
        return "\n".join(self.rig.ui.messages(run.run_id, _ENDS[run.status]))

    def submitted(self, step: str = "step1") -> Counter[str]:
        """How often each workflow of a step was submitted, by ``<group>.<attempt>``."""
        prefix = f"{self.step(step).tag.replace('/', '.')}."
        names = (report.name for report in self.rig.workflows())
        return Counter(name.removeprefix(prefix) for name in names if name.startswith(prefix))

    def workflow(self, wms_id: str) -> WorkflowReport:
        """What the WMS says of a workflow."""
        report = self.rig.wms.report_one(wms_id, 1.0)
        assert report is not None
        return report


_ENDS = {"SUCCESS": "RunSuccessEvent", "FAILURE": "RunFailureEvent", "CANCELED": "RunCanceledEvent"}
