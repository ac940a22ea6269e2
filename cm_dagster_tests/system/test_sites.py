"""Two sites as real processes: one code server dies, and it shows; the other site does not notice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from cm_dagster.cli import cm
from cm_dagster.control import health
from cm_dagster.ledger import campaigns
from cm_dagster.ledger.pulse import read_ticks
from cm_dagster.local.deployment import Deployment
from cm_dagster_tests.system.rig import CODE, SITE, Rig, wait_for, wms_rows
from cm_dagster_tests.system.start import started

OTHER = "other"
_LOCATIONS = """{workspaceOrError {... on Workspace {locationEntries {name locationOrLoadError {
    ... on PythonError {message}}}}}}"""
_WAIT = {"task": "isr", "where": "exposure=1", "action": "wait"}


@pytest.fixture(autouse=True)
def _ready() -> None:
    """Leave the deployment of the other system tests alone."""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A deployment of two sites."""
    with started(Deployment(tmp_path_factory.mktemp("sites")), visits=4, also=[OTHER]) as rig:
        yield rig


def down(rig: Rig) -> set[str]:
    """Code locations that the web UI shows as not loaded."""
    entries = rig.ui.call(_LOCATIONS)["workspaceOrError"]["locationEntries"]
    assert {entry["name"] for entry in entries} == {SITE, OTHER}
    return {entry["name"] for entry in entries if (entry["locationOrLoadError"] or {}).get("message")}


def last_tick(rig: Rig, site: str) -> float:
    """When a site looked at its WMS last."""
    return next(each.time or 0.0 for each in read_ticks(rig.instance, site) if each.sensor == f"watch_{site}")


def status() -> str:
    """What ``cm status`` shows, with the patience of this process."""
    return " ".join(CliRunner().invoke(cm, ["status"], env={"COLUMNS": "200"}).output.split())


def test_a_dead_code_server_shows_and_the_other_site_goes_on(two: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "QUIET", 15.0)  # 90 s would be long for a test
    case = two.campaign("split", visits=[1], faults=[_WAIT], start=True)
    wait_for("a group that runs", lambda: case.count() == {"running": 1})
    assert "silent" not in status()
    assert not down(two)

    two.kill(CODE)
    wait_for("the location that is down", lambda: down(two) == {SITE})
    dead = last_tick(two, SITE)
    before = last_tick(two, OTHER)
    wait_for("the silence of the site", lambda: "silent" in status())
    said = status()
    assert "1 unknown" in said
    assert f"site {SITE} is silent for " in said
    assert f"what {SITE} has is unknown: the code server of {SITE} has not been heard of since " in said
    assert f"site {OTHER}" not in said
    assert "127.0.0.1" in two.program("cm", "site", "doctor", SITE, code=1)
    assert f"code server {OTHER}" in two.program("cm", "site", "doctor", OTHER)
    wait_for("ticks of the other site", lambda: last_tick(two, OTHER) > before)
    assert last_tick(two, SITE) == dead
    assert down(two) == {SITE}

    two.revive(CODE)
    assert not down(two)
    wait_for("the site that is heard of again", lambda: "silent" not in status())
    wait_for("the group that runs again", lambda: case.count() == {"running": 1})
    case.set_faults([])
    case.wait_until_done()
    assert case.submitted() == {"g0000.a01": 1}


def test_a_backfill_waits_for_its_site_and_one_at_another_site_does_not(two: Rig) -> None:
    case = two.describe("filled", visits=range(1, 5))
    case.file.write_text(yaml.safe_dump({**yaml.safe_load(case.file.read_text()), "sites": [SITE, OTHER]}))
    campaigns.create(two.instance, case.spec(), user="pilot", reason="to be tested")
    here = case.make_groups()
    there = sorted(two.ui.partitions(case.key(stage=OTHER)).unmaterialized)
    assert (len(here), len(there)) == (2, 2)

    waits = two.ui.backfill([case.key()], here)
    two.kill(CODE)
    wait_for("the location that is down", lambda: down(two) == {SITE})
    goes = two.ui.backfill([case.key(stage=OTHER)], there)
    wait_for("the other site's backfill", lambda: two.ui.backfill_status(goes).status == "COMPLETED_SUCCESS")
    log = two.deployment.logs / "daemon.log"
    wait_for("the daemon that waits", lambda: f"Backfill {waits} was unable to continue" in log.read_text())
    assert two.ui.backfill_status(waits).status == "REQUESTED"

    two.revive(CODE)
    wait_for("the backfill that waited", lambda: two.ui.backfill_status(waits).status == "COMPLETED_SUCCESS")
    assert two.ui.partitions(case.key()).materialized == set(here)
    found = Counter(
        name
        for site in (SITE, OTHER)
        for (name,) in wms_rows(two.deployment.wms_home(site), "SELECT name FROM run WHERE name LIKE 'filled.%'")
    )
    assert found == {
        f"filled.step1.{site}.{group}.a01": 1 for site, groups in ((SITE, here), (OTHER, there)) for group in groups
    }


def test_no_process_has_the_environment_of_another_site(two: Rig) -> None:
    for name, process in two.servers.running.items():
        lines = Path(f"/proc/{process.pid}/environ").read_text().split("\0")  # as it was when it was started
        given = dict(line.split("=", 1) for line in lines if "=" in line)
        site = name.removeprefix("code-") if name.startswith("code-") else None
        assert given.get("CM_SITE") == site
        assert given.get("CM_LOCAL_WMS_HOME") == (str(two.deployment.wms_home(site)) if site else None)
