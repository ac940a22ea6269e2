"""``docs/policies.md`` has each setting of the policies, with the unit, the default and the meaning of the models."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from cm_dagster.policy.holds import HoldKind
from cm_dagster.spec import CampaignSpec, SiteSpec, StepSpec
from cm_dagster.spec.overrides import Scope

TEXT = (Path(__file__).parents[2] / "docs/policies.md").read_text()
ROWS = {
    cells[0].strip("`"): cells[1:]
    for line in TEXT.splitlines()
    if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 4 and cells[0].startswith("`")
}
SITE = ("wms.settle", "wms.history", "submit", "limits", "transfer", "backoff", "tick")
CAMPAIGN = ("sites", "priority", "limits")
STEP = ("accept", "retry", "requirements", "scouts", "brake", "barrier", "sites", "gate")


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Give all settings of a model: name, default, meaning."""
    for key, field in model.model_fields.items():
        kinds = get_args(field.annotation) if isinstance(field.annotation, UnionType) else (field.annotation,)
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if inner:
            yield from settings(inner, f"{prefix}{key}.")
        else:
            default = None if field.default is PydanticUndefined else field.default
            yield f"{prefix}{key}", default, " ".join((field.description or "").split())


def chosen(model: type[BaseModel], prefix: str, keys: tuple[str, ...]) -> Iterator[tuple[str, Any, str]]:
    for name, default, meaning in settings(model):
        if name in keys or name.partition(".")[0] in keys:
            yield prefix + name, default, meaning


EXPECTED = {
    name: (default, meaning)
    for name, default, meaning in (
        *chosen(SiteSpec, "sites.NAME.", SITE),
        *chosen(CampaignSpec, "", CAMPAIGN),
        *chosen(StepSpec, "steps.NAME.", STEP),
    )
}


def test_all_settings_are_there_and_no_others() -> None:
    assert len(EXPECTED) > 25
    assert list(ROWS) == list(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_unit_default_and_meaning(name: str) -> None:
    default, meaning = EXPECTED[name]
    unit, shown, said = ROWS[name]
    assert said == meaning
    assert shown == ("none" if default in (None, [], {}) else f"`{json.dumps(default)}`")
    time = re.search(r"in (seconds|minutes|hours|days)\b", meaning)
    assert unit == time[1] if time else unit
    assert unit


def test_what_can_be_set_at_run_time_is_marked() -> None:
    scopes = (Scope("site", "NAME"), Scope("campaign", "NAME"), Scope("campaign", "NAME", "NAME"))
    prefixes = ("sites.NAME.", "", "")
    known = [prefix + path for scope, prefix in zip(scopes, prefixes, strict=True) for path in scope.paths.values()]
    assert [path for path in known if path not in ROWS] == []
    short = {key for scope in scopes for key in scope.paths}
    assert [key for key in short if f"`{key}`" not in TEXT.partition("## At run time")[2]] == []


@pytest.mark.parametrize("kind", HoldKind)
def test_what_holds_a_step_is_explained(kind: HoldKind) -> None:
    assert f"**{kind}**" in TEXT
