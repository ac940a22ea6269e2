"""A real Dagster instance with our dagster.yaml, and what launches, attempts and campaigns need on it."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.selector import JobSubsetSelector
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test, in_process_test_workspace
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import BaseWorkspaceRequestContext

from cm_dagster.control import site as sites
from cm_dagster.control.site import Site
from cm_dagster.control.steps import inputs_key
from cm_dagster.control.submit import Submission, submit
from cm_dagster.control.watch import Seen, watch
from cm_dagster.ledger import campaigns, events, tags
from cm_dagster.ledger.attempts import Attempt, read_attempt
from cm_dagster.ledger.plans import Plan, save_plan
from cm_dagster.local.deployment import Deployment
from cm_dagster.plan.groups import Group
from cm_dagster.plan.names import AttemptId, StepId, group_name
from cm_dagster.policy.states import State
from cm_dagster.spec import CampaignSpec, SiteSpec
from cm_dagster_tests.integration.stand_ins import ScriptedSubmitter, ScriptedWms

SITE = "here"
STEP1 = StepId("camp", "step1", SITE)
LOG = logging.getLogger("cm_dagster_tests")
FINALIZE = f"finalize_{SITE}"
SUBMIT = f"submit_{SITE}"
_ORIGIN = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(SITE), "__repository__")


def make_spec(**changes: Any) -> CampaignSpec:
    steps = {
        "step1": {"pipeline": "#step1"},
        "step2": {"pipeline": "#step2", "needs": ["step1"]},
        "step3": {"pipeline": "#step3", "needs": ["step1", "step2"], "gate": "sign-off"},
    }
    document = {
        "campaign": "camp",
        "butler": {"input": ["HSC/defaults"], "output": "u/camp"},
        "pipeline": "/nope/DRP.yaml",
        "sites": SITE,
        "steps": steps,
    }
    return CampaignSpec.model_validate({**document, **changes})


class Rig:
    """One site with its ledger, and stand-ins for its WMS and for ``bps submit``."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance, spec: SiteSpec) -> None:
        self.folder = folder
        self.instance = instance
        self.site = Site(SITE, spec)
        self.wms = ScriptedWms()
        self.submitter = ScriptedSubmitter(spec, self.wms)
        self.site.__dict__.update(wms=self.wms, submitter=self.submitter)
        self._submit_runs = itertools.count()

    def restrict(self, **changes: Any) -> None:
        """Give the site other settings."""
        self.site.spec = self.site.spec.model_copy(update=changes)

    # ------------------------------------------------------------------------------------------------- campaigns

    def create(self, spec: CampaignSpec | None = None, *, start: bool = True) -> CampaignSpec:
        spec = spec or make_spec()
        campaigns.create(self.instance, spec, user="pilot")
        if start:
            campaigns.start(self.instance, spec.campaign, user="pilot")
        return spec

    def plan(self, groups: int, step: str = "step1", campaign: str = "camp") -> list[str]:
        """Make groups of a step, as its ``inputs`` asset does."""
        made = tuple(Group(group_name(n, groups), f"visit = {n}", 1, None, f"visit {n}", SITE) for n in range(groups))
        save_plan(self.instance, Plan(campaign, step, made), begun=False)
        self.materialize(inputs_key(campaign, step))
        return [group.name for group in made]

    def materialize(self, key: dg.AssetKey) -> None:
        self.instance.report_runless_asset_event(dg.AssetMaterialization(key))

    # -------------------------------------------------------------------------------------------------- attempts

    def queue(
        self,
        group: str,
        number: int = 1,
        step: StepId = STEP1,
        *,
        parent: str | None = None,
        more: Mapping[str, str] | None = None,
    ) -> str:
        """Make a queued attempt, as the coordinator does; gives the id of its run."""
        run: dg.DagsterRun = create_run_for_test(
            self.instance,
            job_name=step.job,
            status=dg.DagsterRunStatus.QUEUED,
            remote_job_origin=RemoteJobOrigin(_ORIGIN, step.job),
            parent_run_id=parent,
            root_run_id=parent,
            asset_selection=frozenset({dg.AssetKey(step.asset)}),
            tags={
                tags.KIND: tags.WORKFLOW,
                tags.STEP: step.tag,
                tags.GROUP: f"{step.tag}|{group}",
                tags.ATTEMPT: str(number),
                tags.STATE: State.QUEUED.value,
                tags.PARTITION: group,
                **(more or {}),
            },
        )
        self.instance.add_run_tags(run.run_id, {tags.OF: run.run_id})
        return run.run_id

    def attempt(self, run_id: str) -> Attempt:
        found = read_attempt(self.instance, run_id)
        assert found is not None
        return found

    def accept(self, group: str, number: int = 1, step: StepId = STEP1) -> str:
        """Make an accepted attempt."""
        run_id = self.begin(group, number, step)
        events.accept(self.instance, events.Acceptance(self.attempt(run_id), "good", {}))
        return run_id

    def fail(self, group: str, number: int = 1, step: StepId = STEP1) -> str:
        run_id = self.begin(group, number, step)
        events.fail(self.instance, self.attempt(run_id), "bad")
        return run_id

    def begin(self, group: str, number: int = 1, step: StepId = STEP1, state: State = State.RUNNING) -> str:
        """Make an attempt whose workflow is at the WMS."""
        return self.carry_on(self.queue(group, number, step), state)

    def carry_on(self, run_id: str, state: State) -> str:
        """Bring a queued attempt to a state in which its workflow is at the WMS."""
        attempt = self.attempt(run_id)
        events.start(self.instance, attempt)
        wms_id = self.wms.add(attempt.id.workflow)
        folder = attempt.id.folder(self.site.area)
        sent = events.Sent(attempt, wms_id, str(folder / "submit-1"), attempt.id.run("u/camp"))
        events.submitted(self.instance, sent)
        self.instance.add_run_tags(run_id, {tags.STATE: state.value})
        return run_id

    def state(self, run_id: str) -> State:
        return self.attempt(run_id).state

    def terminate(self, run_id: str, *, force: bool = False) -> None:
        """Do what Terminate in the UI does."""
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        if force:
            self.instance.report_run_canceling(run)
            self.instance.report_run_canceled(run)
        else:
            self.instance.run_coordinator.cancel_run(run_id)

    def end_message(self, run_id: str) -> str:
        kinds = {dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_CANCELED, dg.DagsterEventType.RUN_SUCCESS}
        records = self.instance.get_records_for_run(run_id, of_type=kinds, ascending=False).records
        event = records[0].event_log_entry.dagster_event
        return (event.message if event else None) or ""

    def notes(self, run_id: str) -> str:
        """All that was written for the reader of a run's page."""
        kind = dg.DagsterEventType.ENGINE_EVENT
        records = self.instance.get_records_for_run(run_id, of_type=kind).records
        found = (record.event_log_entry.dagster_event for record in records)
        return "\n".join(event.message or "" for event in found if event)

    # ---------------------------------------------------------------------------------------------------- control

    def submit(self, *run_ids: str) -> Submission:
        """Do what a run of the submit job does."""
        return submit(self.instance, self.site, run_ids, f"submit-run-{next(self._submit_runs)}", LOG)

    def watch(self) -> Seen:
        """Do what a tick of the watch sensor does."""
        return watch(self.instance, self.site, LOG, FINALIZE)

    def age(self, attempt: AttemptId, seconds: float) -> None:
        """Make all that was done for an attempt older."""
        then = time.time() - seconds
        group = attempt.folder(self.site.area).parent
        for path in [*group.rglob("*")]:
            os.utime(path, (then, then))


