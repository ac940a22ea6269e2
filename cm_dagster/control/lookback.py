"""How far back a WMS is asked: to when what is asked for can have been submitted, however long we were away."""

from __future__ import annotations

import time
from collections.abc import Iterable

from cm_dagster.control.site import Site
from cm_dagster.ledger.attempts import Attempt

__all__ = ["lookback", "reach"]

_DAY = 86400.0
_CLOCKS_APART = 600.0
"""Seconds by which the WMS's clock may be behind ours."""


def reach(attempts: Iterable[Attempt]) -> float:
    """Say how many days back no workflow of some attempts can have ended, since none of them was requested then.

    Parameters
    ----------
    attempts
        The attempts.
    """
    now = time.time()
    oldest = min((min(each.created, each.started or now, each.sent or now) for each in attempts), default=now)
    return (max(0.0, now - oldest) + _CLOCKS_APART) / _DAY


def lookback(site: Site, attempts: Iterable[Attempt]) -> float:
    """Say how many days back to look for workflows of some attempts that nobody may know of, or by their ids.

    Parameters
    ----------
    site
        The site; its ``wms.history`` is the least.
    attempts
        The attempts.
    """
    return max(site.spec.wms.history, reach(attempts))
