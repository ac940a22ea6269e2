"""How a transfer divides its time into batches."""

from __future__ import annotations

import time

import pytest

from cm_dagster.errors import TransferError
from cm_dagster.services.transfer import _BATCH, _FIRST, _Pace


def test_batches_grow_while_they_are_quick_and_are_bounded() -> None:
    pace = _Pace(time.monotonic() + 100, 100)
    sizes = [pace.size]
    for _ in range(8):
        pace.took(1)
        sizes.append(pace.size)
    assert sizes[:3] == [_FIRST, 2 * _FIRST, 4 * _FIRST]
    assert sizes[-1] == _BATCH


def test_batches_shrink_when_they_are_slow_but_never_to_nothing() -> None:
    pace = _Pace(time.monotonic() + 100, 100)
    for _ in range(20):
        pace.took(30)
    assert pace.size == 1


def test_no_batch_is_begun_that_would_be_killed() -> None:
    pace = _Pace(time.monotonic() + 100, 130)
    pace.took(50)
    pace.check()
    pace.took(101)
    with pytest.raises(TransferError, match="not done within 130 s") as caught:
        pace.check()
    assert caught.value.transient
