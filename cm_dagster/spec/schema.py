"""JSON schemas of our files, for editors and for messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal

from cm_dagster.spec.models import CampaignSpec
from cm_dagster.spec.problems import Path, list_of
from cm_dagster.spec.sites import Sites

__all__ = ["Kind", "choices_at", "homes_of", "json_schema", "keys_at", "phrase", "schema_at"]

type Kind = Literal["campaign", "site"]
"""A campaign file, or ``sites.yaml``."""

_TYPES = {
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "nothing",
    "number": "a number",
    "string": "text",
}


@cache
def _schema(kind: Kind) -> dict[str, Any]:
    model = CampaignSpec if kind == "campaign" else Sites
    title = "Campaign file of cm_dagster" if kind == "campaign" else "Site file of cm_dagster"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema(), "title": title}


def json_schema(kind: Kind) -> dict[str, Any]:
    """Give the JSON schema of a campaign file or of ``sites.yaml``; each value has a description with its unit."""
    return dict(_schema(kind))


def schema_at(kind: Kind, path: Path) -> dict[str, Any] | None:
    """Find the schema of the value at a path; None where the schema has no such place."""
    node: dict[str, Any] | None = _schema(kind)
    for part in path:
        node = next((found for plain in _plain(kind, node) if (found := _step(plain, part)) is not None), None)
        if node is None:
            return None
    return node


def _plain(kind: Kind, node: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Follow references and alternatives."""
    if node is None:
        return
    if "$ref" in node:
        yield from _plain(kind, _schema(kind)["$defs"][node["$ref"].rpartition("/")[2]])
    elif "anyOf" in node:
        for choice in node["anyOf"]:
            yield from _plain(kind, choice)
    else:
        yield node


def _step(node: Mapping[str, Any], part: str | int) -> dict[str, Any] | None:
    if isinstance(part, int):
        found = node.get("items")
    else:
        found = node.get("properties", {}).get(part) or node.get("additionalProperties")
        found = found or next(iter(node.get("patternProperties", {}).values()), None)
    return found if isinstance(found, dict) else None


def keys_at(kind: Kind, path: Path) -> list[str]:
    """List the keys that may stand in the mapping at a path; none where any may."""
    return [key for plain in _plain(kind, schema_at(kind, path)) for key in plain.get("properties", {})]


def homes_of(kind: Kind, key: str) -> list[str]:
    """List the mappings in which a key may stand, e.g. ``steps.NAME.group_by``."""
    return [home for home, keys in _homes(kind).items() if key in keys]


@cache
def _homes(kind: Kind) -> dict[str, tuple[str, ...]]:
    homes: dict[str, tuple[str, ...]] = {}

    def walk(node: Mapping[str, Any], home: str) -> None:
        for plain in _plain(kind, node):
            properties = plain.get("properties", {})
            if properties:
                homes[home] = tuple(properties)
            for key, inner in properties.items():
                walk(inner, f"{home}.{key}" if home else key)
            if isinstance(inner := plain.get("additionalProperties"), dict):
                walk(inner, f"{home}.NAME")

    walk(_schema(kind), "")
    return homes


def phrase(kind: Kind, node: Mapping[str, Any] | None) -> str:
    """Say in words what a schema takes, e.g. ``a whole number, at least 1``."""
    words = [_phrase(kind, plain) for plain in _plain(kind, node) if plain.get("type") != "null"]
    return " or ".join(dict.fromkeys(word for word in words if word))


def _choices(node: Mapping[str, Any]) -> list[str]:
    """List the words that a schema takes; none where it does not list them."""
    return [str(value) for value in node.get("enum", [node["const"]] if "const" in node else [])]


def choices_at(kind: Kind, path: Path) -> list[str]:
    """List the words that may stand at a path; none where the schema does not list them."""
    return [word for plain in _plain(kind, schema_at(kind, path)) for word in _choices(plain)]


def _phrase(kind: Kind, node: Mapping[str, Any]) -> str:
    if "const" in node or "enum" in node:
        return " or ".join(_choices(node))
    if node.get("type") == "array":
        items = phrase(kind, node.get("items"))
        return f"a list (each: {items})" if items else "a list"
    if node.get("type") == "object":
        keys = node.get("properties")
        return f"a mapping of {list_of(keys)}" if keys else "a mapping"
    text = _TYPES.get(node.get("type", ""), "")
    bounds = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most"}
    for bound, words in bounds.items():
        if bound in node:
            text += f", {words} {node[bound]:g}"
    if node.get("examples"):
        text += f", e.g. {node['examples'][0]}".replace("\n", "; ")
    return text
