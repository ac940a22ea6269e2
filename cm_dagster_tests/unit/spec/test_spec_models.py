"""Campaigns and sites that are right: what the models make of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from cm_dagster.errors import SpecError
from cm_dagster.spec import Allotment, CampaignSpec, Sites, diff, load_campaign, load_sites

from .conftest import EXAMPLE


@pytest.fixture
def example(tmp_path: Path) -> CampaignSpec:
    file = tmp_path / "campaign.yaml"
    file.write_text(EXAMPLE)
    return load_campaign(file)


def _spec(**changes: object) -> CampaignSpec:
    content = {
        "campaign": "c",
        "pipeline": "p.yaml",
        "butler": {"input": ["in"], "output": "out"},
        "sites": "local",
        "steps": {"a": {"pipeline": "#a"}},
    }
    return CampaignSpec.model_validate(content | changes)


def test_example_of_the_design_loads(example: CampaignSpec) -> None:
    assert example.butler.where == "instrument='HSC' AND skymap='hsc_rings_v1'"
    assert example.sites == {"usdf": Allotment(share=0.6), "frdf": Allotment(share=0.4)}
    assert list(example.steps) == ["step1", "step2", "step3"]
    group_by = example.steps["step1"].group_by
    assert group_by is not None
    assert (group_by.dimension, group_by.dataset, group_by.size) == ("visit", "raw", 100)
    assert example.steps["step3"].gate == "sign-off"


def test_stored_json_gives_an_equal_campaign(example: CampaignSpec) -> None:
    stored = json.loads(json.dumps(example.model_dump(mode="json")))
    assert CampaignSpec.model_validate(stored) == example


def test_settings_of_a_step_override_the_defaults() -> None:
    spec = _spec(
        bps={"requestMemory": 1, "pipetask": {"isr": {"requestMemory": 1, "requestCpus": 2}}},
        defaults={
            "accept": {"quanta": 0.9},
            "scouts": 3,
            "requirements": {"raw": "all", "flat": 2},
            "bps": {"queue": "q"},
        },
        steps={
            "a": {
                "pipeline": "#a",
                "accept": {"quanta": 0.5},
                "scouts": 0,
                "requirements": {"raw": 7},
                "bps": {"pipetask": {"isr": {"requestMemory": 9}}},
            },
            "b": {"pipeline": "#b"},
        },
    )
    own, general = spec.settings("a"), spec.settings("b")
    assert (own.accept.quanta, own.scouts, own.requirements) == (0.5, 0, {"raw": 7, "flat": 2})
    assert own.bps == {"requestMemory": 1, "queue": "q", "pipetask": {"isr": {"requestMemory": 9, "requestCpus": 2}}}
    assert (general.accept.quanta, general.scouts, general.retry.max) == (0.9, 3, 0)
    assert general.bps["pipetask"] == {"isr": {"requestMemory": 1, "requestCpus": 2}}


def test_rules_of_a_step_come_first_and_hide_those_of_their_name() -> None:
    hold, retry, fail = ({"name": name, "action": name} for name in ("hold", "retry", "fail"))
    spec = _spec(
        defaults={"rules": [hold, retry]},
        steps={"a": {"pipeline": "#a", "rules": [fail, {"name": "hold", "action": "accept"}]}, "b": {"pipeline": "#b"}},
    )
    assert [(rule.name, rule.action) for rule in spec.settings("a").rules] == [
        ("fail", "fail"),
        ("hold", "accept"),
        ("retry", "retry"),
    ]
    assert [rule.name for rule in spec.settings("b").rules] == ["hold", "retry"]


def test_empty_settings_mean_the_same_after_storage() -> None:
    spec = _spec(defaults={"accept": {"quanta": 0.9}}, steps={"a": {"pipeline": "#a", "accept": {}}})
    again = CampaignSpec.model_validate(spec.model_dump(mode="json"))
    assert again.settings("a") == spec.settings("a")


def test_pipeline_of_a_step() -> None:
    spec = _spec(steps={"a": {"pipeline": "#s1"}, "b": {"pipeline": "/own/q.yaml#x"}})
    assert spec.pipeline_of("a") == "p.yaml#s1"
    assert spec.pipeline_of("b") == "/own/q.yaml#x"


@pytest.mark.parametrize(
    ("general", "own", "both"),
    [("", "", ""), ("a=1", "", "a=1"), ("", "b=2", "b=2"), (" a=1 OR c=3\n", "b=2", "(a=1 OR c=3) AND (b=2)")],
)
def test_predicates_of_campaign_and_step_hold_together(general: str, own: str, both: str) -> None:
    butler = {"input": ["in"], "output": "out", "where": general}
    spec = _spec(butler=butler, steps={"a": {"pipeline": "#a", "where": own}})
    assert spec.where_of("a") == both


def test_order_and_ancestors() -> None:
    needs = {"d": ["b", "c"], "c": ["a"], "b": ["a"], "a": [], "e": []}
    spec = _spec(steps={name: {"pipeline": f"#{name}", "needs": wanted} for name, wanted in needs.items()})
    assert spec.order() == ["a", "c", "b", "d", "e"]
    assert spec.ancestors("d") == ["a", "c", "b"]
    assert spec.ancestors("e") == []


def test_a_model_without_a_file_refuses_a_circle_too() -> None:
    with pytest.raises(ValidationError, match="a -> b -> a"):
        _spec(steps={"a": {"pipeline": "#a", "needs": ["b"]}, "b": {"pipeline": "#b", "needs": ["a"]}})


def test_a_campaign_is_frozen(example: CampaignSpec) -> None:
    with pytest.raises(ValidationError):
        example.ticket = "DM-1"  # type: ignore[misc]


def test_models_do_not_import_the_stack() -> None:
    """Every code server and worker reads campaigns back; the LSST packages would cost it seconds."""
    code = "import sys, cm_dagster.spec; print([m for m in sys.modules if m.startswith(('lsst', 'dagster'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_diff_names_each_change() -> None:
    steps = {"a": {"pipeline": "#a"}, "b": {"pipeline": "#b", "group_by": {"dimension": "visit", "size": 100}}}
    old = _spec(steps=steps)
    changed = {"pipeline": "#b", "group_by": {"dimension": "visit", "size": 50}}
    new = _spec(ticket="DM-1", steps={"b": changed, "a": steps["a"], "c": {"pipeline": "#c", "needs": ["a"]}})
    assert diff(old, new) == [
        'ticket: "" -> "DM-1"',
        "steps.b.group_by.size: 100 -> 50",
        'steps.c: added {"pipeline": "#c", "needs": ["a"]}',
        "steps: order a, b -> b, a",
    ]
    assert diff(old, _spec(steps={"a": steps["a"]})) == [
        'steps.b: removed (was {"pipeline": "#b", "group_by": {"dimension": "visit", "size": 100}})'
    ]
    assert diff(old, old) == []


_SITES = """\
sites:
  local:
    butler: /repo
    submit_area: /submit
    wms: {service: cm_dagster.local.wms.LocalWmsService, compute_site: local}
