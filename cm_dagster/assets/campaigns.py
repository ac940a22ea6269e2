"""Asset ``campaigns``: the ledger's record of each campaign, a partition each."""

from __future__ import annotations

import dagster as dg

from cm_dagster.ledger.campaigns import ASSET, PARTITIONS

__all__ = ["campaigns"]

campaigns = dg.AssetSpec(
    ASSET,
    description="Each materialization is a decision on a campaign: who, when, why, and the whole specification."
    " Written by `cm campaign create` and its like.",
    partitions_def=PARTITIONS,
    kinds={"campaign"},
)
