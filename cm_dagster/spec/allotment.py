"""Which sites process a campaign or a step, and how much of it each of them takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from cm_dagster.spec.fields import Model, Predicate, Share, SiteName, slip
from cm_dagster.spec.problems import Problem

__all__ = ["Allotment", "Allotments", "read_allotments", "shares_of"]

_EITHER = "one of them"


class Allotment(Model):
    """What a site takes of a step's groups: a share of them, or the data that a predicate selects."""

    share: Share | None = None
    """Share of what no predicate of another site selects, any positive number of which only the ratio to those of the
    other sites counts; by default none: the site has a `where`."""
    where: Predicate = ""
    """Butler predicate of what the site takes, e.g. `tract < 100`, instead of a share: all values of a step's dimension
    that it selects and no site before it has taken; by default none: the site has a share."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.share is None and not self.where:
            raise slip(Problem((), "has neither `share` nor `where`", _EITHER))
        if self.share is not None and self.where:
            raise slip(Problem((), "has both `share` and `where`", _EITHER))
        return self


def _one(value: object) -> object:
    """Take a number for a share."""
    if isinstance(value, Mapping | Allotment):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 and math.isfinite(value):
        return Allotment(share=float(value))
    raise PydanticCustomError("cm_share", "is neither a share nor a mapping")


def _all(value: object) -> object:
    """Take a site's name, or a list of names, for equal shares."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names:
        return value
    if not all(isinstance(name, str) for name in names):
        raise slip(Problem((), "is not a list of site names", "a site, a list of sites, or a share for each site"))
    for place, name in enumerate(names):
        if name in names[:place]:
            raise slip(Problem((), f"names {name} twice", "each once"))
    return dict.fromkeys(names, 1.0)


Allotments = Annotated[
    dict[SiteName, Annotated[Allotment, BeforeValidator(_one)]],
    Field(min_length=1),
    BeforeValidator(_all, json_schema_input_type=dict[str, Share | Allotment] | list[str] | str),
]
"""Sites with what each takes; in a file also a name, a list of names, and numbers for shares."""


def read_allotments(value: object) -> dict[str, Allotment]:
    """Read the sites of a file that may be wrong: whether each has a share or a predicate, if nothing else.

    Parameters
    ----------
    value
        What the file has under ``sites``.
    """
    names = [value] if isinstance(value, str) else value
    if isinstance(names, list):
        names = dict.fromkeys(str(name) for name in names)
    if not isinstance(names, Mapping):
        return {}
    return {
        str(name): Allotment(where="told") if _selects(one) else Allotment(share=1.0) for name, one in names.items()
    }


def _selects(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value.get("where")) and value.get("share") is None


def shares_of(sites: Mapping[str, Allotment]) -> dict[str, float]:
    """Give the shares of those sites that have one, in the order of the file."""
    return {name: one.share for name, one in sites.items() if one.share is not None}
