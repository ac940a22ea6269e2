"""The guide to recovery says what the code does: verbs, states, settings and shipped rules."""

from __future__ import annotations

import ast
import inspect
import itertools
from pathlib import Path

import yaml

from cm_dagster.policy.rules import SHIPPED
from cm_dagster.policy.states import State
from cm_dagster.policy.verbs import ALLOWED, Verb
from cm_dagster.spec import CampaignSpec
from cm_dagster.spec.rules import Rule

GUIDE = (Path(__file__).parents[2] / "docs/recovery.md").read_text()


def table(head: str) -> list[tuple[str, ...]]:
    """Rows of the table whose head line begins so."""
    lines = GUIDE.partition(f"\n{head}")[2].partition("\n\n")[0].splitlines()[2:]
    return [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines]


def blocks() -> list[str]:
    """The YAML in the guide."""
    return [part.partition("```")[0] for part in GUIDE.split("```yaml\n")[1:]]


def test_each_verb_stands_with_what_it_does_and_where_it_may_be_used() -> None:
    (body,) = ast.parse(inspect.getsource(Verb)).body
    assert isinstance(body, ast.ClassDef)
    rows = [(ast.unparse(one), ast.unparse(two)) for one, two in itertools.pairwise(body.body)]
    does = {
        ast.literal_eval(one.partition(" = ")[2]): ast.literal_eval(text) for one, text in rows if one.find(" = ") > 0
    }
    states = {
        verb: ", ".join(state or "planned" for state in (None, *State) if state in ALLOWED[verb]) for verb in Verb
    }
    assert table("| Verb |") == [(f"`{verb}`", does[verb], states[verb]) for verb in Verb]


def test_each_setting_of_a_rule_stands_with_its_meaning() -> None:
    said = {name: " ".join((field.description or "").split()) for name, field in Rule.model_fields.items()}
    assert table("| Setting |") == [(f"`{name}`", text) for name, text in said.items()]


def test_the_shipped_rules_are_those_of_the_guide() -> None:
    shipped = yaml.safe_load(blocks()[-1])["rules"]
    assert [Rule.model_validate(each) for each in shipped] == list(SHIPPED)


def test_the_example_is_a_part_of_a_campaign_file() -> None:
    document = yaml.safe_load(blocks()[0])
    document["steps"]["step3"]["pipeline"] = "#step3"
    butler = {"input": ["in"], "output": "out"}
    spec = CampaignSpec.model_validate(
        {"campaign": "c", "butler": butler, "pipeline": "p.yaml", "sites": "x", **document}
    )
    names = [rule.name for rule in spec.settings("step3").rules]
    assert names == ["too-large", "memory-exit", "clouds", "odd-exit", "odd-exit-again"]
