"""Limits in the files, and settings that are set in their place."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from cm_dagster.errors import SpecError
from cm_dagster.spec import CampaignSpec, SiteSpec, load_campaign, load_sites
from cm_dagster.spec.overrides import Scope, campaign_with, parse, site_with

from .conftest import EXAMPLE

SITES = """\
sites:
  local:
    butler: /repo
    submit_area: /submit
    wms: {service: cm_dagster.local.wms.LocalWmsService, compute_site: local}
    limits: {per_hour: 20, windows: [mon-fri 18:00-06:00], ramp_up: {over: 60}}
"""


@pytest.fixture
def site(tmp_path: Path) -> SiteSpec:
    (tmp_path / "sites.yaml").write_text(SITES)
    return load_sites(tmp_path / "sites.yaml").sites["local"]


@pytest.fixture
def campaign(tmp_path: Path) -> CampaignSpec:
    (tmp_path / "campaign.yaml").write_text(EXAMPLE + "priority: 3\nlimits: {in_flight: 5}\n")
    return load_campaign(tmp_path / "campaign.yaml")


def test_limits_of_the_files(site: SiteSpec, campaign: CampaignSpec) -> None:
    assert (site.limits.in_flight, site.limits.per_hour, site.limits.ramp_up.over) == (100, 20, 60.0)
    assert (campaign.priority, campaign.limits.in_flight, campaign.limits.per_hour) == (3, 5, None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("per_hour: 0", ":6: sites.local.limits.per_hour: is the number 0; expected a whole number, at least 1"),
        ("windows: [18-06]", ":6: sites.local.limits.windows[0]: '18-06' is not a window; expected days, hours (UTC)"),
        ("ramp_up: {starts: 1}", ":6: sites.local.limits.ramp_up.starts: unknown key; did you mean 'start'?"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, wrong: str, message: str) -> None:
    file = tmp_path / "sites.yaml"
    file.write_text(
        SITES.replace("{per_hour: 20, windows: [mon-fri 18:00-06:00], ramp_up: {over: 60}}", f"{{{wrong}}}")
    )
    with pytest.raises(SpecError) as caught:
        load_sites(file)
    assert str(caught.value.faults[0]).startswith(f"{file}{message}")


def test_what_is_set_takes_the_place_of_the_file_and_of_nothing_else(site: SiteSpec, campaign: CampaignSpec) -> None:
    now = site_with(site, {"limits.per_hour": None, "limits.ramp_up.start": 1})
    assert (now.limits.per_hour, now.limits.ramp_up.start, now.limits.ramp_up.over) == (None, 1, 60.0)
    assert now.model_copy(update={"limits": site.limits}) == site
    changed = campaign_with(campaign, {"priority": 0, "limits.windows": ["sat"]})
    assert (changed.priority, changed.limits.in_flight, changed.limits.windows) == (0, 5, ["sat"])
    with pytest.raises(ValidationError):
        campaign_with(campaign, {"limits.in_flight": "many"})


def test_the_brake_of_a_step_keeps_what_the_defaults_say(campaign: CampaignSpec) -> None:
    document = campaign.model_dump(mode="json")
    document["defaults"]["brake"] = {"failed": 0.2, "ended": 3}
    general = CampaignSpec.model_validate(document)
    now = campaign_with(general, {"steps.step1.brake.in_a_row": 2})
    brake = now.settings("step1").brake
    assert (brake.failed, brake.ended, brake.in_a_row) == (0.2, 3, 2)
    assert now.settings("step2").brake == general.settings("step2").brake


def test_values_are_read_as_the_setting_wants_them(site: SiteSpec, campaign: CampaignSpec) -> None:
    texts = {"in_flight": "7", "per_hour": "none", "windows": "sat, 18:00-06:00", "ramp_up.over": "1.5"}
    assert parse(Scope("site", "local"), texts, site) == {
        "limits.in_flight": 7,
        "limits.per_hour": None,
        "limits.windows": ["sat", "18:00-06:00"],
        "limits.ramp_up.over": 1.5,
    }
    assert parse(Scope("site", "local"), {"windows": "none"}, site) == {"limits.windows": []}
    with pytest.raises(SpecError) as caught:
        parse(Scope("campaign", "c", "step1"), {"brake.failed": "2", "scots": "1"}, campaign)
    known = "one of scouts, brake.failed, brake.ended, brake.in_a_row"
    assert [str(fault) for fault in caught.value.faults] == [
        f"campaign c step step1: scots: there is no such setting; expected {known}; did you mean 'scouts'?",
        "campaign c step step1: brake.failed: is the number 2; expected a number, at least 0, at most 1",
    ]
