"""The files of a deployment: code locations by site, environments that know nothing of other sites, limits by site."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cm_dagster.assets.audit import audit_job
from cm_dagster.assets.jobs import site_jobs
from cm_dagster.control.lanes import LANE
from cm_dagster.control.travel import DELIVER, STAGE
from cm_dagster.errors import LedgerError
from cm_dagster.ledger.locations import addresses
from cm_dagster.ledger.tags import place_at
from cm_dagster.local.deployment import Deployment, template
from cm_dagster.local.servers import Servers

SITES = {"sites": {"east": {"home": True}, "west": {}}}


@pytest.fixture
def two(tmp_path: Path) -> Deployment:
    made = Deployment(tmp_path)
    made.write(SITES)
    return made


def test_the_example_has_a_code_location_for_each_site(tmp_path: Path) -> None:
    path = tmp_path / "workspace.yaml"
    path.write_text(template("workspace.yaml"))
    assert addresses(path) == {"usdf": ("cm-usdf.example.org", 4266), "frdf": ("cm-frdf.example.org", 4266)}


def test_an_address_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "workspace.yaml"
    path.write_text("load_from: [{grpc_server: {location_name: usdf, port: 4266, host: {env: CM_CODE_HOST_USDF}}}]")
    with pytest.raises(LedgerError, match="CM_CODE_HOST_USDF"):
        addresses(path)
    monkeypatch.setenv("CM_CODE_HOST_USDF", "somewhere")
    assert addresses(path) == {"usdf": ("somewhere", 4266)}


def test_a_deployment_lists_its_sites(two: Deployment) -> None:
    two.write_workspace({"east": 1001, "west": 1002})
    assert addresses(two.workspace) == {"east": ("127.0.0.1", 1001), "west": ("127.0.0.1", 1002)}
    assert Servers(two).names == ["code-east", "code-west", "web", "daemon"]


def test_each_site_has_its_own_folders_and_environment(two: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CM_SITE", "east")
    monkeypatch.setenv("CM_LOCAL_WMS_HOME", "/of/east")
    west = two.environment("west")
    assert (west["CM_SITE"], west["CM_LOCAL_WMS_HOME"]) == ("west", str(two.wms_home("west")))
    assert not {"CM_SITE", "CM_LOCAL_WMS_HOME"} & two.environment().keys()
    assert len({two.submit_area("east"), two.submit_area("west"), two.wms_home("east"), two.wms_home("west")}) == 4
    assert all(area.is_dir() for site in two.names for area in (two.submit_area(site), two.wms_home(site)))


def test_places_of_runs_are_counted_for_each_site_alone() -> None:
    limits = yaml.safe_load(template("dagster.yaml"))["run_coordinator"]["config"]["tag_concurrency_limits"]
    single = {each["key"] for each in limits if each["value"] == {"applyLimitPerUniqueValue": True}}
    jobs = [job.tags for job in site_jobs("east", [STAGE, DELIVER]).values()] + [audit_job("east").tags or {}]
    jobs.append(place_at(LANE, "east"))  # its runs are of assets, and get it from the sensor
    assert sorted(single) == sorted(key for tags in jobs for key, value in tags.items() if value == "east")
