"""Groups whose data could not be brought, for a reason of their own that does not pass: the others of a step go on.

A transfer tries every group that it was given, so what fails for good is known by group. It is left out of the next
journeys, until a person has decided something on the campaign or has run the failed run again with success.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import dagster as dg

from cm_dagster.control.steps import Board, Document, accepted, load_boards
from cm_dagster.errors import TransferError
from cm_dagster.ledger import store
from cm_dagster.ledger.attempts import index_of
from cm_dagster.plan.names import StepId

__all__ = ["Astray", "forget_astray", "note_astray", "read_astray"]


@dataclass(frozen=True)
class Astray:
    """Why the data of a group were not brought."""

    number: int
    """Number of the attempt that they are for, or of."""
    revision: int
    """Of the campaign, when it was found."""
    run_id: str
    """Run that found it."""
    cause: str
    advice: str

    def stays(self, board: Board, number: int) -> bool:
        """Whether the group is left out still: it is the same attempt, and no person has decided anything since."""
        return (self.number, self.revision) == (number, board.campaign.revision)


def _key(document: Document, step: StepId) -> str:
    return f"astray/{document.key(step)}"


def _numbers(instance: dg.DagsterInstance, document: Document, step: StepId) -> dict[str, int]:
    """Give the number of the attempt that each group's data are for, or of."""
    if document is Document.DELIVERED:
        return accepted(index_of(instance), step)
    (board,) = load_boards(instance, [step.campaign])
    return {group.name: group.first for group in board.plans[step.step].at(step.site)}


def read_astray(
    instance: dg.DagsterInstance, document: Document, steps: Iterable[StepId]
) -> dict[str, dict[str, Astray]]:
    """Read which groups were left behind, by tag of the step and name.

    Parameters
    ----------
    instance
        The Dagster instance.
    document
        `Document.STAGED` or `Document.DELIVERED`: what they are to be.
    steps
        Steps at sites.
    """
    wanted = {_key(document, step): step.tag for step in steps}
    found = store.get_many(instance, wanted)
    return {wanted[key]: {name: Astray(**each) for name, each in groups.items()} for key, groups in found.items()}


def note_astray(
    instance: dg.DagsterInstance,
    document: Document,
    step: StepId,
    faults: Mapping[str, TransferError],
    *,
    revision: int,
    run_id: str,
) -> None:
    """Write down which groups failed for good, each by a fault of its own; of others nothing is written.

    Parameters
    ----------
    instance
        The Dagster instance.
    document
        What they were to be.
    step
        The step at a site.
    faults
        What was wrong, by name of the group.
    revision
        Of the campaign when the journey began: later decisions let them be tried again.
    run_id
        Run that has tried it.
    """
    numbers = _numbers(instance, document, step)
    new = {
        name: asdict(Astray(numbers[name], revision, run_id, fault.cause, fault.advice))
        for name, fault in faults.items()
        if not fault.transient and name in numbers
    }
    if new:
        store.put(instance, _key(document, step), {**(store.get(instance, _key(document, step)) or {}), **new})


def forget_astray(instance: dg.DagsterInstance, document: Document, step: StepId, groups: Iterable[str]) -> None:
    """Forget groups that have arrived after all."""
    known = store.get(instance, _key(document, step)) or {}
    left = {name: each for name, each in known.items() if name not in set(groups)}
    if len(left) < len(known):
        store.put(instance, _key(document, step), left)
