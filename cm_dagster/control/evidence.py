"""What the four sources of an audit say: the ledger, the submit area, the WMS and the Butler of a site.

Only questions are asked here; nothing is written anywhere. A source that does not answer leaves a `Gap`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import dagster as dg

from cm_dagster.control.claim import idle
from cm_dagster.control.health import Progress, read_progress
from cm_dagster.control.lookback import lookback
from cm_dagster.control.outputs import Outputs, as_known, list_outputs, promises
from cm_dagster.control.site import Site
from cm_dagster.control.steps import Board, load_boards
from cm_dagster.errors import CmError, LedgerError, ServiceError
from cm_dagster.ledger.attempts import Attempt, index_of
from cm_dagster.ledger.claims import Claims, all_claims
from cm_dagster.plan.names import NAME, AttemptId, StepId, group_folder
from cm_dagster.policy.findings import Known, Place, Workflow
from cm_dagster.policy.states import State
from cm_dagster.services.wms import WorkflowReport

__all__ = ["Evidence", "Gap", "gather", "recorded"]

_ASK_SINGLY = 200
"""Most workflows that are asked for one by one, since the WMS's list does not show them."""


@dataclass(frozen=True)
class Gap:
    """A part of the audit that could not be done."""

    part: str
    """What was not compared."""
    cause: str
    advice: str = ""

    @classmethod
    def of(cls, part: str, error: CmError) -> Gap:
        """Make it of the error that was the reason."""
        return cls(part, error.cause, error.advice)

    def to_json(self) -> dict[str, str]:
        """Give it as JSON can hold it."""
        return {"part": self.part, "cause": self.cause, "advice": self.advice}


@dataclass
class Evidence:
    """What the sources say of some campaigns at a site."""

    now: float
    place: Place
    boards: list[Board]
    """Where the campaigns stand."""
    known: frozenset[str] | None
    """Names of all campaigns of the ledger; None if it is asked for single ones, so that others are no strangers."""
    attempts: list[Attempt] = field(default_factory=list)
    runs: list[Known] = field(default_factory=list)
    """The same attempts, as they are compared: those of the campaigns at the site."""
    owners: dict[str, AttemptId] = field(default_factory=dict)
    """What each run of the ledger is an attempt at, whatever the campaign and the site."""
    flows: list[Workflow] | None = None
    """Workflows of our names for the site at the WMS; None if it could not be asked."""
    missing: list[Known] = field(default_factory=list)
    """Open attempts whose workflow the WMS says not to know."""
    claims: dict[AttemptId, str] | None = None
    """Run that owns each claimed attempt; None if the submit area can't be read."""
    strange_folders: list[Path] = field(default_factory=list)
    """Folders in the submit area that are named after campaigns that the ledger does not have."""
    outputs: list[Outputs] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)

    @property
    def names(self) -> frozenset[str]:
        """Names of the campaigns."""
        return frozenset(board.name for board in self.boards)

    def looked_at(self) -> dict[str, int]:
        """Say how much was compared."""
        return {
            "campaigns": len(self.boards),
            "attempts": len(self.runs),
            "workflows": len(self.flows or ()),
            "claims": len(self.claims or ()),
            "collections": sum(len(each.collections) for each in self.outputs),
        }


