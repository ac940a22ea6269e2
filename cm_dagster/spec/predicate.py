"""Check predicates (``where``): first without Butler's help, then with its own parser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from cm_dagster.spec.problems import nearest

__all__ = ["dimension_slip", "parse_slip", "predicate_slip"]

_EATEN = {
    '"': ("holds double quotes, which BPS removes", "single quotes around text: instrument='HSC'"),
    "\\": ("holds a backslash, which BPS takes as an escape", "a predicate without backslashes"),
    "$": ("holds a $, which BPS takes for an environment variable", "the value itself"),
    "{": ("holds braces, which BPS takes for a variable", "the value itself"),
    "}": ("holds braces, which BPS takes for a variable", "the value itself"),
    "<ENV:": ("holds <ENV:, which BPS takes for an environment variable", "the value itself"),
    "bpsEval": ("holds bpsEval, which BPS runs as code", "the value itself"),
}
"""What does not reach Butler as it is written."""


def predicate_slip(text: str) -> tuple[str, str] | None:
    """Find what would not survive the way through BPS, or is not closed.

    Parameters
    ----------
    text
        A predicate as Butler takes it; an empty one stands for none.

    Returns
    -------
    slip
        What is wrong, and what would be right; None if nothing is.
    """
    if not text:
        return None
    if not text.strip():
        return "is blank", "a predicate such as visit > 100, or nothing at all"
    for eaten, slip in _EATEN.items():
        if eaten in text:
            return slip
    if text.count("'") % 2:
        start = text.rindex("'")
        return f"has a single quote that is not closed: {_near(text, start)}", "a closing quote"
    return _parentheses(text)


def _parentheses(text: str) -> tuple[str, str] | None:
    bare = re.sub(r"'[^']*'", lambda quoted: "_" * len(quoted[0]), text)
    opened: list[int] = []
    for place, char in enumerate(bare):
        if char == "(":
            opened.append(place)
        elif char == ")" and not opened:
            return f"has a ) that was never opened: {_near(text, place)}", "as many ( as )"
        elif char == ")":
            opened.pop()
    if opened:
        return f"has a ( that is not closed: {_near(text, opened[-1])}", "as many ( as )"
    return None


def _near(text: str, place: int) -> str:
    """Quote a predicate from a place on, with a little before it, in one line."""
    start = max(0, place - 10)
    part = " ".join(text[start : place + 20].split())
    return f"{'...' if start else ''}{part}{'...' if place + 20 < len(text) else ''}"


def parse_slip(text: str) -> tuple[str, str, str] | None:
    """Parse a predicate with Butler's own parser; no repository is opened.

    The import costs more than a second, so it is done here, when there is a predicate to check.

    Returns
    -------
    slip
        What is wrong, what would be right, and the nearest known name; None if nothing is.
    """
    from lsst.daf.butler.queries.expressions.parser import ParserLex, parse_expression

    try:
        parse_expression(text)
    except Exception as error:  # the parser's errors have no common base
        return f"is not a predicate that Butler can read: {_syntax(text, error)}", "e.g. visit IN (1..5)", ""
    lexer = ParserLex.make_lexer()
    lexer.input(text)
    return next(_unknown_names(lexer), None)


def _syntax(text: str, error: Exception) -> str:
    found = re.search(r"character at position (\d+)", str(error))
    place = int(found[1]) if found else getattr(error, "pos", None)
    if place is None:
        return "it ends too early"
    return f"it stumbles at {getattr(error, 'token', text[place])!r} in {_near(text, place)}"


def _unknown_names(tokens: Any) -> Iterator[tuple[str, str, str]]:
    """Report placeholders, and names that look like a slip of one that Butler knows.

    A name that is far from all known ones passes: a repository may have dimensions of its own, and dataset types.
    """
    for token in tokens:
        if token.type == "BIND_NAME":
            yield f"has a placeholder, :{token.value}, which nothing fills in", "the value itself", ""
        elif token.type == "SIMPLE_IDENTIFIER" and token.value not in _names():
            if near := nearest(token.value, _names()):
                yield f"uses the unknown name {token.value}", "", near
        elif token.type == "QUALIFIED_IDENTIFIER":
            element, _, column = token.value.partition(".")
            columns = _columns().get(element, ())
            near = nearest(column, columns)
            if columns and column.split(".")[0] not in columns and near:
                yield f"uses the unknown name {token.value}", "", f"{element}.{near}"


def dimension_slip(name: str) -> str:
    """Find the dimension that was meant by an unknown one; empty if it is known, or far from all that are."""
    return "" if name in _dimensions() else nearest(name, _dimensions())


@cache
def _columns() -> dict[str, tuple[str, ...]]:
    """Columns of the elements of Butler's default universe, by element."""
    from lsst.daf.butler import DimensionUniverse

    extra = ("begin", "end")
    return {element.name: (*element.schema.names, "timespan", *extra) for element in DimensionUniverse().elements}


@cache
def _dimensions() -> tuple[str, ...]:
    from lsst.daf.butler import DimensionUniverse

    return tuple(DimensionUniverse().dimensions.names)


@cache
def _names() -> frozenset[str]:
    """Names that may stand alone in a predicate: elements, their columns, columns of any dataset, words."""
    columns = {column for names in _columns().values() for column in names}
    words = {"ingest_date", "dataset_id", "run", "collection", "null", "true", "false", "timespan", "now", "is"}
    shapes = {"circle", "box", "polygon", "region", "point", "glob", "utcnow"}
    return frozenset(_columns()) | columns | words | shapes
