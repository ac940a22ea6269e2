"""Where the oracle's facts come from: a WMS, Dagster's storage, a Butler."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from cm_dagster.ledger import campaigns, tags
from cm_dagster.ledger.plans import Plan, load_plans
from cm_dagster.services.wms import WmsState, WorkflowReport
from cm_dagster.testing.fakewms.session import STATE
from cm_dagster.testing.fakewms.store import TWIN, FakeWms
from cm_dagster.testing.oracle.facts import Attempt, AtWms, GroupKey, Step

__all__ = ["attempts_in", "chains_in", "fake_workflows", "reported_workflows", "steps_in", "unmarked_in"]

_STATES = {
    WmsState.PENDING: "PENDING",
    WmsState.RUNNING: "RUNNING",
    WmsState.SUCCEEDED: "SUCCEEDED",
    WmsState.FAILED: "FAILED",
    WmsState.CANCELLED: "DELETED",
    WmsState.HELD: "HELD",
}
_PAGE = 1000
_ENDS = ("SUCCEEDED", "FAILED")


def fake_workflows(home: Path) -> list[AtWms]:
    """Read the truth of a fake WMS and its log.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    if not home.is_dir():
        raise FileNotFoundError(f"there is no fake WMS in {home}")
    if not (home / STATE).exists():
        return []  # it was never used
    wms = FakeWms(home)
    requests = wms.requests()
    submitted = {each.wms_id: each.time for each in requests if each.kind == "submit" and each.wms_id}
    ended = {each.wms_id for each in requests if each.kind == "became" and each.outcome in _ENDS}
    twins = {each.wms_id for each in requests if each.kind == "submit" and each.outcome == TWIN}
    return [
        AtWms(each.wms_id, each.name, each.state, submitted[each.wms_id], each.wms_id in ended, each.wms_id in twins)
        for each in wms.workflows()
    ]


def reported_workflows(reports: Iterable[WorkflowReport]) -> list[AtWms]:
    """Take what a BPS plugin reports of real workflows.

    A report does not say when a workflow was submitted: the oldest file of its submit directory stands for it, which
    `bps submit` copies there before it does anything else.
    """
    return [
        AtWms(each.wms_id, each.name, state := _STATES.get(each.state, "UNKNOWN"), _made(each), state in _ENDS)
        for each in reports
    ]


def _made(report: WorkflowReport) -> float:
    files = [path for path in Path(report.path or "").glob("*") if path.is_file()] if report.path else []
    if not files:
        raise FileNotFoundError(f"workflow {report.wms_id} ({report.name}) has no submit directory any more")
    return min(path.stat().st_mtime for path in files)


def attempts_in(instance: dg.DagsterInstance) -> list[Attempt]:
    """Read all attempts from Dagster's runs and events."""
    records = [each for each in instance.get_run_records() if _is_attempt(each.dagster_run)]
    made: dict[str, Mapping[str, Any]] = {}
    judged: dict[str, Mapping[str, Any]] = {}
    for step in sorted({each.dagster_run.tags[tags.STEP] for each in records}):
        asset = dg.AssetKey(step.split("/"))
        made.update(_metadata(instance.fetch_materializations, asset))
        judged.update(_metadata(instance.fetch_observations, asset))
    return [_attempt(instance, each, made, {**judged, **made}) for each in records]


def _is_attempt(run: dg.DagsterRun) -> bool:
    # A re-execution that has copied another run's tags is none yet; nor is one that was turned away at once.
    return run.tags.get(tags.KIND) == tags.WORKFLOW and run.tags.get(tags.OF) == run.run_id


def _metadata(fetch: Any, asset: dg.AssetKey) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Read the metadata of an asset's events, by run."""
    cursor = None
    while True:
        page = fetch(asset, limit=_PAGE, cursor=cursor, ascending=True)
        for record in page.records:
            event = record.asset_materialization or record.event_log_entry.asset_observation
            yield record.run_id, {name: value.value for name, value in event.metadata.items()}
        if not page.has_more:
            return
        cursor = page.cursor


