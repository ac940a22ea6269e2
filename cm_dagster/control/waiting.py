"""Attempts that wait to be tried again: why, since when, until when. Their runs keep it, so no restart matters."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg

from cm_dagster.control.health import Progress
from cm_dagster.control.site import Site
from cm_dagster.ledger import events, tags
from cm_dagster.ledger.attempts import Attempt
from cm_dagster.policy.backoff import Wait, delay, wait_again

__all__ = ["GroupWait", "longer", "put_off", "wait_of", "waits_text", "why_waits"]

_CAUSES = 3
"""Most causes that are told of a step's waiting groups."""
_NAMES = 3
"""Most groups that are named of those that wait for the same."""
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class GroupWait:
    """A group that waits for something to pass."""

    group: str
    site: str
    wait: Wait

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON can hold it."""
        return {"group": self.group, "site": self.site, **self.wait.to_json()}


def wait_of(attempt: Attempt) -> Wait | None:
    """Why an attempt waits to be submitted or finalized again; None if it does not."""
    return Wait.load(attempt.tags.get(tags.WAIT, "")) if attempt.is_open else None


def why_waits(attempt: Attempt, progress: Progress | None) -> Wait | None:
    """Why an attempt waits, by its run and by what the site's watch sensor has written down; None if all is well."""
    seen = progress.wait if progress and attempt.is_open else None
    return wait_of(attempt) or (seen if seen and seen.tries else None)


def waits_text(waits: Iterable[GroupWait]) -> list[str]:
    """Say for what groups wait; those that wait for the same are put together."""
    alike: dict[str, list[GroupWait]] = {}
    for each in waits:
        alike.setdefault(_NUMBER.sub("#", each.wait.cause), []).append(each)
    texts = [_alike_text(found) for found in alike.values()]
    more = len(texts) - _CAUSES
    return [*texts[:_CAUSES], f"{more} more causes"] if more > 0 else texts


def _alike_text(found: list[GroupWait]) -> str:
    names = ", ".join(each.group for each in found[:_NAMES])
    if len(found) > _NAMES:
        names += f" and {len(found) - _NAMES} more"
    waits = [each.wait for each in found]
    worst = replace(
        waits[0],
        tries=max(wait.tries for wait in waits),
        since=min(wait.since for wait in waits),
        next=min(wait.next for wait in waits),
    )
    return f"{names} {'waits' if len(found) == 1 else 'wait'}: {worst}"


def longer(site: Site, before: Wait | None, cause: str, seed: str, at_least: float = 0.0) -> Wait:
    """Make what is remembered after one more failure at a site.

    Parameters
    ----------
    site
        The site, whose settings say how long is waited.
    before
        What was remembered so far; None if it has not failed before.
    cause
        Why it failed now.
    seed
        What it is that waits.
    at_least
        Seconds for which it waits in any case.
    """
    settings = site.spec.backoff
    tries = before.tries + 1 if before else 1
    seconds = delay(tries, seed, first=settings.first, longest=settings.longest)
    return wait_again(before, cause, time.time(), max(seconds, at_least))


def put_off(instance: dg.DagsterInstance, site: Site, attempt: Attempt, cause: str, *, at_least: float = 0.0) -> Wait:
    """Let an attempt wait, after one more failure by what passes, and write that on its run.

    Parameters
    ----------
    instance
        The Dagster instance.
    site
        The site that this process serves.
    attempt
        The attempt.
    cause
        Why it failed now.
    at_least
        Seconds for which it waits in any case.
    """
    why = longer(site, wait_of(attempt), cause, attempt.run_id, at_least)
    events.wait(instance, attempt, why)
    return why
