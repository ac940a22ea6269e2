"""The audit's comparison of attempts with what they leave behind: claims in the submit area, collections."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cm_dagster.plan.names import AttemptId
from cm_dagster.policy.findings import Finding, Kind, Known, Place, listed

__all__ = ["Chain", "compare_chain", "compare_claims", "compare_outputs", "orphan_output", "strange_folder"]


# ------------------------------------------------------------------------------------------------------- the claims


def compare_claims(
    claims: Mapping[AttemptId, str],
    runs: Iterable[Known],
    owners: Mapping[str, AttemptId],
    place: Place,
) -> Iterator[Finding]:
    """Compare claims with runs.

    Parameters
    ----------
    claims
        Id of the run that owns each claimed attempt.
    runs
        The attempts of the site.
    owners
        What each run is an attempt at, for all runs that the ledger has; empty text for no attempt at all.
    place
        The site.
    """
    for id_, owner in claims.items():
        if owners.get(owner) != id_:
            yield _ownerless(id_, owner, owners.get(owner), place)
    for run in runs:
        if run.in_hands and claims.get(run.id) != run.run_id:
            yield _unclaimed(run, claims.get(run.id), place)


def _ownerless(id_: AttemptId, owner: str, other: AttemptId | None, place: Place) -> Finding:
    path = place.claim(id_)
    what = f"which is {other.workflow}" if other else "which it does not have (deleted?)"
    return Finding(
        Kind.CLAIM_WITHOUT_RUN,
        id_.step.campaign,
        f"submit area: {path} belongs to run {owner}; ledger: {what}",
        f"until it is gone, attempt {id_.number} at {id_.group} can't be made. Nothing is lost with it, a workflow that"
        f" was submitted is taken up again: `rm {shlex.quote(str(path))}`",
        step=id_.step.step,
        group=id_.group,
        attempt=id_.number,
        run_id=owner,
    )


def _unclaimed(run: Known, owner: str | None, place: Place) -> Finding:
    path = place.claim(run.id)
    if owner:
        seen, advice = f"belongs to run {owner}", f"in the web UI, terminate run {run.run_id}"
    else:
        folder, file = shlex.quote(str(path.parent)), shlex.quote(str(path))
        seen, advice = "is not there", f"put it back: `mkdir -p {folder} && printf %s {run.run_id} > {file}`"
    return run.finding(
        Kind.RUN_WITHOUT_CLAIM, f"ledger: run {run.run_id} is {run.state}; submit area: {path} {seen}", advice
    )


def strange_folder(folder: Path) -> Finding:
    """Say that a folder in the submit area is named after a campaign that the ledger does not have."""
    return Finding(
        Kind.CLAIM_WITHOUT_RUN,
        folder.name,
        f"submit area: {folder}; ledger: no such campaign",
        "find out whose it is: another deployment must have a submit area of its own; if nobody wants its submit"
        f" directories any more: `rm -r {shlex.quote(str(folder))}`",
    )


# ------------------------------------------------------------------------------------------------------- the Butler


@dataclass(frozen=True)
class Chain:
    """A chain that must hold RUN collections or other chains."""

    name: str
    campaign: str
    step: str
    needed: Mapping[str, str]
    """Collections that it must hold; for each the group that it is of, empty where it is of none."""
    cure: str
    """Asset whose materialization sets it."""


def compare_outputs(
    accepted: Iterable[tuple[Known, str]], collections: Collection[str], repo: str
) -> Iterator[Finding]:
    """Find accepted attempts whose RUN collection the registry does not have.

    Parameters
    ----------
    accepted
        The accepted attempts that count, each with the name of its RUN collection.
    collections
        Names of all collections below the campaign's output.
    repo
        The repository.
    """
    for run, name in accepted:
        if name not in collections:
            yield run.finding(
                Kind.MISSING_OUTPUT,
                f"ledger: accepted; Butler {repo}: no RUN collection {name}",
                f"find out who removed it; to process the group again: {run.verb('reject', 'output is gone')}, then"
                f" {run.verb('retry', 'output is gone')}",
            )


def compare_chain(chain: Chain, children: Collection[str] | None, repo: str) -> Finding | None:
    """Say what a chain lacks; None if it lacks nothing.

    Parameters
    ----------
    chain
        The chain.
    children
        What it holds; None if it does not exist.
    repo
        The repository.
    """
    held = frozenset(children or ())
    lacking = [name for name in chain.needed if name not in held]
    if not lacking:
        return None
    groups = [group for name in lacking if (group := chain.needed[name])]
    what = listed(groups, "accepted group") if groups else ", ".join(lacking)
    state = "there is no chain" if children is None else "the chain"
    return Finding(
        Kind.MISSING_OUTPUT,
        chain.campaign,
        f"Butler {repo}: {state} {chain.name}{' lacks' if children is not None else ', which should hold'} {what}",
        f"set it again: in the web UI, materialize {chain.cure}",
        step=chain.step,
        group=groups[0] if len(groups) == 1 else "",
    )


def orphan_output(id_: AttemptId, name: str, repo: str) -> Finding:
    """Say that a RUN collection has the name of an attempt that the ledger does not have."""
    return Finding(
        Kind.ORPHAN_OUTPUT,
        id_.step.campaign,
        f"Butler {repo}: RUN collection {name}; ledger: no such attempt",
        f"nothing reads it; if nobody wants it: `butler remove-runs {shlex.quote(repo)} {shlex.quote(name)}`",
        step=id_.step.step,
        group=id_.group,
        attempt=id_.number,
    )
