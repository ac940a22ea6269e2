"""The list of BPS's keys is that of the BPS which is installed."""

from __future__ import annotations

import re
from dataclasses import fields
from importlib.resources import files
from pathlib import Path

import lsst.ctrl.bps
import pytest
import yaml
from lsst.ctrl.bps import BPS_SEARCH_ORDER, GenericWorkflowJob

from cm_dagster.spec.bpscheck import bps_problems
from cm_dagster.spec.bpskeys import OWNED, SECTIONS, SETTINGS


def _unknown(config: object) -> list[str]:
    problems = bps_problems({(): config})
    return [str(problem.path[-1]) for problem in problems if "cannot be set" not in problem.message]


def test_all_defaults_of_bps_are_known() -> None:
    defaults = yaml.safe_load(files("lsst.ctrl.bps").joinpath("etc/bps_defaults.yaml").read_text())
    defaults["wmsServiceClass"] = None
    assert len(defaults) > 40
    assert _unknown(defaults) == []


def test_all_settings_of_a_job_are_known() -> None:
    names = [re.sub(r"_(\S)", lambda match: match[1].upper(), field.name) for field in fields(GenericWorkflowJob)]
    assert len(names) > 25
    assert [name for name in names if name not in SETTINGS | SECTIONS.keys() | OWNED.keys()] == []


def test_all_sections_that_bps_searches_are_known() -> None:
    own = {"bps_cmdline", "bps_defined"}
    assert set(BPS_SEARCH_ORDER) - own <= SECTIONS.keys()


_LOOKUP = re.compile(
    r"""(?:config\.search\(|config\[|config\.get\(|opt=search_opts?\)\[)\s*f?["']\.?([A-Za-z]\w*)["']"""
)
_INTERNAL = {"bps_defined", "bps_cmdline", "configFile", "label", "runQgraphFile", "workflowName", "workflowPath"} | {
    "inputs",
    "outputs",
}  # of customJob, which is refused as a whole


@pytest.mark.parametrize("package", ["lsst.ctrl.bps", "lsst.ctrl.bps.parsl"])
def test_whatever_the_code_looks_up_is_known(package: str) -> None:
    known = SETTINGS | SECTIONS.keys() | OWNED.keys() | set().union(*(section.own for section in SECTIONS.values()))
    root = Path(lsst.ctrl.bps.__file__).parent
    sources = (root / "parsl").rglob("*.py") if package.endswith("parsl") else root.glob("*.py")
    looked_up = {name for source in sources for name in _LOOKUP.findall(source.read_text())}
    assert len(looked_up) > (0 if package.endswith("parsl") else 40)
    assert looked_up - known - _INTERNAL == set()


def test_site_settings_of_parsl_are_known() -> None:
    lookup = re.compile(r"""get_bps_config_value\(\s*(?:self\.)?site,\s*f?["']\.?([a-z]\w*)["']""")
    sources = (Path(lsst.ctrl.bps.__file__).parent / "parsl").rglob("*.py")
    looked_up = {name for source in sources for name in lookup.findall(source.read_text())}
    assert len(looked_up) > 15
    assert looked_up - SECTIONS["site"].own - {"environment"} == set()


def test_a_variable_that_is_used_passes() -> None:
    config = {"payload": {"visits": "(1, 2)"}, "extraQgraphOptions": "--select {visits}"}
    assert _unknown(config) == []
    assert _unknown({"payload": {"visits": "(1, 2)"}}) == ["visits"]


def test_a_variable_for_an_included_file_passes_but_a_slip_does_not() -> None:
    config = {"includeConfigs": ["site.yaml"], "weather": "fine", "requestMemry": 1}
    assert _unknown(config) == ["requestMemry"]


def test_free_sections_take_anything() -> None:
    config = {
        "environment": {"ANY": "x"},
        "wmsConfig": {"DAGMAN_ANY": "x"},
        "site": {"s": {"profile": {"condor": {"+ANY": "x"}}, "environment": True}},
        "pipetask": {"isr": {"environment": {"OWN": "y"}}},
    }
    assert _unknown(config) == []


@pytest.mark.parametrize("key", sorted(OWNED))
def test_keys_of_cm_dagster_are_refused_at_the_top_and_inside(key: str) -> None:
    for config in ({key: "x"}, {"payload": {key: "x"}}, {"pipetask": {"isr": {key: "x"}}}):
        (problem,) = bps_problems({("bps",): config})
        assert problem.message == f"cannot be set here: {OWNED[key]}"