def _attempt(
    instance: dg.DagsterInstance,
    record: dg.RunRecord,
    made: Mapping[str, Any],
    judged: Mapping[str, Mapping[str, Any]],
) -> Attempt:
    run = record.dagster_run
    campaign, step, site = run.tags[tags.STEP].split("/")
    verdict = judged.get(run.run_id, {})
    materialized = run.run_id in made
    failed = run.status is dg.DagsterRunStatus.FAILURE
    cancelled = run.status in (dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.CANCELING)
    return Attempt(
        run_id=run.run_id,
        key=GroupKey(campaign, step, site, run.tags[tags.PARTITION]),
        number=int(run.tags[tags.ATTEMPT]),
        status=run.status.value,
        wms_id=run.tags.get(tags.WMS_ID, ""),
        by_person=run.tags.get(tags.BY) != "dispatch",
        parent=run.parent_run_id,
        started=record.start_time,
        ended=record.end_time,
        cancel_asked=_cancel_asked(instance, run) if cancelled else None,
        swept=run.tags.get(tags.CANCELLED) == "yes",
        materialized=materialized,
        expected=verdict.get("quanta expected"),
        registered=verdict.get("quanta registered"),
        by_hand=str(verdict.get("verdict", "")).startswith("accepted by "),
        rejected=_rejected(instance, run) if failed and materialized else None,
        restarts=int((run.tags.get(tags.RESTARTED) or "0").split()[0]),
    )


def _cancel_asked(instance: dg.DagsterInstance, run: dg.DagsterRun) -> float | None:
    """When a person asked for a run's cancellation; Dagster itself does so for a backfill that fails."""
    backfill = run.tags.get("dagster/backfill")
    if backfill and (found := instance.get_backfill(backfill)) and found.status.value in ("FAILING", "FAILED"):
        return None
    kind = dg.DagsterEventType.RUN_CANCELING
    records = instance.get_records_for_run(run.run_id, of_type=kind, limit=1, ascending=True).records
    return records[0].timestamp if records else None


def _rejected(instance: dg.DagsterInstance, run: dg.DagsterRun) -> float | None:
    """When a person rejected a run that had been accepted; None if it has failed otherwise."""
    kind = dg.DagsterEventType.RUN_FAILURE
    records = instance.get_records_for_run(run.run_id, of_type=kind, limit=1, ascending=False).records
    event = records[0].event_log_entry.dagster_event if records else None
    return records[0].timestamp if event and (event.message or "").startswith("Rejected by ") else None


def unmarked_in(instance: dg.DagsterInstance, steps: Sequence[Step]) -> list[str]:
    """Find runs of steps' assets that have not ended and are no attempts."""
    keys = {(step.campaign, step.name) for step in steps}
    over = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
    wanted = dg.RunsFilter(statuses=[status for status in dg.DagsterRunStatus if status not in over])
    found = [run for run in instance.get_runs(wanted) if not _is_attempt(run)]
    return [run.run_id for run in found if any(_is_step(key, keys) for key in run.asset_selection or ())]


def _is_step(key: dg.AssetKey, steps: set[tuple[str, str]]) -> bool:
    return len(key.path) == 3 and tuple(key.path[:2]) in steps and key.path[2] not in ("inputs", "collected")


def steps_in(instance: dg.DagsterInstance, names: Iterable[str] = ()) -> list[Step]:
    """Read the steps of all campaigns that were started, or of some."""
    wanted = set(names)
    found = [each for each in campaigns.load_all(instance).values() if each.started]
    steps = []
    for spec in (each.spec for each in found if not wanted or each.spec.campaign in wanted):
        plans = load_plans(instance, spec.campaign, spec.steps)
        for name in spec.order():
            plan = plans.get(name)
            steps.append(
                Step(
                    campaign=spec.campaign,
                    name=name,
                    needs=tuple(spec.steps[name].needs),
                    groups=_keys(plan) if plan else None,
                    collected=_first(instance, dg.AssetKey([spec.campaign, name, "collected"])),
                    output=spec.butler.output,
                    threshold=spec.settings(name).accept.quanta,
                )
            )
    return steps


def _keys(plan: Plan) -> tuple[GroupKey, ...]:
    return tuple(GroupKey(plan.campaign, plan.step, group.site, group.name) for group in plan.groups)


def _first(instance: dg.DagsterInstance, asset: dg.AssetKey) -> float | None:
    records = instance.fetch_materializations(asset, limit=1, ascending=True).records
    return records[0].timestamp if records else None


def chains_in(repo: str, outputs: Iterable[str]) -> dict[str, Sequence[str]]:
    """Read the chains below output collections of a Butler repository, with their children."""
    from lsst.daf.butler import Butler, CollectionType

    chains: dict[str, Sequence[str]] = {}
    with Butler.from_config(repo) as butler:
        for output in set(outputs):
            found = butler.collections.query_info(f"{output}/*", collection_types=CollectionType.CHAINED)
            chains.update({info.name: info.children for info in found})
    return chains
