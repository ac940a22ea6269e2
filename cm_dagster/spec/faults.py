"""Turn pydantic's errors into faults that name file, line, path, and what was expected."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from cm_dagster.spec.bpskeys import SECTIONS, SETTINGS
from cm_dagster.spec.document import Document
from cm_dagster.spec.problems import Path, Problem, list_of, nearest
from cm_dagster.spec.schema import Kind, choices_at, homes_of, keys_at, phrase, schema_at

__all__ = ["empty_problems", "model_problems"]

_MISSING = "is missing"
_UNKNOWN = "unknown key"


def model_problems(kind: Kind, document: Document, error: ValidationError) -> list[Problem]:
    """Translate what pydantic found.

    Parameters
    ----------
    kind
        Which file it is.
    document
        The file, for how values are written.
    error
        What pydantic found.
    """
    found = error.errors(include_url=False)
    # `cm_graph` has been found, with its line, on the file itself.
    problems = [_problem(kind, document, dict(one)) for one in found if one["type"] != "cm_graph"]
    # A misspelt key is missing too; to say both would only confuse.
    meant = {(*problem.path[:-1], problem.nearest) for problem in problems if problem.message == _UNKNOWN}
    return [problem for problem in problems if not (problem.message == _MISSING and problem.path in meant)]


def empty_problems(kind: Kind, document: Document) -> list[Problem]:
    """Find keys without a value: whoever wrote them has meant something, even where nothing is allowed."""
    found = []
    for path, written in document.written.items():
        schema = schema_at(kind, path)
        if written == "" and schema is not None:
            hint = _hint(document, path, None, "")
            either = ", or no such key at all" if "default" in schema else ""
            found.append(Problem(path, f"is empty{hint}", phrase(kind, schema) + either))
    return found


def _problem(kind: Kind, document: Document, error: Mapping[str, Any]) -> Problem:
    path: Path = tuple(part for part in error["loc"] if part != "[key]")
    context = error.get("ctx", {})
    if error["type"] == "cm":
        return Problem(path, context["message"], context["expected"], context["nearest"])
    if error["type"] == "extra_forbidden":
        return _unknown_key(kind, path)
    schema = schema_at(kind, path)
    expected = phrase(kind, schema)
    if error["type"] == "missing":
        meaning = re.split(r"[;:.](?:\s|$)|, e\.g\.", " ".join((schema or {}).get("description", "").split()))[0]
        return Problem(path, _MISSING, f"{expected}: {meaning}" if meaning else expected)
    if error["type"] == "too_long":
        return Problem(path, f"has {context['actual_length']} entries", f"at most {context['max_length']}")
    value = error["input"]
    near = nearest(value, choices_at(kind, path)) if isinstance(value, str) else ""
    return Problem(path, f"is {_shown(value)}{_hint(document, path, value, expected)}", expected, near)


def _unknown_key(kind: Kind, path: Path) -> Problem:
    key, keys = str(path[-1]), keys_at(kind, path[:-1])
    homes = [f"`{home}`" if home else "the top level" for home in homes_of(kind, key)]
    # A key that is written as it stands elsewhere was meant so; `size` of a step is not a slip of `sites`.
    if not homes and (near := nearest(key, keys)):
        return Problem(path, _UNKNOWN, nearest=near)
    if key in SETTINGS or key in SECTIONS:
        return Problem(path, "unknown key here, but one of BPS", f"it in `bps: {{{key}: ...}}`")
    if homes:
        return Problem(path, "unknown key here", f"it in {' or '.join(homes)}")
    return Problem(path, _UNKNOWN, f"one of {list_of(keys)}")


def _shown(value: object) -> str:
    """Describe a wrong value."""
    if value is None or value == "":
        return "empty"
    if isinstance(value, str):
        return f"the text {value[:60]!r}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value}"
    kind = "a list" if isinstance(value, list) else "a mapping"
    return kind if value else kind.replace("a ", "an empty ")


def _hint(document: Document, path: Path, value: object, expected: str) -> str:
    """Explain a value of which YAML has made something else than was meant."""
    written = document.written.get(path)
    if path in document.comments:
        return " (YAML takes # after a space for a comment: put the value in quotes)"
    if written and isinstance(value, bool | int | float):
        quotes = f'in quotes it is text: "{written}"' if expected.startswith("text") else ""
        reading = f"written {written}" if written.lower() != str(value).lower() else ""
        both = "; ".join(hint for hint in (reading, quotes) if hint)
        return f" ({both})" if both else ""
    if isinstance(value, str) and "number" in expected:
        if written is None and re.fullmatch(r"[-+.\d]+", value):
            return " (write it without quotes)"
        if re.fullmatch(r"\d+(\.\d+)?[eE]\+?\d", value):
            return f" (YAML takes it for text: write {float(value):.0f})"
    return ""
