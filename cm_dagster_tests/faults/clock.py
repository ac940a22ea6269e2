"""A clock that can be set: what our code takes for the time, and for the times of files.

Dagster's own clock stays real. Ours is behind `time.time` and `pathlib.Path.stat`, which are made to agree.
"""

from __future__ import annotations

import bisect
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

__all__ = ["Clock"]

_real_time = time.time
_real_stat = Path.stat


class Clock:
    """The time of a world, kept in a file so that all of its processes agree.

    Parameters
    ----------
    path
        The file: since when (real seconds since the epoch) the clock is ahead, and by how many seconds.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._steps: list[tuple[float, float]] = []
        self._read()

    def _read(self) -> None:
        if self._path.exists():
            self._steps = [(since, ahead) for since, ahead in json.loads(self._path.read_text())]

    @property
    def ahead(self) -> float:
        """Seconds by which the clock is ahead now."""
        return self._steps[-1][1] if self._steps else 0.0

    def advance(self, seconds: float) -> None:
        """Set the clock forward, or back if negative, for all processes that begin or `install` it from now on."""
        self._read()
        self._steps.append((_real_time(), self.ahead + seconds))
        text = json.dumps(self._steps)
        draft = self._path.with_suffix(f".{os.getpid()}")
        draft.write_text(text)
        draft.replace(self._path)
        os.environ["CM_FAKE_CLOCK_AHEAD"] = str(self.ahead)

    def now(self) -> float:
        """Seconds since the epoch by this clock."""
        return _real_time() + self.ahead

    def _shown(self, real: float) -> float:
        """What this clock showed at a real time."""
        place = bisect.bisect_right(self._steps, (real, float("inf")))
        return real + (self._steps[place - 1][1] if place else 0.0)

    def install(self) -> None:
        """Let this process live by the clock."""
        os.environ["CM_FAKE_CLOCK_AHEAD"] = str(self.ahead)
        shown = SimpleNamespace(**{**vars(time), "time": self.now})
        for name, module in list(sys.modules.items()):
            ours = name.startswith("cm_dagster.") and not name.startswith("cm_dagster.testing.")
            if ours and getattr(module, "time", None) is time:
                module.time = shown  # type: ignore[attr-defined]

        def stat(path: Path, *, follow_symlinks: bool = True) -> Any:
            found = _real_stat(path, follow_symlinks=follow_symlinks)
            fields = {name: getattr(found, name) for name in dir(found) if name.startswith("st_")}
            return SimpleNamespace(**{**fields, "st_mtime": self._shown(found.st_mtime)})

        Path.stat = stat  # type: ignore[assignment,method-assign]
