"""Asset ``sites``: what people set of sites at run time, a partition each."""

from __future__ import annotations

import dagster as dg

from cm_dagster.ledger.sites import ASSET, PARTITIONS

__all__ = ["sites"]

sites = dg.AssetSpec(
    ASSET,
    description="Each materialization is a change of a site's limits: who, when, why, and all that is set."
    " Written by `cm limits set` and `cm limits reset`.",
    partitions_def=PARTITIONS,
    kinds={"site"},
)
