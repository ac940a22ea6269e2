"""The audit of a site: whether the ledger, the claims, the WMS and the Butler say the same of all attempts.

The order of the questions keeps what happens meanwhile from looking like a fault: what the ledger said *before* must
be found by the others, and what the others have must be known to the ledger *afterwards*.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from cm_dagster.control.advance import ADVANCE
from cm_dagster.control.dispatch import take_queued
from cm_dagster.control.evidence import Evidence, Gap, gather, recorded
from cm_dagster.control.floor import Floor
from cm_dagster.control.history import iso
from cm_dagster.control.outputs import strangers
from cm_dagster.control.site import Site
from cm_dagster.control.twins import cancel_twins, oldest_first
from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import WmsError
from cm_dagster.ledger import events, tags
from cm_dagster.ledger.admission import find_steps
from cm_dagster.ledger.attempts import read_attempt
from cm_dagster.plan.names import AttemptId
from cm_dagster.policy import audit as rules
from cm_dagster.policy import audit_traces as traces
from cm_dagster.policy.findings import ALARMING, MEANING, Finding, Kind, Known
from cm_dagster.policy.states import State
from cm_dagster.services.wms import WmsState

__all__ = ["Audit", "audit"]

_ORDER = {kind: place for place, kind in enumerate(MEANING)}


@dataclass(frozen=True)
class Audit:
    """What an audit gave."""

    site: str
    began: float
    """Seconds since the epoch."""
    findings: tuple[Finding, ...]
    """The most urgent first."""
    gaps: tuple[Gap, ...]
    """What could not be asked, so that nothing is known of it."""
    looked_at: dict[str, int] = field(default_factory=dict)
    """How many attempts, workflows, claims and collections were compared."""

    @property
    def counts(self) -> dict[Kind, int]:
        """Number of findings of each kind, also of those of which there is none."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in MEANING}

    @property
    def alarming(self) -> list[Finding]:
        """Findings that a person must see at once."""
        return [finding for finding in self.findings if finding.kind in ALARMING]

    @property
    def all_well(self) -> bool:
        """Whether everything was asked, and fits."""
        return not self.findings and not self.gaps

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON can hold it."""
        return {
            "site": self.site,
            "time": iso(self.began),
            "all_well": self.all_well,
            "looked_at": self.looked_at,
            "not_done": [gap.to_json() for gap in self.gaps],
            "counts": {str(kind): count for kind, count in self.counts.items()},
            "findings": [{**finding.to_json(), "since": _iso(finding.since)} for finding in self.findings],
        }


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else iso(seconds)


def audit(
    instance: dg.DagsterInstance,
    site: Site,
    log: logging.Logger,
    *,
    campaigns: Iterable[str] | None = None,
    fix_by: str = "",
) -> Audit:
    """Compare what the ledger, the submit area, the WMS and the Butler of a site say, and report what does not fit.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        The site.
    log
        Where alarming findings go as errors.
    campaigns
        Names of campaigns; by default all.
    fix_by
        Who has live twins cancelled, for the record; empty if nothing is to be changed.

    Raises
    ------
    LedgerError
        If there is no campaign of such a name, or it has nothing at the site.
    """
    evidence = gather(instance, site, campaigns)
    found = [*_compare(evidence), *_stuck(instance, site, evidence)]
    findings = [each for one in found if (each := _confirmed(one, site)) is not None]
    if fix_by:
        findings = [_fix(instance, site, each, fix_by, log) if each.cancel else each for each in findings]
    for each in findings:
        if each.kind in ALARMING:
            log.error("%s: %s: %s%s", each.kind, each.where, each.seen, f"; {each.done}" if each.done else "")
    ordered = sorted(findings, key=lambda each: (_ORDER[each.kind], each.where, each.wms_id))
    return Audit(site.name, evidence.now, tuple(ordered), tuple(evidence.gaps), evidence.looked_at())


def _compare(evidence: Evidence) -> Iterator[Finding]:
    place, runs = evidence.place, evidence.runs
    yield from rules.compare_attempts(runs)
    yield from _compare_workflows(evidence)
    gone = {run.run_id for run in evidence.missing}
    known = (run for run in runs if run.run_id not in gone)
    yield from (stale for run in known if (stale := rules.stale_unknown(run, evidence.now, place)))
    if evidence.claims is not None:
        # A run begins after its claim was made; one that has begun since the claims were read is no finding.
        late = {run.id: owner for run in runs if run.in_hands and (owner := _owner(run, evidence))}
        yield from traces.compare_claims({**evidence.claims, **late}, runs, evidence.owners, place)
    yield from (traces.strange_folder(folder) for folder in evidence.strange_folders)
    yield from _compare_outputs(evidence)


def _owner(run: Known, evidence: Evidence) -> str:
    if evidence.claims is not None and evidence.claims.get(run.id) == run.run_id:
        return run.run_id
    try:
        return evidence.place.claim(run.id).read_text()
    except FileNotFoundError:
        return ""


def _compare_workflows(evidence: Evidence) -> Iterator[Finding]:
    if evidence.flows is None:
        return
    place, names = evidence.place, evidence.names
    if evidence.known is not None:
        yield from rules.strange_campaigns(evidence.flows, evidence.known, place)
    flows = [flow for flow in evidence.flows if flow.attempt.step.campaign in names]
    yield from rules.compare_workflows(flows, evidence.runs, place)
    for run in evidence.missing:
        yield rules.missing_workflow(run, [flow for flow in flows if flow.attempt == run.id], place)


def _compare_outputs(evidence: Evidence) -> Iterator[Finding]:
    known = {(id_.step.campaign, id_.step.step, id_.group, id_.number) for id_ in evidence.owners.values()}
    for each in evidence.outputs:
        yield from traces.compare_outputs(each.promise.accepted, each.collections, each.repo)
        for chain in each.promise.chains:
            if finding := traces.compare_chain(chain, each.collections.get(chain.name), each.repo):
                yield finding
        for id_, name in strangers(each, evidence.place.site, known):
            yield traces.orphan_output(id_, name, each.repo)


def _stuck(instance: dg.DagsterInstance, site: Site, evidence: Evidence) -> Iterator[Finding]:
    """Find what has waited in the queue for more than a day, where the site answers and nothing holds it back."""
    if evidence.flows is None:
        return
    waiting = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED]
    before = datetime.fromtimestamp(evidence.now - rules.DAY, UTC)
    records = instance.get_run_records(dg.RunsFilter(statuses=waiting, created_before=before))
    known = {run.run_id: run for run in evidence.runs}
    free = _free_to_go(instance, site, evidence) if records else set()
    for record in records:
        run, since = record.dagster_run, record.create_timestamp.timestamp()
        queued = run.status is dg.DagsterRunStatus.QUEUED
        attempt = known.get(run.run_id) or _left_behind(instance, run, evidence)
        if attempt and (run.run_id in free or not queued):
            yield rules.stuck(replace(attempt, since=since), evidence.place, queued=queued)
        elif _serves(run, site):
            yield rules.stuck_job(run.run_id, run.job_name, since, queued=queued)


def _free_to_go(instance: dg.DagsterInstance, site: Site, evidence: Evidence) -> set[str]:
    """Runs of the queued attempts that would be handed to the site now: no limit, window or pause holds them back."""
    going = {(run.id.step, run.id.group) for run in evidence.runs if run.in_hands}
    queued = [attempt for attempt in evidence.attempts if attempt.status is dg.DagsterRunStatus.QUEUED]
    waiting = [attempt for attempt in queued if (attempt.id.step, attempt.id.group) not in going]
    return set(take_queued(Floor(instance, site.name, site.spec), waiting))


def _left_behind(instance: dg.DagsterInstance, run: dg.DagsterRun, evidence: Evidence) -> Known | None:
    """Read what a run would be an attempt at that has not come through the coordinator."""
    steps, _ = ([], []) if run.tags.get(tags.KIND) else find_steps(instance, run)
    for step in steps:
        if step.site == evidence.place.site and step.campaign in evidence.names:
            try:
                return Known(AttemptId(step, run.tags.get(tags.PARTITION, ""), 1), run.run_id, State.QUEUED)
            except ValueError:
                return None  # no group
    return None


def _serves(run: dg.DagsterRun, site: Site) -> bool:
    """Whether a run is one of ours that acts on the attempts or steps of a site."""
    kind = run.tags.get(tags.KIND)
    return kind is not None and (run.job_name == f"{kind}_{site.name}" or (kind == ADVANCE and site.spec.home))


def _confirmed(finding: Finding, site: Site) -> Finding | None:
    """Look at a live twin once more: a submission that met it has cancelled it meanwhile."""
    if not finding.cancel:
        return finding
    try:
        report = site.wms.report_one(finding.wms_id, site.spec.wms.history)
    except WmsError:
        return finding  # the list said that it lives, and nobody says otherwise
    if report is None:
        return finding
    ended = report.state in (WmsState.SUCCEEDED, WmsState.FAILED)
    return None if report.state is WmsState.CANCELLED else replace(finding, cancel=not ended)


def _fix(instance: dg.DagsterInstance, site: Site, finding: Finding, who: str, log: logging.Logger) -> Finding:
    """Cancel a live twin by rule: the recorded workflow stays."""
    attempt = read_attempt(instance, finding.run_id)
    ids = recorded(site, attempt) if attempt else frozenset()
    if attempt is None or not ids or finding.wms_id in ids:
        return replace(finding, done="left alone: the ledger has changed meanwhile")
    events.note(instance, attempt.run, f"The audit met a second workflow, {finding.wms_id}; {who} has it cancelled.")
    crash_point("audit.noted")
    try:
        cancel_twins(instance, site, attempt, oldest_first(ids)[0], [finding.wms_id], log)
    except WmsError as error:
        return replace(finding, done=f"not cancelled: {error}")
    return replace(
        finding,
        done=f"cancelled by {who}; the page of run {attempt.run_id} tells what the WMS answered",
        advice=f"nothing more, if `cm audit {finding.campaign}` does not name it again",
    )
