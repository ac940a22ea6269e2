"""Settings that can be changed while campaigns run: which there are, how they are written, what holds then."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from cm_dagster.errors import Fault, SpecError
from cm_dagster.spec.document import Document
from cm_dagster.spec.faults import model_problems
from cm_dagster.spec.limits import Brake, CampaignLimits, LimitsSpec
from cm_dagster.spec.models import CampaignSpec
from cm_dagster.spec.problems import Path, Problem, list_of, nearest
from cm_dagster.spec.schema import phrase, schema_at
from cm_dagster.spec.sites import Sites, SiteSpec

__all__ = ["Scope", "campaign_with", "parse", "site_with"]


@dataclass(frozen=True)
class Scope:
    """What settings are changed of: a site, a campaign, or a step of a campaign."""

    kind: Literal["site", "campaign"]
    name: str
    step: str = ""

    @property
    def paths(self) -> dict[str, str]:
        """Where each setting stands in the site or the campaign file, dotted, by its short name."""
        if self.kind == "site":
            return {key: f"limits.{key}" for key in _leaves(LimitsSpec)}
        if self.step:
            keys = ["scouts", *(f"brake.{key}" for key in _leaves(Brake))]
            return {key: f"steps.{self.step}.{key}" for key in keys}
        return {"priority": "priority", **{key: f"limits.{key}" for key in _leaves(CampaignLimits)}}

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f" step {self.step}" if self.step else "")


def _leaves(model: type[BaseModel]) -> Iterator[str]:
    """Name the settings of a model, those of models in it dotted."""
    for key, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from (f"{key}.{rest}" for rest in _leaves(inner))
        else:
            yield key


def campaign_with(spec: CampaignSpec, values: Mapping[str, Any]) -> CampaignSpec:
    """Give a campaign with other values at some dotted paths.

    Raises
    ------
    pydantic.ValidationError
        If a value is none that may stand there.
    """
    document = spec.model_dump(mode="json")
    for path, value in values.items():
        first, _, rest = path.partition(".")
        step = rest.partition(".")[0]
        if first == "steps" and ".brake." in path and document["steps"][step]["brake"] is None:
            document["steps"][step]["brake"] = spec.settings(step).brake.model_dump(mode="json")
        _place(document, path, value)
    return CampaignSpec.model_validate(document)


def site_with(spec: SiteSpec, values: Mapping[str, Any]) -> SiteSpec:
    """Give a site with other values at some dotted paths.

    Raises
    ------
    pydantic.ValidationError
        If a value is none that may stand there.
    """
    return SiteSpec.model_validate(_document(spec, values))


def _document(spec: SiteSpec, values: Mapping[str, Any]) -> dict[str, Any]:
    document = spec.model_dump(mode="json")
    for path, value in values.items():
        _place(document, path, value)
    return document


def _place(document: dict[str, Any], path: str, value: Any) -> None:
    *parents, key = path.split(".")
    for parent in parents:
        document = document[parent]
    document[key] = value


def parse(scope: Scope, texts: Mapping[str, str], file: CampaignSpec | SiteSpec) -> dict[str, Any]:
    """Read settings as a person writes them, by the rules of the files.

    Parameters
    ----------
    scope
        What they are settings of.
    texts
        The settings by short name, e.g. ``{"per_hour": "200"}``; ``none`` for no limit, several windows with commas.
    file
        The site or the campaign as its file has it.

    Returns
    -------
    values : `dict`
        By dotted path.

    Raises
    ------
    SpecError
        With all that is wrong.
    """
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    for key, text in texts.items():
        path = scope.paths.get(key)
        if path is None:
            every = list(scope.paths)
            problems.append(
                Problem((key,), "there is no such setting", f"one of {list_of(every)}", nearest(key, every))
            )
        else:
            values[path] = _value(text, _expected(scope, path))
    problems += _misfits(scope, values, file)
    if problems:
        raise SpecError([Fault(str(scope), None, str(p.path[0]), p.message, p.expected, p.nearest) for p in problems])
    return values


def _prefix(scope: Scope) -> Path:
    return ("sites", scope.name) if scope.kind == "site" else ()


def _expected(scope: Scope, path: str) -> str:
    return phrase(scope.kind, schema_at(scope.kind, (*_prefix(scope), *path.split("."))))


def _value(text: str, expected: str) -> Any:
    """Read a value; what it is to be decides how."""
    if text.strip().lower() == "none":
        return [] if expected.startswith("a list") else None
    if expected.startswith("a list"):
        return [part.strip() for part in text.split(",")]
    if re.fullmatch(r"[+-]?\d+", text.strip()):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text


def _misfits(scope: Scope, values: Mapping[str, Any], file: CampaignSpec | SiteSpec) -> Iterator[Problem]:
    """Find what may not stand where it is to be set."""
    try:
        if isinstance(file, CampaignSpec):
            campaign_with(file, values)
        else:  # as in the file, for the messages
            Sites.model_validate({"sites": {scope.name: {**_document(file, values), "home": True}}})
    except ValidationError as error:
        keys = {path: key for key, path in scope.paths.items()}
        for problem in model_problems(scope.kind, Document(str(scope)), error):
            place = ".".join(str(part) for part in problem.path[len(_prefix(scope)) :] if isinstance(part, str))
            yield Problem((keys.get(place, place),), problem.message, problem.expected, problem.nearest)
