"""Load campaign and site files; everything that is wrong in a file is reported at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ValidationError

from cm_dagster.errors import Fault, SpecError
from cm_dagster.spec.checks import campaign_problems, site_file_problems
from cm_dagster.spec.document import Document, read_document
from cm_dagster.spec.faults import empty_problems, model_problems
from cm_dagster.spec.models import CampaignSpec
from cm_dagster.spec.problems import Problem, list_of
from cm_dagster.spec.schema import Kind, keys_at
from cm_dagster.spec.sites import Sites

__all__ = ["load_campaign", "load_sites"]


def load_campaign(path: Path | str, sites: Sites | None = None) -> CampaignSpec:
    """Load a campaign file.

    Parameters
    ----------
    path
        The file.
    sites
        The known sites, which the campaign's must be among; None to leave that unchecked.

    Raises
    ------
    SpecError
        With all faults of the file.
    """
    return _load("campaign", CampaignSpec, path, lambda data: campaign_problems(data, sites))


def load_sites(path: Path | str) -> Sites:
    """Load a site file.

    Raises
    ------
    SpecError
        With all faults of the file.
    """
    return _load("site", Sites, path, site_file_problems)


def _load[M: BaseModel](
    kind: Kind,
    model: type[M],
    path: Path | str,
    checks: Callable[[Mapping[str, object]], Iterable[Problem]],
) -> M:
    document = read_document(path)
    if not isinstance(document.data, dict):
        what = "the file is empty" if document.data is None else "the top level is not a mapping"
        first = f"a mapping with the keys {list_of(keys_at(kind, ()))}"
        raise SpecError(document.faults or [Fault(document.file, 1, "", what, first)])
    problems = [*checks(document.data), *empty_problems(kind, document)]
    loaded: M | None = None
    try:
        loaded = model.model_validate(document.data)
    except ValidationError as error:
        problems += model_problems(kind, document, error)
    faults = _faults(document, problems)
    if faults or loaded is None:
        raise SpecError(faults)
    return loaded


def _faults(document: Document, problems: Iterable[Problem]) -> list[Fault]:
    """Put faults in the order of their lines, one for each value: the first found, which knows most."""
    by_path: dict[str, Fault] = {}
    for fault in (*document.faults, *map(document.fault, problems)):
        by_path.setdefault(fault.path, fault)
    return sorted(by_path.values(), key=lambda fault: fault.line or 0)