"""


def test_a_single_site_is_home_and_has_defaults(tmp_path: Path) -> None:
    (tmp_path / "sites.yaml").write_text(_SITES)
    sites = load_sites(tmp_path / "sites.yaml")
    local = sites.sites["local"]
    assert sites.home == "local"
    assert (local.submit_area, local.tick, local.submit.batch, local.limits.in_flight) == (
        Path("/submit"),
        30.0,
        50,
        100,
    )
    assert Sites.model_validate(json.loads(json.dumps(sites.model_dump(mode="json")))) == sites


def test_sites_of_a_campaign_are_known(tmp_path: Path) -> None:
    (tmp_path / "sites.yaml").write_text(_SITES)
    sites = load_sites(tmp_path / "sites.yaml")
    file = tmp_path / "campaign.yaml"
    file.write_text(EXAMPLE.replace("{usdf: 0.6, frdf: 0.4}", "locla"))
    with pytest.raises(SpecError) as caught:
        load_campaign(file, sites)
    assert [str(fault) for fault in caught.value.faults] == [
        f"{file}:8: sites: there is no site 'locla'; expected one of local; did you mean 'local'?"
    ]
    file.write_text(EXAMPLE.replace("{usdf: 0.6, frdf: 0.4}", "[local, usdf]"))
    with pytest.raises(SpecError) as caught:
        load_campaign(file, sites)
    assert [str(fault) for fault in caught.value.faults] == [
        f"{file}:8: sites[1]: there is no site 'usdf'; expected one of local"
    ]
    file.write_text(EXAMPLE.replace("{usdf: 0.6, frdf: 0.4}", "local"))
    assert list(load_campaign(file, sites).sites) == ["local"]
