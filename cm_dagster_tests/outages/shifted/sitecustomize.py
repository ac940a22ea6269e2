"""Gives each Python process that finds this folder on its ``PYTHONPATH`` a clock that tests set while it runs.

Shifted are ``time.time``, the times of files as `pathlib` tells them, and the two functions of Dagster that all of its
processes take the time from. Not shifted are monotonic clocks, as on a real host whose clock is set, and the C core of
gRPC, so a clock that is behind would end its calls at once.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from cm_dagster_tests.faults.clock import Clock

_LOOK = 0.5
"""Seconds for which what the clock's file said is believed."""
_TIME = "dagster._time"


class _LiveClock(Clock):
    """A clock that follows its file."""

    _next = 0.0

    def now(self) -> float:
        """Seconds since the epoch by this clock."""
        if time.monotonic() > self._next:
            self._next = time.monotonic() + _LOOK
            self._read()
        return super().now()


class _Finder(MetaPathFinder):
    """Has Dagster take its dates from the clock too, when a process imports it: most do not."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find the module as others do, and add to its execution."""
        if fullname != _TIME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_shift(module: ModuleType) -> None:
            execute(module)
            vars(module)["_mockable_get_current_datetime"] = lambda: datetime.fromtimestamp(time.time(), UTC)

        vars(spec.loader)["exec_module"] = execute_and_shift
        return spec


def _install(clock: Clock) -> None:
    clock.install()
    time.time = clock.now
    sys.meta_path.insert(0, _Finder())


if "CM_TEST_CLOCK" in os.environ:
    _install(_LiveClock(Path(os.environ["CM_TEST_CLOCK"])))
