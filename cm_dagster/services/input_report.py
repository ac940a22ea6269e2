"""What a step's inputs hold, held against what the step will ask of them: one row for each thing looked at.

Looked at are the collections, the required datasets, and what the step's pipeline reads: its inputs, its calibrations
on the dates of the data, its catalogues and the skymap. A thing that can't be looked at is a row that says so and stops
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from cm_dagster.services.butler import ButlerService
from cm_dagster.services.butler_errors import missing_collections
from cm_dagster.services.calibrations import Calibrations, Coverage
from cm_dagster.services.pipeline_inputs import PipelineInputs, Reads, UnreadablePipeline, read_inputs
from cm_dagster.services.planner import check_requirements
from cm_dagster.spec.models import CampaignSpec

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetType

__all__ = ["GROUP_BY", "InputReport", "InputRow", "check_collections", "check_datasets", "first_missing"]

GROUP_BY = "group_by"
"""Kind of the dataset type that a step is cut by: without it there is nothing to cut."""
_YES = "yes"
_SHOWN = 3
"""Collections that are named in a row."""
_PUT = "put some into the inputs ({})"


@dataclass(frozen=True)
class InputRow:
    """One thing that a step asks of its inputs, and what there is."""

    SHOWN: ClassVar = ("what", "kind", "collections", "wanted", "found", "met", "note")
    """What tables show of it, in order."""

    what: str
    """Name of the collection or dataset type, or what else it is."""
    kind: str
    """What is looked at: ``collection``, ``requirement``, ``input``, ``prerequisite``, ``calibration``..."""
    collections: str
    """Where it was looked for."""
    wanted: str
    found: str
    met: bool = True
    """Whether the step may begin, as far as this goes."""
    note: str = ""
    """What is to be known: of a thing that is not met, what is wrong."""
    advice: str = ""
    """What to do about it."""

    @property
    def text(self) -> str:
        """The row as a sentence."""
        return f"{self.kind} {self.what}: {self.note or f'{self.found} found, {self.wanted} wanted'}"

    def record(self) -> dict[str, str | bool]:
        """Give the row as it is shown in tables."""
        return {name: getattr(self, name) for name in self.SHOWN}


@dataclass(frozen=True)
class InputReport:
    """What was found."""

    rows: tuple[InputRow, ...]
    tasks: int = 1
    """Number of tasks of the step's pipeline; 1 where that is not known."""


def first_missing(rows: Sequence[InputRow]) -> tuple[str, str]:
    """Say what is missing first, and what to do; empty if nothing is."""
    missing = [row for row in rows if not row.met]
    if not missing:
        return "", ""
    more = f" (and {len(missing) - 1} more)" if missing[1:] else ""
    return missing[0].text + more, missing[0].advice


def check_collections(butler: ButlerService, collections: Sequence[str]) -> list[InputRow]:
    """Look at each collection that a step reads, in order of search.

    Raises
    ------
    ButlerError
        If the repository can't be asked.
    """
    from lsst.daf.butler import MissingCollectionError

    rows = []
    with butler.session("looking up input collections") as session:
        for place, name in enumerate(collections, 1):
            at = f"{place} of {len(collections)}"
            try:
                info = session.collections.get_info(name, include_summary=True)
            except MissingCollectionError:
                near = missing_collections(butler.repo, [name], list(session.collections.query("*")))
                rows.append(InputRow(name, "collection", at, "there", "no", False, near.cause, near.advice))
                continue
            note = "" if info.dataset_types else "it is empty"
            rows.append(InputRow(name, "collection", at, "there", info.type.name, note=note))
    return rows


def check_datasets(butler: ButlerService, spec: CampaignSpec, step: str, collections: Sequence[str]) -> InputReport:
    """Look at the datasets that a step requires, and at what its pipeline reads.

    Parameters
    ----------
    butler
        The repository that holds the step's inputs.
    spec
        The campaign.
    step
        Name of the step.
    collections
        The collections that the step reads, in order of search; all of them exist.

    Raises
    ------
    ButlerError
        If the repository can't be asked, or a predicate is wrong.
    """
    where, shown = spec.where_of(step), _shown(collections)
    rows = list(_required(butler, spec, step, collections))
    uri = spec.pipeline_of(step)
    with butler.session(f"looking up what {uri} reads") as session:
        try:
            found = read_inputs(session, uri)
        except UnreadablePipeline as error:
            note = f"not checked: it can't be read: {error}"
            return InputReport((*rows, InputRow(uri, "pipeline", shown, "its inputs", "", note=note)))
        rows += _Look(session, list(collections), where).rows(found)
    return InputReport(tuple(rows), found.tasks)


def _shown(collections: Sequence[str]) -> str:
    more = f", ... ({len(collections)})" if len(collections) > _SHOWN else ""
    return ", ".join(collections[:_SHOWN]) + more


def _required(butler: ButlerService, spec: CampaignSpec, step: str, collections: Sequence[str]) -> Iterator[InputRow]:
    """Look at what the campaign file requires; the dataset type that the step is cut by is required too."""
    by = spec.steps[step].group_by
    names = [*spec.settings(step).requirements, *([by.dataset] if by and by.dataset else ())]
    with butler.session("looking up dataset types") as session:
        unknown = [name for name in dict.fromkeys(names) if _type(session, name) is None]
    shown = _shown(collections)
    for row in check_requirements(spec, step, butler, collections, unknown):
        note = str(row) if row.missing else ""
        if row.dataset in unknown:
            note = f"{butler.repo} has no dataset type of this name"
        advice = "" if row.met else f"{_PUT.format(shown)}, or change the step's `requirements`"
        yield InputRow(row.dataset, "requirement", shown, str(row.wanted), str(row.found), row.met, note, advice)
    if by and by.dataset in unknown:
        note = f"{butler.repo} has no dataset type of this name"
        advice = f"{_PUT.format(shown)}, or change `group_by` of {step}"
        yield InputRow(str(by.dataset), GROUP_BY, shown, "1", "0", False, note, advice)


