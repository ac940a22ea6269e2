"""One deployment on PostgreSQL for all outages, and one long campaign on it that goes through all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from cm_dagster.ledger import campaigns
from cm_dagster.local.deployment import Deployment
from cm_dagster.testing.postgres import PostgresServer
from cm_dagster_tests.faults.clock import Clock
from cm_dagster_tests.outages.disk import SmallDisk
from cm_dagster_tests.outages.stage import IN_FLIGHT, HousedServers, Long, Stage, Wms
from cm_dagster_tests.system.rig import SITE
from cm_dagster_tests.system.start import pooled, started

_GROUPS = 18
_FREE = 2
"""Groups that do not wait to be released."""
_MEGABYTES = 256
_SITE = {
    "limits": {"in_flight": IN_FLIGHT},
    # As long as an outage here, so that it is the pauses between tries that bring the campaign through.
    "backoff": {"first": 5.0, "longest": 10.0},
}


@pytest.fixture(scope="package")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The deployment, with its services."""
    deployment = Deployment(tmp_path_factory.mktemp("outages"))
    deployment.submit_area(SITE).mkdir(parents=True)
    with ExitStack() as stack:
        database, registry = stack.enter_context(PostgresServer()), stack.enter_context(PostgresServer())
        disk = stack.enter_context(SmallDisk(deployment.submit_area(SITE), _MEGABYTES))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("PYTHONPATH", str(Path(__file__).with_name("shifted")), prepend=os.pathsep)
        patch.setenv("CM_TEST_CLOCK", str(deployment.folder / "clock"))
        rig = stack.enter_context(
            started(
                deployment,
                visits=_GROUPS,
                registry=registry.create("registry", extensions=["btree_gist"]).url,
                storage=pooled(database),
                site=_SITE,
                servers=lambda made: HousedServers(made, disk=disk),
            )
        )
        clock, wms = Clock(deployment.folder / "clock"), Wms(deployment.wms_home(SITE))
        rig = replace(rig, prefix=tuple(disk.prefix))
        yield Stage(rig, database, registry, disk, clock, wms)


@pytest.fixture(scope="package")
def begun(stage: Stage) -> Long:
    """The campaign, begun."""
    case = Long(stage.rig, "long", stage, _GROUPS)
    case.set_up(_FREE)
    stage.rig.describe(case.name, visits=range(1, _GROUPS + 1), steps=["step1", "step2"])
    case.set_up(_FREE)
    campaigns.create(stage.rig.instance, case.spec(), user="pilot", reason="to be tested")
    case.start()
    return case


@pytest.fixture
def campaign(begun: Long, record_property: Callable[[str, object], None]) -> Iterator[Long]:
    """The campaign, in the middle: groups are accepted, run, and wait for a slot."""
    begun.make_sure_it_is_in_the_middle()
    yield begun
    for each in begun.stage.figures:
        record_property("figure", str(each))
    begun.stage.figures.clear()
