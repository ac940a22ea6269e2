"""What the checks of this package report: a problem at a path of the file, before its line is known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

__all__ = ["Path", "Problem", "dotted", "list_of", "nearest"]

type Path = tuple[str | int, ...]
"""Keys and places that lead from the top of a file to a value."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong at one path."""

    path: Path
    message: str
    expected: str = ""
    nearest: str = ""


def nearest(word: object, choices: Iterable[str]) -> str:
    """Find the choice that the user most likely meant; empty if none is near.

    Parameters
    ----------
    word
        What the user wrote.
    choices
        The valid words.
    """
    by_lower = {choice.lower(): choice for choice in choices}
    # Spelling in snake_case, camelCase or kebab-case is the commonest slip; it must not count as a distance.
    plain = {lower.replace("_", "").replace("-", ""): choice for lower, choice in by_lower.items()}
    text = str(word).lower()[:200]
    same = by_lower.get(text) or plain.get(text.replace("_", "").replace("-", ""))
    if same:
        return same
    found = get_close_matches(text, by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else ""


def dotted(path: Path) -> str:
    """Write a path as the messages do, e.g. ``steps.step1.needs[0]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def list_of(words: Iterable[str], most: int = 20) -> str:
    """Write words as a list for a message, cut short after a number of them."""
    every = list(words)
    shown = ", ".join(every[:most])
    return f"{shown}, ..." if len(every) > most else shown
