"""Small documents in Dagster's own key-value store: plans, progress, what was chained, health of a site.

It is the store in which Dagster keeps its daemons' cursors; a document is written whole, by one writer.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable
from typing import Any

import dagster as dg

__all__ = ["get", "get_many", "put"]

_COMPRESS_FROM = 4096
_PREFIX = "cm_dagster/"


def put(instance: dg.DagsterInstance, key: str, document: Any) -> None:
    """Write a document.

    Parameters
    ----------
    instance
        The Dagster instance.
    key
        Name of the document.
    document
        Anything that JSON can hold.
    """
    text = json.dumps(document, separators=(",", ":"), sort_keys=True)
    if len(text) >= _COMPRESS_FROM:
        text = "y" + base64.b64encode(zlib.compress(text.encode())).decode()
    # One key a call: SQLite storage mistakes several.
    instance.daemon_cursor_storage.set_cursor_values({_PREFIX + key: text})


def get(instance: dg.DagsterInstance, key: str) -> Any:
    """Read a document; None if there is none."""
    return get_many(instance, [key]).get(key)


def get_many(instance: dg.DagsterInstance, keys: Iterable[str]) -> dict[str, Any]:
    """Read several documents in one query; those that do not exist are left out."""
    names = {_PREFIX + key for key in keys}
    if not names:
        return {}
    values = instance.daemon_cursor_storage.get_cursor_values(names)
    return {key.removeprefix(_PREFIX): _decode(text) for key, text in values.items()}


def _decode(text: str) -> Any:
    if text.startswith("y"):
        text = zlib.decompress(base64.b64decode(text[1:])).decode()
    return json.loads(text)
