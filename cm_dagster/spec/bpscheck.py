"""Check the ``bps:`` mappings of campaign and site files against the keys that BPS knows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from cm_dagster.spec.bpskeys import NUMBERED, OWNED, SECTIONS, SETTINGS, Section
from cm_dagster.spec.problems import Path, Problem, list_of, nearest

__all__ = ["bps_problems"]

_REFERENCE = re.compile(r"\{([A-Za-z_]\w*)[^{}]*\}")
_TOP = Section(own=frozenset(SECTIONS))


def bps_problems(places: Mapping[Path, object]) -> Iterator[Problem]:
    """Find the keys that BPS would ignore, and those that are not the user's to set.

    BPS lets users define variables of their own, to be used as ``{name}`` in other values; so a key that it does not
    know passes where any of the given mappings refers to it. A file that includes others (``includeConfigs``) may
    define variables for them: there, only what looks like a slip of a known key is reported.

    Parameters
    ----------
    places
        The ``bps:`` mappings of one campaign, by their paths; anything else than a mapping is left alone.
    """
    texts = [text for value in places.values() for text in _texts(value)]
    variables = {name for text in texts for name in _REFERENCE.findall(text)}
    includes = any(isinstance(value, Mapping) and "includeConfigs" in value for value in places.values())
    for path, value in places.items():
        if isinstance(value, Mapping):
            yield from _section(path, value, _TOP, variables, includes)


def _section(
    path: Path, content: Mapping[object, object], section: Section, variables: set[str], includes: bool
) -> Iterator[Problem]:
    known = section.own | (SETTINGS | {"environment", "profile", "attrs"} if section.settings else frozenset())
    for key, value in content.items():
        here = (*path, str(key))
        inner = SECTIONS.get(str(key))
        if reason := OWNED.get(str(key)):
            yield Problem(here, f"cannot be set here: {reason}")
        elif inner is not None and key in known:
            yield from _inner(here, value, inner, variables, includes)
        elif key not in known and not re.fullmatch(NUMBERED, str(key)) and key not in variables:
            near = nearest(key, known)
            if near or not includes:
                yield _unknown(here, near, known)


def _inner(path: Path, value: object, section: Section, variables: set[str], includes: bool) -> Iterator[Problem]:
    if section.free:
        return
    if not isinstance(value, Mapping):
        yield Problem(path, "is not a mapping", "a mapping of settings, as in BPS's documentation")
    elif not section.named:
        yield from _section(path, value, section, variables, includes)
    else:
        settings = Section(settings=section.settings, own=section.own)
        for name, content in value.items():
            here = (*path, str(name))
            if isinstance(content, Mapping):
                yield from _section(here, content, settings, variables, includes)
            else:
                yield Problem(
                    here, "is not a mapping", f"settings under a name: `{path[-1]}: {{NAME: {{{name}: ...}}}}`"
                )


def _unknown(path: Path, near: str, known: Iterable[str]) -> Problem:
    """Tell what else a key may be: a near one, one of another section, or a variable that nothing uses."""
    key = str(path[-1])
    if near:
        return Problem(path, "is not a key of BPS, which would ignore it", nearest=near)
    homes = [name for name, section in SECTIONS.items() if key in section.own]
    if homes:
        return Problem(path, "is not a key of BPS at this place, which would ignore it", f"it in `{homes[0]}`")
    if key in SECTIONS:
        return Problem(path, "is not a key of BPS at this place, which would ignore it", "it at the top of `bps`")
    expected = f"a key that BPS knows, or a variable that some value uses as {{{key}}}"
    if len(set(known)) <= 12:
        expected = f"one of {list_of(sorted(known))}"
    return Problem(path, "is not a key of BPS, which would ignore it", expected)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for content in value.values():
            yield from _texts(content)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