def _type(butler: Butler, name: str) -> DatasetType | None:
    from lsst.daf.butler import MissingDatasetTypeError

    try:
        return butler.get_dataset_type(name)
    except MissingDatasetTypeError:
        return None


class _Look:
    """Looks at what a pipeline reads."""

    def __init__(self, butler: Butler, collections: list[str], where: str) -> None:
        self.butler, self.collections, self.where = butler, collections, where
        self.shown = _shown(collections)

    def rows(self, found: PipelineInputs) -> Iterator[InputRow]:
        inputs = [one for one in found.reads if not one.prerequisite]
        rows = {one.name: self._asked(self._dataset, one, "input") for one in inputs}
        yield from rows.values()
        if not any(row.found == _YES for row in rows.values()):
            self.where = ""  # it selects nothing, of the prerequisites neither: that is said once
        there = (one.dataset_type for one in inputs if _is_data(one) and rows[one.name].found == _YES)
        data = max(there, key=_fineness, default=None)
        judge = None if data is None else Calibrations(self.butler, self.collections, self.where, data)
        for one in found.reads:
            if one.prerequisite and _is_calibration(one):
                yield self._asked(partial(self._calibration, judge=judge, data=data), one, "calibration")
            elif one.prerequisite:
                yield self._asked(self._dataset, one, "prerequisite")

    def _asked(self, ask: Callable[[Reads, str], InputRow], one: Reads, kind: str) -> InputRow:
        """Ask for one dataset type; what Butler can't answer of it does not stop the step."""
        from lsst.daf.butler import ButlerUserError

        try:
            return ask(one, kind)
        except ButlerUserError as error:
            return InputRow(one.name, kind, self.shown, "at least 1", "", note=f"not checked: {str(error).strip('"')}")

    def _dataset(self, one: Reads, kind: str) -> InputRow:
        """Ask whether there is any dataset of a type."""
        if _type(self.butler, one.name) is None:
            return self._missing(one, kind, "the repository has no dataset type of this name")
        # Pixels of the sky would have to be compared with regions one by one.
        everywhere = one.dataset_type is None or one.dataset_type.dimensions.skypix
        where = "" if everywhere else self.where
        if self._any(one.name, where):
            return InputRow(one.name, kind, self.shown, "at least 1", _YES)
        if where and self._any(one.name, ""):
            return self._missing(one, kind, f"there are some, but none where {where}")
        return self._missing(one, kind, f"none in {self.shown}")

    def _missing(self, one: Reads, kind: str, note: str, wanted: str = "at least 1", found: str = "no") -> InputRow:
        if one.optional:
            return InputRow(one.name, kind, self.shown, "optional", found, note=note)
        return InputRow(one.name, kind, self.shown, wanted, found, False, note, _advice(one, self.shown))

    def _any(self, name: str, where: str) -> bool:
        with self.butler.query() as query:
            found = query.datasets(name, self.collections, find_first=False)
            return (found.where(where) if where else found).any()

    def _calibration(self, one: Reads, kind: str, judge: Calibrations | None, data: DatasetType | None) -> InputRow:
        """Ask whether a calibration is certified for the dates of the data."""
        if (known := _type(self.butler, one.name)) is None:
            return self._missing(one, kind, "the repository has no dataset type of this name")
        if judge is None or data is None or not Calibrations.can_judge(data, known):
            if not self._any(one.name, ""):
                return self._missing(one, kind, f"none in {self.shown}")
            note = "its dates are not checked: no input of the step tells for what it is needed"
            return InputRow(one.name, kind, self.shown, "at least 1", _YES, note=note)
        told = judge.coverage(known)
        if not told.wanted:
            note = f"not checked: there is no {data.name} to need it"
            return InputRow(one.name, kind, self.shown, "on the dates of the data", "", note=note)
        if told.lacking:
            found_text = f"{told.wanted - told.lacking} of {told.wanted}"
            return self._missing(one, kind, _lacks(told, data), str(told.wanted), found_text)
        return InputRow(one.name, kind, _shown(told.collections), str(told.wanted), str(told.wanted))


def _is_data(one: Reads) -> bool:
    return one.dataset_type is not None and bool({"exposure", "visit"} & set(one.dataset_type.dimensions.names))


def _fineness(data: DatasetType | None) -> tuple[int, bool]:
    """Prefer exposures by detector: what calibrations are needed for."""
    names = data.dimensions.names if data else ()
    return len(names), "exposure" in names


def _is_calibration(one: Reads) -> bool:
    return one.dataset_type is not None and one.dataset_type.isCalibration()


def _lacks(told: Coverage, data: DatasetType) -> str:
    if not told.collections:
        return f"none is there, and {told.wanted} {told.unit} of {data.name} need it"
    return f"none is valid for {told.lacking} of {told.wanted} {told.unit} of {data.name}, the first: {told.first}"


def _advice(one: Reads, shown: str) -> str:
    if _is_calibration(one):
        return f"certify {one.name} for the dates of the data in a collection of {shown}, or leave dates out by `where`"
    return f"{_PUT.format(shown)}, or add the collection that holds {one.name} to `input`"