def gather(instance: dg.DagsterInstance, site: Site, names: Iterable[str] | None) -> Evidence:
    """Ask all sources, in the order that makes their answers comparable.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        The site.
    names
        Names of the campaigns that are audited; None for all.

    Raises
    ------
    LedgerError
        If there is no campaign of such a name, or it has nothing at the site.
    """
    boards = load_boards(instance, names)
    here = [board for board in boards if site.spec.home or site.name in board.campaign.spec.sites]
    if names is not None and len(here) < len(boards):
        other = next(board for board in boards if board not in here)
        sites = ", ".join(other.campaign.spec.sites)
        raise LedgerError(f"campaign {other.name} has nothing at {site.name}", advice=f"its sites: {sites} (--site)")
    place = Place(site.name, site.spec.wms.service, site.area, site.spec.wms.settle)
    known = frozenset(board.name for board in boards) if names is None else None
    evidence = Evidence(time.time(), place, here, known)
    look = _Look(site, evidence)
    # What the ledger promises must be there afterwards; what is there must be known to the ledger afterwards.
    promised = promises(instance, site, here, evidence.now)
    open_here = index_of(instance).open_at(site.name)
    look.submitted = {each.run_id for each in open_here if each.wms_id}
    look.ask_wms(lookback(site, open_here))
    for promise in promised:
        with look.apart(f"Butler: output of {promise.board.name}"):
            evidence.outputs.append(list_outputs(site, promise))
    look.read_claims()
    look.read_attempts(instance)
    look.look_closer()
    look.ask_singly()
    return evidence


def recorded(site: Site, attempt: Attempt) -> frozenset[str]:
    """Ids of the workflows that are recorded for an attempt, on its run and beside its claim."""
    ids = {attempt.wms_id}
    folder = group_folder(site.area, attempt.id.step, attempt.id.group)
    if (folder / "claims").is_dir():  # `Claims` would make it
        beside = Claims(folder).recorded(attempt.id.number)
        if beside and beside["run"] == attempt.run_id:
            ids.add(str(beside["wms_id"]))
    return frozenset(ids - {""})


