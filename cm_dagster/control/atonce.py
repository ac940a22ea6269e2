"""Writing about many attempts at once without letting one of them stop the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

__all__ = ["all_or_each"]


def all_or_each[T](
    write: Callable[..., None],
    items: Sequence[T],
    apart: Callable[[T], AbstractContextManager[None]],
    log: logging.Logger,
) -> list[T]:
    """Write about all items at once; one by one should that fail.

    Parameters
    ----------
    write
        Writes about the items that it is given, all or nothing.
    items
        The items.
    apart
        Deals with the error of an item.
    log
        Where it is said that they are written one by one, and why.

    Returns
    -------
    written : `list`
        Those about which it is written.
    """
    try:
        write(*items)
    except Exception:
        log.exception("%d at once can't be written about; one by one, then", len(items))
    else:
        return list(items)
    written = []
    for item in items:
        with apart(item):
            write(item)
            written.append(item)
    return written
