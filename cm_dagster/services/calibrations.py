"""Whether calibrations are certified for the dates of a step's data, asked in bulk.

A calibration has one question for its validity ranges, and all of them together two for the data: when they were taken,
and by which detectors. Only where a range seems to lack, one more question tells which of the detectors have data then.
So the number of questions does not depend on the number of exposures.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cm_dagster.plan.validity import ALWAYS, Span, gaps, within

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetType

__all__ = ["Calibrations", "Coverage"]

_MOST_CONFIRMED = 1_000_000
"""Data IDs without a calibration up to which it is looked up whether there are data; more are no exception."""

type _Key = tuple[Any, ...]
"""Values of some dimensions."""


@dataclass(frozen=True)
class Coverage:
    """For how much of a step's data a calibration is certified."""

    wanted: int
    """Number of exposures (or visits) of the step's data, times detectors where the calibration is one of a
    detector."""
    lacking: int
    """For how many of them none is valid."""
    unit: str = ""
    """What is counted, e.g. ``exposures x detectors``."""
    first: str = ""
    """The first of these, by date."""
    collections: tuple[str, ...] = ()
    """Where the calibrations are."""


class Calibrations:
    """The calibrations in some collections, held against the data of a step.

    Parameters
    ----------
    butler
        The repository.
    collections
        The collections that the step reads.
    where
        Predicate of the step.
    data
        Dataset type with exposures or visits that the step processes.
    """

    def __init__(self, butler: Butler, collections: Sequence[str], where: str, data: DatasetType) -> None:
        self._butler, self._collections, self._where, self._data = butler, list(collections), where, data
        dimensions = data.dimensions
        self._element = "exposure" if "exposure" in dimensions.names else "visit"
        self._names = butler.dimensions.conform([self._element]).names

    @classmethod
    def can_judge(cls, data: DatasetType, calibration: DatasetType) -> bool:
        """Whether data of one type tell which calibrations of another are needed."""
        elements = {"exposure", "visit"} & set(data.dimensions.names)
        return bool(elements) and set(calibration.dimensions.required) <= set(data.dimensions.names)

    @cached_property
    def _taken(self) -> list[tuple[Span, dict[str, Any]]]:
        """When the data were taken, in order of time, with the values of the dimensions of an exposure (or visit)."""
        field = f"{self._element}.timespan"
        with self._butler.query() as query:
            found = query.join_dataset_search(self._data, self._collections)
            found = found.where(self._where) if self._where else found
            rows = found.general([self._element], dimension_fields={self._element: {"timespan"}})
            taken = [(_span(row[field]), row) for row in rows if row[field] is not None]
        return sorted(taken, key=lambda one: one[0])

    @cached_property
    def _detectors(self) -> list[tuple[str, int]]:
        """Instrument and number of each detector with data."""
        with self._butler.query() as query:
            found = query.join_dataset_search(self._data, self._collections)
            found = found.where(self._where) if self._where else found
            return sorted((str(row["instrument"]), int(row["detector"])) for row in found.data_ids(["detector"]))

    def coverage(self, calibration: DatasetType) -> Coverage:
        """Compare the validity ranges of a calibration with the dates of the data.

        Parameters
        ----------
        calibration
            Its dataset type, of which `can_judge` holds.
        """
        own = [name for name in calibration.dimensions.required if name in self._names]
        by_detector = "detector" in calibration.dimensions.required
        valid, where = self._valid(calibration, own, by_detector)
        times: dict[_Key, list[int]] = defaultdict(list)
        for place, (_, row) in enumerate(self._taken):
            times[tuple(row[name] for name in own)].append(place)
        wanted, lacking = 0, []
        known: dict[tuple[_Key, tuple[Span, ...]], list[int]] = {}
        for key, places in times.items():
            spans = [self._taken[place][0] for place in places]
            for detector in self._detectors_of(key, own) if by_detector else [None]:
                wanted += len(places)
                holes = gaps(valid.get((*key, detector), ()))
                if (key, holes) not in known:  # mostly all detectors have the same ranges
                    known[key, holes] = [places[found] for found in within(spans, holes)]
                lacking.append((detector, known[key, holes]))
        return self._told(wanted, lacking, where)

    def _detectors_of(self, key: _Key, own: Sequence[str]) -> list[int]:
        instrument = key[own.index("instrument")]  # a detector is always one of an instrument
        return [number for name, number in self._detectors if name == instrument]

    def _valid(
        self, calibration: DatasetType, own: Sequence[str], by_detector: bool
    ) -> tuple[dict[_Key, list[Span]], tuple[str, ...]]:
        """Read the validity ranges, by values of the dimensions; a calibration that is in a RUN is always valid."""
        from lsst.daf.butler import CollectionType

        kinds = {CollectionType.RUN, CollectionType.TAGGED, CollectionType.CALIBRATION}
        valid: dict[_Key, list[Span]] = defaultdict(list)
        places: dict[str, None] = {}
        for found in self._butler.registry.queryDatasetAssociations(
            calibration, self._collections, collectionTypes=kinds, flattenChains=True
        ):
            data_id = found.ref.dataId
            key = (*(data_id[name] for name in own), data_id["detector"] if by_detector else None)
            valid[key].append(ALWAYS if found.timespan is None else _span(found.timespan))
            places[found.collection] = None
        return valid, tuple(places)

    def _told(self, wanted: int, lacking: list[tuple[int | None, list[int]]], where: tuple[str, ...]) -> Coverage:
        lacking = [(detector, places) for detector, places in lacking if places]
        if lacking and lacking[0][0] is not None and sum(len(places) for _, places in lacking) <= _MOST_CONFIRMED:
            lacking = self._with_data(lacking)
        if not lacking:
            return Coverage(wanted, 0, collections=where)
        unit = f"{self._element}s x detectors" if lacking[0][0] is not None else f"{self._element}s"
        place, detector = min((places[0], detector if detector is not None else -1) for detector, places in lacking)
        (begin, _), row = self._taken[place]
        text = f"{self._element} {row[self._element]} ({_date(begin)})"
        text += "" if detector < 0 else f", detector {detector}"
        return Coverage(wanted, sum(len(places) for _, places in lacking), unit, text, where)

    def _with_data(self, lacking: list[tuple[int | None, list[int]]]) -> list[tuple[int | None, list[int]]]:
        """Leave out what has no data: a detector that was off has no calibrations, and needs none."""
        numbers = [self._taken[place][1][self._element] for _, places in lacking for place in places]
        detectors = list(dict.fromkeys(detector for detector, _ in lacking))  # SQLite takes at most 1000 listed values
        bound = {"low": min(numbers), "high": max(numbers), "some": detectors}
        text = f"{self._element} >= :low AND {self._element} <= :high AND detector IN (:some)"
        there: dict[Any, set[_Key]] = defaultdict(set)
        with self._butler.query() as query:
            found = query.join_dataset_search(self._data, self._collections).where(text, bind=bound)
            found = found.where(self._where) if self._where else found
            for row in found.data_ids([self._element, "detector"]):
                there[row["detector"]].add((row["instrument"], row[self._element]))
        kept = []
        for detector, places in lacking:
            rows = ((place, self._taken[place][1]) for place in places)
            have = there[detector]
            kept.append((detector, [place for place, row in rows if (row["instrument"], row[self._element]) in have]))
        return [(detector, places) for detector, places in kept if places]


def _span(timespan: Any) -> Span:
    begin, end = timespan.nsec
    return begin, max(end, begin + 1)  # a bias frame takes no time at all


def _date(nanoseconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(nanoseconds / 1e9)) + " TAI"