class _Look:
    """One look at the sources of a site."""

    def __init__(self, site: Site, evidence: Evidence) -> None:
        self.site = site
        self.evidence = evidence
        self.submitted: set[str] = set()
        """Runs of the open attempts whose workflow was at the WMS before it was asked."""
        self.history = site.spec.wms.history
        """How many days back it is asked."""

    @contextmanager
    def apart(self, part: str) -> Iterator[None]:
        """Go on without a source that can't be asked, and say so."""
        try:
            yield
        except ServiceError as error:
            self.evidence.gaps.append(Gap.of(part, error))

    # ------------------------------------------------------------------------------------------------ the ledger

    def read_attempts(self, instance: dg.DagsterInstance) -> None:
        evidence = self.evidence
        everything = index_of(instance).everything()
        evidence.owners = {attempt.run_id: attempt.id for attempt in everything}
        names = evidence.names
        evidence.attempts = [
            each for each in everything if each.id.step.site == self.site.name and each.id.step.campaign in names
        ]
        progress = read_progress(instance, self.site.name)
        evidence.runs = [_dated(as_known(each, evidence.now), instance, progress) for each in evidence.attempts]

    def look_closer(self) -> None:
        """Read what is beside the claims of attempts whose workflows at the WMS are others than those on their runs."""
        evidence = self.evidence
        on_runs = {(run.id, wms_id) for run in evidence.runs for wms_id in run.wms_ids}
        strange = {flow.attempt for flow in evidence.flows or () if (flow.attempt, flow.wms_id) not in on_runs}
        if strange:
            pairs = zip(evidence.runs, evidence.attempts, strict=True)
            evidence.runs = [self._closer(run, attempt) if run.id in strange else run for run, attempt in pairs]

    def _closer(self, run: Known, attempt: Attempt) -> Known:
        return replace(run, wms_ids=recorded(self.site, attempt), quiet=self._quiet(run))

    def _quiet(self, run: Known) -> float:
        """Seconds since anything was last done for an attempt, by its run and its files."""
        if run.id not in (self.evidence.claims or ()):
            return run.quiet
        claims = Claims(group_folder(self.site.area, run.id.step, run.id.group))
        return min(run.quiet, idle(claims, run.id.number, run.id.folder(self.site.area)))

    # --------------------------------------------------------------------------------------------------- the WMS

    def ask_wms(self, history: float) -> None:
        self.history = history
        with self.apart(f"WMS of {self.site.name}: workflows"):
            reports = self.site.wms.report_all(history)
            self.evidence.flows = [flow for report in reports.values() if (flow := self._flow(report))]

    def _flow(self, report: WorkflowReport) -> Workflow | None:
        try:
            id_ = AttemptId.from_workflow(report.name)
        except ValueError:
            return None  # somebody else's
        ours = id_.step.site == self.site.name
        return Workflow(report.wms_id, id_, str(report.state), report.path or "") if ours else None

    def ask_singly(self) -> None:
        """Ask by id for the workflows of open attempts that the list does not show."""
        evidence, part = self.evidence, f"WMS of {self.site.name}"
        if evidence.flows is None:
            return
        listed = {flow.wms_id for flow in evidence.flows}
        unlisted = [run for run in evidence.runs if run.in_hands and run.wms_ids and not run.wms_ids & listed]
        with self.apart(f"{part}: {len(unlisted)} workflows by id"):
            alive = sum(self._one(run) for run in unlisted[:_ASK_SINGLY])
            if alive:
                cause = f"its list lacks {alive} live workflows that it knows by id, so it may lack others"
                advice = f"it was asked for those of {self.site.operator}: set CM_OPERATOR to the account that submits"
                evidence.gaps.append(Gap(f"{part}: twins and orphans", cause, advice))
        if len(unlisted) > _ASK_SINGLY:
            cause = f"its list lacks {len(unlisted)} workflows; the first {_ASK_SINGLY} were asked for by id"
            rest = f"{part}: {len(unlisted) - _ASK_SINGLY} workflows by id"
            evidence.gaps.append(Gap(rest, cause, "deal with the missing workflows that were found; audit again"))

    def _one(self, run: Known) -> bool:
        """Ask for the workflow of an attempt by its id; says whether the list should have shown it."""
        report = self.site.wms.report_one(min(run.wms_ids), self.history)
        if report is None:
            self.evidence.missing.append(run)
            return False
        flow = Workflow(report.wms_id, run.id, str(report.state), report.path or "")
        self.evidence.flows = [*(self.evidence.flows or ()), flow]
        old = run.run_id in self.submitted and self._quiet(run) >= self.site.spec.wms.settle
        return flow.alive and old

    # -------------------------------------------------------------------------------------------- the submit area

    def read_claims(self) -> None:
        """Read all claims; an area that is empty is more likely one that is not there."""
        area, evidence = self.site.area, self.evidence
        try:
            folders = [folder for folder in sorted(area.iterdir()) if NAME.fullmatch(folder.name)]
            if not folders:
                raise FileNotFoundError(2, "it is empty; is it mounted on this host?", str(area))
            evidence.claims = {
                AttemptId(step, group, number): owner
                for step in self._steps()
                for group, number, owner in all_claims(area / step.campaign / step.step)
            }
            if evidence.known is not None:
                evidence.strange_folders = [folder for folder in folders if folder.name not in evidence.known]
        except OSError as error:
            cause = f"{area} can't be read: {error.strerror or error}"
            advice = "run the audit on a host that has the submit area"
            evidence.gaps.append(Gap(f"submit area of {self.site.name}: claims", cause, advice))

    def _steps(self) -> list[StepId]:
        return [
            StepId(board.name, step, self.site.name)
            for board in self.evidence.boards
            for step in board.campaign.spec.order()
        ]


def _dated(known: Known, instance: dg.DagsterInstance, progress: Mapping[str, Progress]) -> Known:
    """Say since when an attempt is unknown."""
    if known.state is not State.UNKNOWN:
        return known
    seen = progress.get(known.run_id)
    if seen and seen.wait:
        return replace(known, since=seen.wait.since)
    record = instance.get_run_record_by_id(known.run_id)  # it was last written to when it became so, or later
    return replace(known, since=record.update_timestamp.timestamp() if record else None)
