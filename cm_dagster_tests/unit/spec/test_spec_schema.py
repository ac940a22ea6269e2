"""The JSON schemas that editors and pilots read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from lsst.daf.butler.column_spec import COLLECTION_NAME_MAX_LENGTH

from cm_dagster.spec import json_schema
from cm_dagster.spec.checks import MAX_COLLECTION
from cm_dagster.spec.schema import Kind, keys_at, phrase, schema_at


def _properties(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, model in {**schema["$defs"], "": schema}.items():
        for key, value in model["properties"].items():
            yield f"{name}.{key}", value


@pytest.mark.parametrize("kind", ["campaign", "site"])
def test_every_value_is_described(kind: Kind) -> None:
    schema = json_schema(kind)
    properties = dict(_properties(schema))
    assert len(properties) > 10
    assert [name for name, value in properties.items() if len(value.get("description", "")) < 15] == []
    assert all(model["additionalProperties"] is False for model in [schema, *schema["$defs"].values()])


@pytest.mark.parametrize("kind", ["campaign", "site"])
def test_every_default_is_told_in_words(kind: Kind) -> None:
    plain = {
        name: value
        for name, value in _properties(json_schema(kind))
        if "default" in value and not isinstance(value["default"], dict) and not name.endswith(".home")
    }
    assert len(plain) > 5
    told = ("by default", "the default")
    assert [name for name, value in plain.items() if not any(words in value["description"] for words in told)] == []


def test_what_a_path_takes() -> None:
    assert keys_at("campaign", ("butler",)) == ["repo", "input", "output", "where"]
    assert "dimension" in keys_at("campaign", ("steps", "any", "group_by"))
    assert (
        phrase("campaign", schema_at("campaign", ("steps", "any", "group_by", "size"))) == "a whole number, at least 1"
    )
    assert schema_at("campaign", ("steps", "any", "nothing")) is None


def test_length_of_collections_is_that_of_the_butler() -> None:
    assert MAX_COLLECTION == COLLECTION_NAME_MAX_LENGTH
