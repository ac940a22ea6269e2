"""How the assets of campaigns are put together in the web UI's graph."""

from __future__ import annotations

__all__ = ["group_of"]


def group_of(campaign: str, step: str) -> str:
    """Name the asset group of a step: a box in the graph, so that the boxes show the shape of the campaign.

    Names of campaigns hold no double underscore, so that no two steps have one group.
    """
    return f"{campaign}__{step}"
