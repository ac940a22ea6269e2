"""One deployment, and on it a large campaign that goes by itself and small ones that stop as their files say."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import pytest
import yaml

from cm_dagster.ledger import campaigns
from cm_dagster.local.deployment import Deployment
from cm_dagster.testing.postgres import PostgresServer
from cm_dagster_tests.managed.campaign import CLASSES, GROUPS, big, faults_of, small
from cm_dagster_tests.system.rig import PATIENCE, SITE, Case, Rig, wait_for, wms_rows
from cm_dagster_tests.system.start import pooled, started

SECOND = "second"
"""A site that has the same Butler and a WMS of its own."""
_FAIL = {"task": "isr", "action": "raise"}


@dataclass(frozen=True)
class Managed:
    """The campaigns, all of them under way from the beginning."""

    big: Case
    """Sixty groups with faults of each class, and a step after them."""
    scouts: Case
    """Its scouts fail."""
    slow: Case
    """May submit two groups in an hour."""
    nights: Case
    """Its window is closed now, and for hours."""
    held: Case
    """One group is held by a rule, one fails for good, two are well."""
    stops: Case
    """A rule stops its step."""

    @property
    def rig(self) -> Rig:
        """The deployment."""
        return self.big.rig


def wms_log(rig: Rig, site: str = SITE) -> list[tuple[str, float, float]]:
    """What a WMS's own log says: name, start and end of each workflow, in seconds since the epoch."""
    home = rig.deployment.wms_home(site)
    if not (home / "wms.sqlite").exists():  # it was never asked for anything
        return []
    query = "SELECT name, created, coalesce(ended, 1e12) FROM run ORDER BY created"
    return [(name, begin, end) for name, begin, end in wms_rows(home, query)]


def building(rig: Rig, site: str = SITE, campaign: str = "*") -> list[tuple[float, float]]:
    """When quantum graphs were built: from each claim until the WMS had the workflow."""
    spans = []
    for name, begin, _ in wms_log(rig, site):
        own, step, _, group, attempt, *_ = name.split(".")
        if fnmatchcase(own, campaign):
            claim = rig.deployment.submit_area(site) / own / step / group / "claims" / attempt
            spans.append((claim.stat().st_mtime, begin))
    return spans


def most_at_once(spans: Sequence[tuple[float, float]]) -> int:
    """Count how many of some spans of time, given by begin and end, hold the same moment at most."""
    return max(sum(begin <= at < end for begin, end in spans) for at, _ in spans)


def wait(what: str, look: Callable[[], object]) -> None:
    """Wait for longer than other tests do: much goes on at a time here."""
    wait_for(what, look, 8 * PATIENCE, every=2.0)


def done(case: Case) -> None:
    """Wait for the end of a campaign."""
    wait(f"the end of {case.name}", lambda: case.view().state == "done")


def reason(case: Case) -> str:
    """What is said of a campaign of one step, by the program: it knows the limits of its site too."""
    (step,) = json.loads(case.rig.program("cm", "status", case.name, "--json"))["steps"]
    return str(step["reason"])


@pytest.fixture(scope="package")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    deployment = Deployment(tmp_path_factory.mktemp("managed"))
    with ExitStack() as stack:
        storage = pooled(stack.enter_context(PostgresServer()))
        yield stack.enter_context(started(deployment, visits=2 * GROUPS, storage=storage, also=[SECOND]))


@pytest.fixture(scope="package")
def managed(rig: Rig) -> Managed:
    """All campaigns, started."""
    look = {"name": "look", "text": "look at me", "action": "hold"}
    hold = {"retry": {"max": 1}, "rules": [look, {"name": "hopeless", "text": "no hope", "action": "fail"}]}
    stop = {"rules": [{"name": "wrong", "text": "wrong calibration", "action": "stop-step"}]}
    return Managed(
        big=start(rig, "big", faults_of(list(CLASSES.values()))),
        scouts=start(rig, "scouts", [at(1, "a bad night")], groups=4, scouts=2),
        slow=start(rig, "slow", [], groups=4, limits={"per_hour": 2}),
        nights=start(rig, "nights", [], groups=2, limits={"windows": [closed_now()]}),
        held=start(rig, "held", [at(1, "look at me"), at(3, "no hope")], groups=4, **hold),
        stops=start(rig, "stops", [at(1, "wrong calibration")], groups=4, limits={"in_flight": 1}, **stop),
    )


def closed_now() -> str:
    """Name a window of an hour that opens in six hours."""
    hour = int(time.time() // 3600)
    return f"{(hour + 6) % 24:02d}:00-{(hour + 7) % 24:02d}:00"


def at(visit: int, message: str) -> dict[str, Any]:
    """Have a visit fail, always, with a message."""
    return {**_FAIL, "where": f"exposure={visit}", "message": message}


def start(rig: Rig, name: str, faults: Sequence[Any], **settings: Any) -> Case:
    """Create a campaign, and let it go: the big one, or a small one if there are settings."""
    case = make(rig, name, faults, **settings)
    case.start()
    return case


def make(rig: Rig, name: str, faults: Sequence[Any], site: str = SITE, **settings: Any) -> Case:
    """Create a campaign at a site."""
    case = Case(rig, name)
    case.set_faults(faults)
    where = str(case.faults_file)
    document = small(name, rig.survey, where, **settings) if settings else big(rig.survey, where)
    case.file.write_text(yaml.safe_dump({**document, "sites": site}, sort_keys=False))
    campaigns.create(rig.instance, case.spec(), user="pilot", reason="to be tested")
    return case
