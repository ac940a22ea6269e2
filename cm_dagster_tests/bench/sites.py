"""What sites get done while another one is away, beside what they get done undisturbed, with real processes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from rich.table import Table

from cm_dagster.ledger import campaigns
from cm_dagster_tests.several.land import EAST, SHARES, WEST, Land, Shared, open_land
from cm_dagster_tests.system.rig import SITE, wait_for

__all__ = ["bench"]

_GROUPS, _WINDOW, _SLEEP = 150, 150.0, 40.0
"""Groups, seconds of each window, and seconds that a job sleeps: so that sites wait for time, not for processors."""

_OUTAGES: dict[str, tuple[str, Callable[[Land], AbstractContextManager[None]]]] = {
    WEST: ("Butler (PostgreSQL) of west", lambda land: land.without_butler(WEST)),
    EAST: ("code server of east", lambda land: land.without_code_server(EAST)),
    SITE: ("WMS of the home site", lambda land: land.wms(SITE).away()),
}


def _window(case: Shared) -> Counter[str]:
    before = case.accepted()
    time.sleep(_WINDOW)
    return case.accepted() - before


def bench(folder: Path) -> Table:
    """Measure windows without and with an outage in turn: what one site suffers, and what the two others get done.

    Parameters
    ----------
    folder
        Where the sites are made.
    """
    table = Table("away", "others accept, undisturbed", "others accept meanwhile", "goes on after its return")
    done: Counter[str] = Counter()
    with open_land(folder / "land", _GROUPS, in_flight=2) as land:
        case = Shared(land.rig, "shared", land, _GROUPS, _SLEEP)
        case.write()
        campaigns.create(land.rig.instance, case.spec(), user="bench", reason="bench")
        case.start()
        wait_for("work at all sites", lambda: all(case.accepted()[site] for site in SHARES), 600.0)
        for site, (what, outage) in _OUTAGES.items():
            others = [other for other in SHARES if other != site]
            quiet = _window(case)
            with outage(land):
                window = _window(case)
            back = case.wait_for_progress(site)
            usual, now = (sum(each[other] for other in others) for each in (quiet, window))
            done += Counter(usual=usual, now=now)
            table.add_row(f"{what}, {_WINDOW:.0f} s", f"{usual}", f"{now}", f"{back:.0f} s")
    table.add_row("all", f"{done['usual']}", f"{done['now']} = {done['now'] / done['usual']:.2f} of undisturbed", "")
    return table