@contextmanager
def open_rig(
    folder: Path, blank: Path, site: Mapping[str, Any] | None = None, storage: Mapping[str, Any] | None = None
) -> Iterator[Rig]:
    """Make a deployment in a folder and open its instance.

    Parameters
    ----------
    folder
        The folder.
    blank
        ``DAGSTER_HOME`` of an instance with nothing in it, to be copied: making its databases takes a second.
    site
        Settings of the site other than the usual ones.
    storage
        The block ``storage`` of dagster.yaml; None for SQLite.
    """
    deployment = Deployment(folder / "deployment")
    document = {
        "butler": str(folder / "repo"),
        "submit_area": str(deployment.submit_area(SITE)),
        "wms": {"service": "cm_dagster.local.wms.LocalWmsService", "compute_site": "local", "settle": 0.0},
        **(site or {}),
    }
    deployment.folder.mkdir()
    shutil.copytree(blank, deployment.home)
    deployment.write({"sites": {SITE: document}})
    use_storage(deployment, storage)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in deployment.environment(SITE).items():
            patch.setenv(name, value)
        patch.delenv("CM_SITE", raising=False)
        _forget()
        with dg.DagsterInstance.get() as instance:
            yield Rig(folder, instance, sites.current_site().spec)
    _forget()


def make_blank(folder: Path, storage: Mapping[str, Any] | None = None) -> Path:
    """Make the ``DAGSTER_HOME`` of an instance with nothing in it."""
    deployment = Deployment(folder)
    deployment.write({"sites": {}})
    use_storage(deployment, storage)
    with dg.DagsterInstance.from_config(str(deployment.home)) as instance:
        instance.get_runs(limit=1)
        instance.get_asset_keys()
        instance.all_instigator_state()
    return deployment.home


