"""What is to travel between the home site and the others: inputs of groups to their site, outputs of groups home.

Each run of ours takes groups of one step and one site, so that a site that is away holds up nobody else's data. What is
due is told from the ledger alone; the Butlers are asked in the runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from cm_dagster.control.again import look_at_last
from cm_dagster.control.astray import read_astray
from cm_dagster.control.lifeline import living
from cm_dagster.control.site import Site, known_sites
from cm_dagster.control.steps import Board, Document, accepted, load_boards
from cm_dagster.ledger import tags
from cm_dagster.ledger.attempts import UNFINISHED, index_of
from cm_dagster.plan.names import StepId

__all__ = [
    "DELIVER",
    "DOCUMENTS",
    "STAGE",
    "Trip",
    "deliveries_due",
    "journeys_of",
    "stages_due",
    "trip_tag",
    "undelivered",
    "unstaged",
]

STAGE = "stage"
"""Value of ``cm/kind`` on the runs that bring inputs to a site."""
DELIVER = "deliver"
"""The same on those that bring outputs to the home site."""
DOCUMENTS: Mapping[str, Document] = {STAGE: Document.STAGED, DELIVER: Document.DELIVERED}
"""What groups are after each of these journeys."""


def journeys_of(site: Site) -> list[str]:
    """Kinds of journeys that a site does: none where there is no other site."""
    if len(known_sites().sites) == 1:
        return []
    return [DELIVER if site.spec.home else STAGE]


@dataclass(frozen=True)
class Trip:
    """Groups of a step at a site whose data are to travel in one run."""

    step: StepId
    groups: tuple[str, ...]
    run_key: str
    """Makes Dagster request it once, whatever is repeated."""
    tags: Mapping[str, str]

    def config(self, op: str) -> dict[str, object]:
        """Configuration of a run of a job with this only op."""
        return {"ops": {op: {"config": {"step": self.step.tag, "groups": list(self.groups)}}}}


def trip_tag(kind: str, step: StepId) -> str:
    """Value of the tag ``TRIP`` on runs of a kind (`STAGE` or `DELIVER`) for a step at a site."""
    return f"{kind} {step.tag}"


def unstaged(board: Board, step: StepId, staged: Mapping[str, int]) -> dict[str, int]:
    """Give the groups of a step at a site whose inputs are still to be brought there, in order.

    Parameters
    ----------
    board
        Where the campaign stands.
    step
        The step, which is planned.
    staged
        What is there already (`Document.STAGED`).

    Returns
    -------
    numbers
        Number of the first attempt of each that reads them, by name of the group.
    """
    plan = board.plans[step.step]
    if step.site not in plan.remote or plan.lanes:
        return {}
    return {group.name: group.first for group in plan.at(step.site) if group.name not in staged}


def undelivered(board: Board, step: StepId, numbers: Mapping[str, int], delivered: Mapping[str, int]) -> dict[str, int]:
    """Give the accepted groups of a step at a site whose outputs are still to be brought home.

    Parameters
    ----------
    board
        Where the campaign stands.
    step
        The step, which is planned.
    numbers
        Number of the accepted attempt of each group that has one.
    delivered
        What is at home already (`Document.DELIVERED`).
    """
    if step.site not in board.plans[step.step].remote:
        return {}
    return {group: number for group, number in numbers.items() if delivered.get(group) != number}


def stages_due(instance: dg.DagsterInstance, site: Site) -> list[Trip]:
    """Choose the groups whose inputs are brought to a site now, in order of submission."""
    steps = [
        (board, StepId(board.name, step, site.name))
        for board in load_boards(instance)
        if board.campaign.started
        for step in board.active
    ]
    known = Document.STAGED.read(instance, [step for _, step in steps])
    left = [(board, step, unstaged(board, step, known.get(step.tag, {}))) for board, step in steps]
    return list(_trips(instance, site, STAGE, left))


def deliveries_due(instance: dg.DagsterInstance, home: Site) -> list[Trip]:
    """Choose the groups whose outputs are brought home now: at most one run a site at a time."""
    steps = [
        (board, StepId(board.name, step, site))
        for board in load_boards(instance)
        if board.campaign.started
        for step in board.active
        for site in board.plans[step].remote
    ]
    index = index_of(instance)
    known = Document.DELIVERED.read(instance, [step for _, step in steps])
    left = [
        (board, step, undelivered(board, step, accepted(index, step), known.get(step.tag, {}))) for board, step in steps
    ]
    return list(_trips(instance, home, DELIVER, left))


def _trips(
    instance: dg.DagsterInstance, site: Site, kind: str, left: Sequence[tuple[Board, StepId, Mapping[str, int]]]
) -> Iterator[Trip]:
    """Make trips of what is left, but of no site to which, or from which, one is under way."""
    waiting = [(board, step, numbers) for board, step, numbers in left if numbers]
    if not waiting:
        return
    busy = _busy_sites(instance, site, kind)
    astray = read_astray(instance, DOCUMENTS[kind], [step for _, step, _ in waiting])
    for board, step, numbers in waiting:
        if step.site in busy:
            continue
        lost = {name: each for name, each in astray.get(step.tag, {}).items() if name in numbers}
        names = [name for name, number in numbers.items() if name not in lost or not lost[name].stays(board, number)]
        trip = trip_tag(kind, step)
        last = instance.get_run_records(dg.RunsFilter(tags={tags.TRIP: trip}), limit=1)
        look = look_at_last(instance, site, board.campaign, last[0] if last else None)
        # What failed of its own fault is left out; the rest of its journey has arrived.
        told = look.failed is not None and look.failed.run_id in {each.run_id for each in lost.values()}
        if names and (look.is_due or told):
            busy.add(step.site)
            chosen = tuple(names[: site.spec.transfer.batch])
            digest = hashlib.sha256(" ".join(chosen).encode()).hexdigest()[:16]
            # The place that it takes is one of the other site, also where the home site fetches.
            own = {tags.STEP: step.tag, tags.TRIP: trip, **tags.place_at(kind, step.site)}
            own |= look.tags(site, board.campaign, trip)
            yield Trip(step, chosen, f"{trip} {digest}{look.key}", own)


def _busy_sites(instance: dg.DagsterInstance, site: Site, kind: str) -> set[str]:
    """Sites to or from which a journey is under way."""
    wanted = dg.RunsFilter(tags={tags.KIND: kind}, statuses=UNFINISHED)
    mine = f"{kind}_{site.name}"
    records = [each for each in instance.get_run_records(wanted) if each.dagster_run.job_name == mine]
    return {StepId.from_tag(each.dagster_run.tags[tags.STEP]).site for each in living(instance, site, records)}
