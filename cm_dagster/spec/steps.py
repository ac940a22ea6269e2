"""Pure functions on the graph of steps, and on settings that override each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from cm_dagster.spec.problems import Problem, list_of, nearest

__all__ = ["ancestors", "graph_problems", "merge", "topological"]


def graph_problems(needs: Mapping[str, Sequence[str]]) -> Iterator[Problem]:
    """Find steps that are needed but absent, needed twice, or that need each other in a circle.

    Parameters
    ----------
    needs
        The steps that each step needs, in the order of the file.
    """
    for step, wanted in needs.items():
        for place, name in enumerate(wanted):
            here = ("steps", step, "needs", place)
            if name not in needs:
                others = [other for other in needs if other != step]
                yield Problem(here, f"there is no step {name!r}", f"one of {list_of(others)}", nearest(name, others))
            elif name in wanted[:place]:
                yield Problem(here, f"names {name} twice", "each once")
    for circle in _circles(needs):
        shown = " -> ".join((*circle, circle[0]))
        message = f"steps need each other in a circle: {shown}" if len(circle) > 1 else f"{shown}: it needs itself"
        yield Problem(("steps", circle[0], "needs"), message, "no circle")


def _circles(needs: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """Find circles that have no step in common, each from the step that comes first in the file."""
    order = list(needs)
    graph = {step: [name for name in wanted if name in needs] for step, wanted in needs.items()}
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            circle: list[str] = error.args[1][:0:-1]  # it goes from a need to who needs it, and closes
        else:
            return
        first = circle.index(min(circle, key=order.index))
        yield circle[first:] + circle[:first]
        graph = {step: wanted for step, wanted in graph.items() if step not in circle}


def topological(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Order steps so that each comes after those that it needs, and otherwise as given.

    Parameters
    ----------
    needs
        The steps that each step needs, without circles.
    """
    ready: dict[str, None] = {}
    waiting = list(needs)
    while waiting:
        step = next(name for name in waiting if all(other in ready for other in needs[name]))
        ready[step] = None
        waiting.remove(step)
    return list(ready)


def ancestors(needs: Mapping[str, Sequence[str]], step: str) -> list[str]:
    """List all steps that a step needs, directly or through others, in topological order."""
    found: set[str] = set()
    waiting = list(needs[step])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(needs[name])
    return [name for name in topological(needs) if name in found]


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Lay mappings over each other, at all depths; what comes later wins."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            both = isinstance(below, Mapping) and isinstance(value, Mapping)
            merged[key] = merge(below, value) if both and below is not None else value
    return merged