def use_storage(deployment: Deployment, storage: Mapping[str, Any] | None) -> None:
    """Put the block ``storage`` into a deployment's dagster.yaml; nothing for None."""
    if storage is not None:
        path = deployment.home / "dagster.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "storage": dict(storage)}))


def _forget() -> None:
    sites.known_sites.cache_clear()
    sites.current_site.cache_clear()


class Launcher:
    """Launches runs as the UI, a backfill or a sensor do: through the definitions and the run coordinator."""

    def __init__(self, instance: dg.DagsterInstance, workspace: BaseWorkspaceRequestContext) -> None:
        self.instance = instance
        self.workspace = workspace
        (self._location,) = workspace.code_locations
        (self._repository,) = self._location.get_repositories().values()

    def launch(
        self,
        group: str | None,
        *,
        assets: Sequence[Sequence[str]] = (STEP1.asset,),
        job: str = "__ASSET_JOB",
        selected: bool = True,
        parent: dg.DagsterRun | None = None,
        more: Mapping[str, str] | None = None,
        checks: Sequence[dg.AssetCheckKey] | None = None,
    ) -> dg.DagsterRun:
        """Launch a run.

        Parameters
        ----------
        group
            Partition; None for none.
        assets
            Assets of the run.
        job
            Job that is launched.
        selected
            Whether the run names its assets; that of a job backfill does not.
        parent
            The run that it re-executes; its tags are copied, as Dagster does.
        more
            Further tags.
        checks
            Asset checks of the run; None for those of its assets.
        """
        keys = [dg.AssetKey(list(path)) for path in assets] if selected else None
        where = JobSubsetSelector(
            location_name=self._location.name,
            repository_name=self._repository.name,
            job_name=job,
            op_selection=None,
            asset_selection=keys,
            asset_check_selection=checks,
        )
        found = self._location.get_job(where)
        plan = self._location.get_execution_plan(
            found, {}, step_keys_to_execute=None, known_state=None, instance=self.instance
        )
        family = {"parent_run_id": parent.run_id, "root_run_id": parent.root_run_id or parent.run_id} if parent else {}
        copied = {key: value for key, value in (parent.tags if parent else {}).items() if key != "dagster/backfill"}
        run = self.instance.create_run(
            job_name=found.name,
            run_id=None,
            run_config={},
            resolved_op_selection=None,
            step_keys_to_execute=None,
            status=dg.DagsterRunStatus.NOT_STARTED,
            tags={**copied, **({tags.PARTITION: group} if group else {}), **(more or {})},
            root_run_id=family.get("root_run_id"),
            parent_run_id=family.get("parent_run_id"),
            job_snapshot=found.job_snapshot,
            execution_plan_snapshot=plan.execution_plan_snapshot,
            parent_job_snapshot=found.parent_job_snapshot,
            asset_selection=found.asset_selection,
            asset_check_selection=found.asset_check_selection,
            remote_job_origin=found.get_remote_origin(),
            job_code_origin=found.get_python_origin(),
            op_selection=None,
            asset_graph=self._repository.asset_graph,
        )
        return self.instance.submit_run(run.run_id, self.workspace)


@contextmanager
def open_launcher(instance: dg.DagsterInstance) -> Iterator[Launcher]:
    """Load our definitions in this process."""
    target = LoadableTargetOrigin(
        executable_path=sys.executable, module_name="cm_dagster.definitions", attribute="defs"
    )
    with in_process_test_workspace(instance, target) as workspace:
        yield Launcher(instance, workspace)
