"""Asset ``sites``: what people set of sites at run time, a partition each."""

from __future__ import annotations

import dagster as dg

from cm_dagster.ledger.sites import ASSET, PARTITIONS

__all__ = ["sites"]

sites = dg.AssetSpec(
    ASSET,
    description="Each materialization is a change of a site's limits, or a downtime: who, when, why, and all that is"
    " set. Written by `cm limits set|reset` and `cm site stop|start`.",
    partitions_def=PARTITIONS,
    kinds={"site"},
)
