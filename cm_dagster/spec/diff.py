"""What changed between two revisions of a campaign, in lines that people read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from cm_dagster.spec.models import CampaignSpec
from cm_dagster.spec.problems import Path, dotted

__all__ = ["diff"]


def diff(old: CampaignSpec, new: CampaignSpec) -> list[str]:
    """List the changes from one revision of a campaign to another, one line each; empty if there are none."""
    return list(_changes((), old.model_dump(mode="json"), new.model_dump(mode="json")))


def _changes(path: Path, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old | new:
            here = (*path, key)
            if key not in new:
                yield f"{dotted(here)}: removed (was {_shown(old[key])})"
            elif key not in old:
                yield f"{dotted(here)}: added {_shown(new[key])}"
            else:
                yield from _changes(here, old[key], new[key])
        kept = [key for key in old if key in new]
        moved = [key for key in new if key in old]
        if path == ("steps",) and kept != moved:
            yield f"{dotted(path)}: order {', '.join(kept)} -> {', '.join(moved)}"
    elif old != new or type(old) is not type(new):
        yield f"{dotted(path)}: {_shown(old)} -> {_shown(new)}"


def _shown(value: Any) -> str:
    """Write a value in a line, without what is not set."""
    return json.dumps(_filled(value), ensure_ascii=False)


def _filled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner) for key, inner in value.items() if inner not in (None, "", [], {})}
    return value
