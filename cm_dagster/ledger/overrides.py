"""What people set at run time, each with who, when and why; it is kept with the decisions on a campaign or a site.

Uses of ``dagster._core``: none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Override", "changed_text", "dump", "load", "overridden", "without"]


@dataclass(frozen=True)
class Override:
    """A value that somebody set."""

    value: Any
    user: str
    time: float
    """When, in seconds since the epoch."""
    reason: str


def overridden(
    before: Mapping[str, Override], values: Mapping[str, Any], *, user: str, time: float, reason: str
) -> dict[str, Override]:
    """Set values, by dotted path, in place of others that were set there."""
    return {**before, **{path: Override(value, user, time, reason) for path, value in values.items()}}


def without(before: Mapping[str, Override], paths: Iterable[str]) -> dict[str, Override]:
    """Take back what was set at some paths."""
    gone = set(paths)
    return {path: each for path, each in before.items() if path not in gone}


def changed_text(values: Mapping[str, Any]) -> str:
    """Write settings in a line, as a person writes them, e.g. ``limits.in_flight=50 limits.per_hour=none``."""
    return " ".join(f"{path}={_text(value)}" for path, value in values.items())


def _text(value: Any) -> str:
    if value is None or value == []:
        return "none"
    return ",".join(value) if isinstance(value, list) else str(value)


def dump(overrides: Mapping[str, Override]) -> dict[str, Any]:
    """Give them as JSON can hold them."""
    return {path: asdict(each) for path, each in sorted(overrides.items())}


def load(document: object) -> dict[str, Override]:
    """Read what `dump` gave; nothing where there is none."""
    return {path: Override(**fields) for path, fields in document.items()} if isinstance(document, dict) else {}
