"""Which site processes what, and where steps run in lanes: what the models say, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from cm_dagster.spec import Allotment, CampaignSpec
from cm_dagster.spec.sites import SiteSpec, WmsSpec

from .conftest import Messages

BASE = """\
campaign: mini
butler: {input: [HSC/raw/all], output: u/me/mini}
pipeline: mini.yaml
sites: SITES
steps:
  step1: {pipeline: "#step1"FIRST}
  step2: {pipeline: "#step2", needs: [step1]SECOND}
"""
CUT = ", group_by: {dimension: visit, dataset: raw}"
LANES = "step2: each site plans it from its own outputs (`barrier: site` of step1), "

CASES: dict[str, tuple[str, str, str, list[str]]] = {
    "share in quotes": (
        '{local: "0.5"}',
        "",
        "",
        [
            (
                "4: sites.local: is the text '0.5' (write it without quotes); "
                "expected a number, more than 0 or a mapping of share, where"
            )
        ],
    ),
    "share and predicate": (
        "{local: {share: 1, where: tract < 3}}",
        "",
        "",
        ["4: sites.local: has both `share` and `where`; expected one of them"],
    ),
    "neither share nor predicate": (
        "{local: {}}",
        "",
        "",
        ["4: sites.local: has neither `share` nor `where`; expected one of them"],
    ),
    "share of a mapping": (
        "{local: {share: -1}}",
        "",
        "",
        ["4: sites.local.share: is the number -1; expected a number, more than 0"],
    ),
    "predicates": (
        "{local: {where: trac < 3}, other: {where: 'a = \"b\"'}, third: 1}",
        "",
        "",
        [
            "4: sites.local.where: uses the unknown name trac; did you mean 'tract'?",
            (
                "4: sites.other.where: holds double quotes, which BPS removes; "
                "expected single quotes around text: instrument='HSC'"
            ),
        ],
    ),
    "predicate of a step's site": (
        "local",
        f"{CUT}, sites: {{local: {{where: vist < 3}}}}",
        "",
        ["6: steps.step1.sites.local.where: uses the unknown name vist; did you mean 'visit'?"],
    ),
    "site that the campaign does not have": (
        "local",
        ", sites: [loca]",
        "",
        [
            "6: steps.step1.sites.loca: the campaign has no site 'loca'; expected one of local; did you mean 'local'?",
        ],
    ),
    "site named twice": (
        "local",
        ", sites: [local, local]",
        "",
        ["6: steps.step1.sites: names local twice; expected each once"],
    ),
    "no site at all": ("local", ", sites: []", "", ["6: steps.step1.sites: is an empty list"]),
    "barrier": ("local", ", barrier: sites", "", ["6: steps.step1.barrier: is the text 'sites'; expected all or site"]),
    "predicates alone for steps that are one group": (
        "{local: {where: tract < 3}, other: {where: tract > 2}}",
        CUT,
        "",
        [
            (
                "7: steps.step2: is one group, which a site's `where` can't select, and none of its sites has a share; "
                "expected `group_by`, or `sites` of its own"
            )
        ],
    ),
    "lanes that are one group": (
        "[local, other]",
        ", barrier: site",
        "",
        [
            (
                f"7: steps.{LANES}but it is not cut by data: every site would cut the same groups; "
                "expected `group_by` with `dataset` or `max_quanta`"
            )
        ],
    ),
    "lanes that are cut by listed values": (
        "[local, other]",
        ", barrier: site",
        ", group_by: {dimension: visit, values: [1, 2]}",
        [f"7: steps.{LANES}but it is not cut by data: every site would cut the same groups"],
    ),
    "lanes at a site without inputs": (
        "[local, other]",
        ", barrier: site, sites: local",
        f"{CUT}, sites: [local, other]",
        [
            (
                f"7: steps.{LANES.replace(':', '.sites:', 1)}but it is at local, other, and step1 at local; "
                "expected the same sites, or `barrier: all` of step1"
            )
        ],
    ),
    "lanes that leave a site's outputs": (
        "[local, other]",
        ", barrier: site",
        f"{CUT}, sites: local",
        [
            (
                f"7: steps.{LANES.replace(':', '.sites:', 1)}but it is at local, and step1 at local, other; "
                "expected the same sites, or `barrier: all` of step1"
            )
        ],
    ),
    "lanes with a predicate": (
        "[local, other]",
        ", barrier: site",
        f"{CUT}, sites: {{local: {{where: visit < 3}}, other: 1}}",
        [(f"7: steps.{LANES.replace(':', '.sites:', 1)}so that a `where` selects nothing; expected names of sites")],
    ),
}


def text_of(sites: str, first: str, second: str) -> str:
    return BASE.replace("SITES", sites).replace("FIRST", first).replace("SECOND", second)


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_said(case: str, campaign_messages: Messages) -> None:
    *parts, expected = CASES[case]
    sites, first, second = parts
    messages = campaign_messages(text_of(sites, first, second))
    assert len(messages) == len(expected)
    for message, start in zip(messages, expected, strict=True):
        assert message.startswith(f"c.yaml:{start}")


@pytest.mark.parametrize(
    ("sites", "first", "second"),
    [
        ("local", ", barrier: site", ""),  # one site: no effect
        ("[local, other]", "", ", sites: other"),
        ("{local: 0.5, other: {where: tract < 3}}", "", CUT),
        ("[local, other]", ", barrier: site", CUT),
        ("[local, other]", ", barrier: site, sites: other", f"{CUT}, sites: other"),
        ("[local, other]", ", barrier: site", ", group_by: {dimension: tract, max_quanta: 10}"),
    ],
)
def test_what_is_right_passes(sites: str, first: str, second: str, campaign_messages: Messages) -> None:
    assert campaign_messages(text_of(sites, first, second)) == []


def spec_of(sites: object, steps: dict[str, object] | None = None, **changes: object) -> CampaignSpec:
    content = {
        "campaign": "c",
        "pipeline": "p.yaml",
        "butler": {"input": ["in"], "output": "out"},
        "sites": sites,
        "steps": steps or {"a": {"pipeline": "#a"}},
    }
    return CampaignSpec.model_validate(content | changes)


def two(barrier: str | None = "site", **second: object) -> dict[str, object]:
    """Two steps, the second of which needs the first."""
    by = {"dimension": "visit", "dataset": "raw"}
    first = {"pipeline": "#a", "group_by": by, "barrier": barrier}
    return {"a": first, "b": {"pipeline": "#b", "needs": ["a"], "group_by": by} | second}


def stored(spec: CampaignSpec) -> CampaignSpec:
    return CampaignSpec.model_validate(json.loads(json.dumps(spec.model_dump(mode="json"))))


@pytest.mark.parametrize(
    ("sites", "shares"),
    [
        ("x", {"x": 1.0}),
        (["x", "y"], {"x": 1.0, "y": 1.0}),
        ({"x": 2}, {"x": 2.0}),
        ({"y": {"share": 3}, "x": 0.5}, {"y": 3.0, "x": 0.5}),
    ],
)
def test_sites_may_be_a_name_a_list_or_shares(sites: object, shares: dict[str, float]) -> None:
    spec = spec_of(sites)
    assert list(spec.sites) == list(shares)
    assert spec.shares_of("a") == shares
    assert stored(spec) == spec
    assert spec_of(shares) == spec  # as campaigns were stored when a site had nothing but a share


def test_a_site_may_take_what_a_predicate_selects() -> None:
    spec = spec_of({"x": 0.6, "y": {"where": " tract < 100 "}}, two(None))
    assert spec.sites == {"x": Allotment(share=0.6), "y": Allotment(where="tract < 100")}
    assert spec.sites_of("b") == spec.sites
    assert spec.shares_of("b") == {"x": 0.6}
    assert stored(spec) == spec


def test_a_step_may_have_sites_of_its_own() -> None:
    spec = spec_of(["x", "y", "z"], two(None, sites={"z": 3, "x": {"where": "visit < 3"}}))
    assert spec.sites_of("a") == dict.fromkeys("xyz", Allotment(share=1.0))
    assert spec.sites_of("b") == {"z": Allotment(share=3.0), "x": Allotment(where="visit < 3")}
    assert spec.shares_of("b") == {"z": 3.0}
    assert stored(spec) == spec


def test_a_barrier_of_a_step_comes_before_that_of_the_defaults() -> None:
    spec = spec_of(["x", "y"], two("all"), defaults={"barrier": "site"})
    assert (spec.settings("a").barrier, spec.settings("b").barrier) == ("all", "site")
    assert spec_of("x").settings("a").barrier == "all"


def test_a_step_is_in_lanes_if_all_that_it_needs_lets_sites_go_on() -> None:
    by = {"dimension": "visit", "max_quanta": 100}
    steps = {
        **two(),
        "c": {"pipeline": "#c", "needs": ["a", "b"], "group_by": by, "barrier": "site"},
        "d": {"pipeline": "#d", "needs": ["a", "c"], "group_by": by},
    }
    spec = spec_of(["x", "y"], steps)
    assert {step: spec.lanes(step) for step in steps} == {"a": False, "b": True, "c": False, "d": True}
    assert not spec_of("x", two(group_by=None)).lanes("b")  # with one site a barrier has no effect


def test_a_step_in_lanes_is_where_what_it_needs_is() -> None:
    steps = two()
    assert list(spec_of(["x", "y"], steps).sites_of("b")) == ["x", "y"]
    steps["a"] = {"pipeline": "#a", "barrier": "site", "sites": "y"}
    assert list(spec_of(["x", "y"], steps).sites_of("b")) == ["y"]


def test_a_model_without_a_file_refuses_lanes_that_cannot_be_too() -> None:
    with pytest.raises(ValidationError, match="every site would cut the same groups"):
        spec_of(["x", "y"], two(group_by=None))


def test_names_of_lanes_count_for_the_length_of_collections(campaign_messages: Messages) -> None:
    """Groups of the second site have a digit more."""
    output = "u/" + "o" * (64 - len("/step1/g0000/a99/run") - 2)
    text = text_of("a", "", "").replace("u/me/mini", output)
    assert campaign_messages(text) == []
    (message,) = campaign_messages(text.replace("sites: a", "sites: [a, b]"))
    assert "step1/g10000/a99/run has 65" in message


@pytest.mark.parametrize(("tick", "brisk"), [(60.0, 20.0), (30.0, 10.0), (12.0, 5.0), (5.0, 5.0), (2.0, 2.0)])
def test_what_follows_is_looked_for_more_often_but_not_all_the_time(tick: float, brisk: float) -> None:
    wms = WmsSpec(service="a.Service", compute_site="here")
    assert SiteSpec(butler="/repo", submit_area=Path("/submit"), wms=wms, tick=tick).brisk == brisk
