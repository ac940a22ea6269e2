"""Measuring CPU time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Cpu", "measured"]


@dataclass
class Cpu:
    """What a piece of work cost."""

    own: float = 0.0
    """CPU seconds of this process."""
    children: float = 0.0
    """CPU seconds of the processes that it has started and waited for."""


@contextmanager
def measured() -> Iterator[Cpu]:
    """Measure a piece of work."""
    cpu, before = Cpu(), os.times()
    yield cpu
    after = os.times()
    cpu.own = after.user + after.system - before.user - before.system
    cpu.children = after.children_user + after.children_system - before.children_user - before.children_system
