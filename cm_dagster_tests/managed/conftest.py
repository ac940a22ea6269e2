"""One deployment, and on it a large campaign that goes by itself and small ones that stop as their files say."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from cm_dagster.ledger import campaigns
from cm_dagster.local.deployment import Deployment
from cm_dagster.testing.postgres import PostgresServer
from cm_dagster_tests.managed.campaign import CLASSES, GROUPS, big, faults_of, small
from cm_dagster_tests.system.rig import SITE, Case, Rig, wms_rows
from cm_dagster_tests.system.start import pooled, started

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

    def log(self) -> list[tuple[str, float, float]]:
        """What the WMS's own log says: name, start and end of each workflow, in seconds since the epoch."""
        query = "SELECT name, created, coalesce(ended, 1e12) FROM run ORDER BY created"
        return [(name, begin, end) for name, begin, end in wms_rows(self.rig.deployment.wms_home(SITE), query)]

    def building(self, case: Case) -> list[tuple[float, float]]:
        """When the quantum graphs of a campaign were built: from each claim until the WMS had the workflow."""
        spans = []
        for name, begin, _ in self.log():
            campaign, step, _, group, attempt, *_ = name.split(".")
            if campaign == case.name:
                claim = self.rig.deployment.submit_area(SITE) / campaign / step / group / "claims" / attempt
                spans.append((claim.stat().st_mtime, begin))
        return spans


@pytest.fixture(scope="package")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    deployment = Deployment(tmp_path_factory.mktemp("managed"))
    with PostgresServer() as server, started(deployment, visits=2 * GROUPS, storage=pooled(server)) as rig:
        yield rig


@pytest.fixture(scope="package")
def managed(rig: Rig) -> Managed:
    """All campaigns, started."""
    look = {"name": "look", "text": "look at me", "action": "hold"}
    hold = {"retry": {"max": 1}, "rules": [look, {"name": "hopeless", "text": "no hope", "action": "fail"}]}
    stop = {"rules": [{"name": "wrong", "text": "wrong calibration", "action": "stop-step"}]}
    return Managed(
        big=_start(rig, "big", faults_of(list(CLASSES.values()))),
        scouts=_start(rig, "scouts", [_at(1, "a bad night")], groups=4, scouts=2),
        slow=_start(rig, "slow", [], groups=4, limits={"per_hour": 2}),
        nights=_start(rig, "nights", [], groups=2, limits={"windows": [_closed_now()]}),
        held=_start(rig, "held", [_at(1, "look at me"), _at(3, "no hope")], groups=4, **hold),
        stops=_start(rig, "stops", [_at(1, "wrong calibration")], groups=4, limits={"in_flight": 1}, **stop),
    )


def _closed_now() -> str:
    """Write a window of an hour that opens in six hours."""
    hour = int(time.time() // 3600)
    return f"{(hour + 6) % 24:02d}:00-{(hour + 7) % 24:02d}:00"


def _at(visit: int, message: str) -> dict[str, Any]:
    return {**_FAIL, "where": f"exposure={visit}", "message": message}


def _start(rig: Rig, name: str, faults: Sequence[Any], **settings: Any) -> Case:
    case = Case(rig, name)
    case.set_faults(faults)
    where = str(case.faults_file)
    document = small(name, rig.survey, where, **settings) if settings else big(rig.survey, where)
    case.file.write_text(yaml.safe_dump(document, sort_keys=False))
    campaigns.create(rig.instance, case.spec(), user="pilot", reason="to be tested")
    case.start()
    return case
