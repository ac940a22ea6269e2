"""The list of crash points is the list of places in the code, each named once."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import cm_dagster
from cm_dagster.crashpoints import POINTS, crash_point, set_crash_hook

_PLACE = re.compile(r'crash_point\("([^"]+)"\)')


def test_each_point_is_one_place_in_the_code() -> None:
    sources = Path(cm_dagster.__file__).parent.rglob("*.py")
    places = Counter(name for source in sources for name in _PLACE.findall(source.read_text()))
    assert places == Counter(POINTS.keys())


def test_the_hook_hears_of_each_point_passed() -> None:
    heard: list[str] = []
    set_crash_hook(heard.append)
    try:
        crash_point("claim.locked")
    finally:
        set_crash_hook(None)
    crash_point("claim.claimed")
    assert heard == ["claim.locked"]
