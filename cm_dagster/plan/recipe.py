"""In what an attempt differs from a plain one: what it skips, and the memory that it asks for.

It travels as a tag of the attempt's run, together with the number that the attempt was meant to have: a re-execution
copies tags, and must not take over what was meant for the attempt that it follows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ["Recipe"]

_LONGEST = 2500
"""Bytes of a tag; PostgreSQL indexes 2,700 at most."""


@dataclass(frozen=True)
class Recipe:
    """In what an attempt differs from a plain one; nothing by default."""

    rescued: tuple[int, ...] = ()
    """Numbers of the attempts at the group whose finished quanta are not done again, the newest first."""
    done: int = 0
    """Number of quanta that the RUN collections of those attempts hold."""
    memory: Mapping[str, int] = field(default_factory=dict)
    """Memory that jobs ask for (`requestMemory`), in MB, by section of the BPS configuration, e.g. ``pipetask/isr``."""

    def dump(self, number: int) -> str:
        """Write it for the attempt of a number; empty for a plain attempt.

        Raises
        ------
        ValueError
            If it is too long for a tag.
        """
        if self == Recipe():
            return ""
        content = {"number": number, "rescued": self.rescued, "done": self.done, "memory": dict(self.memory)}
        text = json.dumps(content, separators=(",", ":"))
        if len(text) > _LONGEST:
            raise ValueError(f"what differs from a plain attempt is too much to be written down: {len(text)} bytes")
        return text

    @classmethod
    def load(cls, text: str, number: int) -> Recipe:
        """Read what was written for the attempt of a number; that of a plain attempt if it is another's."""
        content: dict[str, Any] = json.loads(text) if text else {}
        if content.get("number") != number:
            return cls()
        return cls(tuple(content["rescued"]), content["done"], content["memory"])

    def with_memory(self, more: Mapping[str, int]) -> Recipe:
        """Give the same with other demands for memory in some sections."""
        return replace(self, memory={**self.memory, **more})
