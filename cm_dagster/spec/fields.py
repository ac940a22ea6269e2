"""Types of the values in campaign and site files, each with its check and its message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from cm_dagster.plan.names import NAME
from cm_dagster.spec.predicate import predicate_slip
from cm_dagster.spec.problems import Problem

__all__ = [
    "BpsSettings",
    "ClassName",
    "Collection",
    "DatasetType",
    "DimensionName",
    "EnvName",
    "Folder",
    "Model",
    "Name",
    "OutputCollection",
    "Pipeline",
    "Predicate",
    "Quanta",
    "Share",
    "ShellLines",
    "SiteName",
    "StepName",
    "Value",
    "Wanted",
    "slip",
]


class Model(BaseModel):
    """Base of all models: nothing unknown, nothing converted in silence, nothing changed afterwards."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def slip(problem: Problem) -> PydanticCustomError:
    """Wrap a problem so that it travels through pydantic; the place is pydantic's."""
    context = {"message": problem.message, "expected": problem.expected, "nearest": problem.nearest}
    return PydanticCustomError("cm", "{message}", context)


def _wrong(message: str, expected: str = "") -> PydanticCustomError:
    return slip(Problem((), message, expected))


_NAME_RULE = "a letter, then letters, digits and single underscores, at most 60"
_TAKEN = re.compile(r"inputs|at|run|collected|chained|registered|delivered|campaigns|default|g\d{4,}[a-z]*")
"""Words that stand where a campaign's, step's or site's name could stand in collections and asset keys."""


def _name(kind: str) -> AfterValidator:
    def check(value: str) -> str:
        if not NAME.fullmatch(value):
            raise _wrong(f"{value!r} cannot be the name of a {kind}", _NAME_RULE)
        if "__" in value:
            raise _wrong(f"{value!r} cannot be the name of a {kind}: Dagster joins names by '__'", _NAME_RULE)
        if _TAKEN.fullmatch(value):
            raise _wrong(f"{value!r} is a name that cm_dagster uses itself; a {kind} cannot have it", "another name")
        return value

    return AfterValidator(check)


Name = Annotated[str, _name("campaign")]
StepName = Annotated[str, _name("step")]
SiteName = Annotated[str, _name("site")]


def _collection(value: str) -> str:
    bad = sorted(set(re.findall(r"[^\w./:+@-]", value)))
    if bad or not value or not value.isascii():
        what = f"it holds {' '.join(repr(char) for char in bad)}" if bad else "it is empty or not ASCII"
        raise _wrong(f"{value!r} cannot be a collection: {what}", "the name of one collection, e.g. HSC/raw/all")
    if re.search(r"^/|//|/$|(^|/)\.\.?(/|$)", value):
        raise _wrong(f"{value!r} cannot be a collection: it has an empty or dotted part", "e.g. HSC/raw/all")
    return value


def _output_collection(value: str) -> str:
    _collection(value)
    if not re.fullmatch(r"[A-Za-z0-9]\S*", value) or re.search(r"[:@]", value):
        raise _wrong(
            f"{value!r} cannot be the output: folders and files are named after it",
            "letters, digits and _ . + - /, beginning with a letter or digit",
        )
    return value


def _predicate(value: str) -> str:
    found = predicate_slip(value)
    if found:
        raise _wrong(*found)
    return value.strip()


def _dimension(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", value):
        raise _wrong(f"{value!r} cannot be a dimension", "a dimension of the Butler, e.g. visit or tract")
    return value


def _dataset_type(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", value, re.ASCII):
        raise _wrong(f"{value!r} cannot be a dataset type", "the name of a dataset type, e.g. raw")
    return value


def _pipeline(value: str) -> str:
    if not value or re.search(r"\s|[\"'\\]", value):
        raise _wrong(f"{value!r} cannot be a pipeline", "a path or URI without spaces or quotes")
    _, mark, labels = value.partition("#")
    if mark and not re.fullmatch(r"[\w.:,;<>=.-]+", labels, re.ASCII):
        raise _wrong(f"{value!r} names no task or subset after its '#'", 'e.g. "#step1"')
    return value


def _env_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*", value, re.ASCII):
        raise _wrong(f"{value!r} cannot be an environment variable", "e.g. OMP_NUM_THREADS")
    return value


def _class_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", value, re.ASCII):
        raise _wrong(f"{value!r} cannot be a class", "module and class, e.g. lsst.ctrl.bps.panda.PanDAService")
    return value


def _folder(value: Path) -> Path:
    if not value.is_absolute():
        raise _wrong(f"{str(value)!r} is not an absolute path", "e.g. /data/cm/submit")
    return value


def _value(value: object) -> object:
    """Check an explicit value of a dimension: a number, text, or a closed range."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise _wrong("is neither a whole number, nor text, nor a range", "e.g. 903334, r or 100..199")
    if isinstance(value, str):
        if found := re.fullmatch(r"\s*(-?\d+)\s*\.\.\s*(-?\d+)\s*", value):
            low, high = (int(text[:30]) for text in found.groups())
            if low > high:
                raise _wrong(f"the range {value} is empty", f"{high}..{low}")
        elif re.search(r"\d\s*\.\.|\.\.\s*\d", value):
            raise _wrong(f"{value!r} is not a range", "first and last number, e.g. 100..199")
        elif not value.strip() or re.search(r"[\"'\\${}\n]", value):
            raise _wrong(f"{value!r} cannot be a value in a query", "text without quotes, backslashes, $ and braces")
    return value


def _wanted(value: object) -> object:
    """Check how much of a dataset type has to be there."""
    if value == "all" or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise _wrong("is neither 'all' nor a number of datasets", "all, or the least number of datasets")


def _plain(value: object) -> object:
    """Keep settings that are passed on to what JSON can carry, for they are stored as JSON."""
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise _wrong("has a key that is not text", "text keys")
        return {key: _plain(content) for key, content in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise _wrong(f"holds a {type(value).__name__}", "text, numbers, booleans, lists and mappings")


Collection = Annotated[str, AfterValidator(_collection)]
OutputCollection = Annotated[str, AfterValidator(_output_collection)]
Predicate = Annotated[str, AfterValidator(_predicate)]
DimensionName = Annotated[str, AfterValidator(_dimension)]
DatasetType = Annotated[str, AfterValidator(_dataset_type)]
Pipeline = Annotated[str, AfterValidator(_pipeline)]
EnvName = Annotated[str, AfterValidator(_env_name)]
ClassName = Annotated[str, AfterValidator(_class_name)]
Folder = Annotated[Path, Field(strict=False), AfterValidator(_folder)]
ShellLines = Annotated[str, Field(examples=["source /opt/lsst/loadLSST.bash\nsetup lsst_distrib"])]
Value = Annotated[int | str, BeforeValidator(_value)]
Wanted = Annotated[int | Literal["all"], BeforeValidator(_wanted)]
Quanta = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0)]
BpsSettings = Annotated[dict[str, Any], BeforeValidator(_plain)]
