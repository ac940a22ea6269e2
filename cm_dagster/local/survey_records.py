"""Dimension records of the surveys: those of HSC that lsst-daf-butler ships, and made-up ones.

Sky positions are ICRS, angles in degrees, times TAI.
"""

from __future__ import annotations

import io
import math
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import astropy.time
import astropy.units as u
import lsst.daf.butler
import yaml
from lsst.daf.butler import Butler, Timespan
from lsst.sphgeom import ConvexPolygon, LonLat, UnitVector3d

__all__ = ["SYNTHETIC", "SyntheticSky", "copy_records", "derive_exposures", "import_hsc_records", "tile_tracts"]

Record = dict[str, Any]

_HSC_FILES = ("ci_hsc-subset.yaml", "ci_hsc-subset-skymap.yaml")
_OVERLAP = 0.02
"""By how much tracts and patches reach over their borders, in degrees."""


def import_hsc_records(butler: Butler) -> None:
    """Import the dimension records of HSC's continuous integration data with the Butler's own import.

    Parameters
    ----------
    butler
        Writeable Butler without them.
    """
    folder = Path(lsst.daf.butler.__file__).parent / "tests" / "registry_data"
    for name in _HSC_FILES:
        document = yaml.compose((folder / name).read_text(), Loader=yaml.SafeLoader)
        assert isinstance(document, yaml.MappingNode)
        entries = next(value for key, value in document.value if key.value == "data")
        # The files also register a skyMap dataset whose file is not shipped; only the records are wanted.
        entries.value = [entry for entry in entries.value if _entry_type(entry) == "dimension"]
        butler.import_(filename=io.StringIO(yaml.serialize(document)), format="yaml", without_datastore=True)


def copy_records(source: Butler, target: Butler) -> None:
    """Copy all dimension records of a repository.

    Parameters
    ----------
    source
        Butler that has them.
    target
        Writeable Butler without them.
    """
    universe = source.dimensions
    with target.transaction():
        for element in universe.sorted(one for one in universe.elements if one.has_own_table):
            records = source.query_dimension_records(element.name, limit=None, explain=False)
            target.registry.insertDimensionData(element.name, *records)


def _entry_type(entry: yaml.MappingNode) -> str:
    return next(str(value.value) for key, value in entry.value if key.value == "type")


def derive_exposures(butler: Butler, instrument: str) -> None:
    """Give each visit of an instrument the one exposure of the same number that it is made of.

    Parameters
    ----------
    butler
        Writeable Butler that holds the visits.
    instrument
        Name of the instrument.
    """
    records: dict[str, list[Record]] = defaultdict(list)
    for visit in butler.query_dimension_records(
        "visit", where=f"instrument='{instrument}'", order_by="visit", limit=None
    ):
        shared = {name: getattr(visit, name) for name in _SHARED}
        _add_exposure(records, shared, visit.region)
    with butler.transaction():
        for element, rows in records.items():
            butler.registry.insertDimensionData(element, *rows)


_SHARED = (
    "instrument", "id", "day_obs", "physical_filter", "seq_num", "exposure_time", "target_name", "observation_reason",
    "science_program", "azimuth", "zenith_angle", "timespan",
)  # fmt: skip
"""What a visit and its exposure have in common."""


def _add_exposure(records: dict[str, list[Record]], shared: Record, region: ConvexPolygon) -> None:
    """Add the records of an exposure that has a visit of the same number."""
    number, instrument = shared["id"], shared["instrument"]
    centre = LonLat(region.getCentroid())
    records["group"].append({"instrument": instrument, "name": str(number)})
    records["exposure"].append(
        shared
        | {
            "obs_id": f"{instrument}{number}",
            "group": str(number),
            "dark_time": shared["exposure_time"],
            "observation_type": "science",
            "seq_start": shared["seq_num"],
            "seq_end": shared["seq_num"],
            "tracking_ra": centre.getLon().asDegrees(),
            "tracking_dec": centre.getLat().asDegrees(),
            "sky_angle": 0.0,
            "has_simulated": True,
            "can_see_sky": True,
        }
    )
    records["visit_definition"].append({"instrument": instrument, "exposure": number, "visit": number})


def tile_tracts(butler: Butler, skymap: str, patches: int) -> None:
    """Cut each tract of a skymap into square patches.

    Parameters
    ----------
    butler
        Writeable Butler that holds the tracts.
    skymap
        Name of the skymap.
    patches
        Number of patches along a side.
    """
    rows: list[Record] = []
    for tract in butler.query_dimension_records("tract", where=f"skymap='{skymap}'", order_by="tract", limit=None):
        box = tract.region.getBoundingBox()
        low = LonLat(box.getLon().getA(), box.getLat().getA())
        corner = (low.getLon().asDegrees(), low.getLat().asDegrees())
        size = (box.getWidth().asDegrees(), box.getHeight().asDegrees())
        rows += _patches(skymap, tract.id, corner, size, patches)
    butler.registry.insertDimensionData("patch", *rows)


def _patches(
    skymap: str, tract: int, corner: tuple[float, float], size: tuple[float, float], n: int
) -> Iterator[Record]:
    width, height = size[0] / n, size[1] / n
    for index in range(n * n):
        y, x = divmod(index, n)
        region = _box(corner[0] + x * width, corner[1] + y * height, width, height, _OVERLAP)
        yield {"skymap": skymap, "tract": tract, "id": index, "cell_x": x, "cell_y": y, "region": region}


def _box(lon: float, lat: float, width: float, height: float, border: float = 0.0) -> ConvexPolygon:
    """Box on the sky from its lower corner; small enough that great circles do for parallels."""
    west, east = lon - border, lon + width + border
    south, north = lat - border, lat + height + border
    corners = ((west, south), (east, south), (east, north), (west, north))
    return ConvexPolygon([UnitVector3d(LonLat.fromDegrees(*corner)) for corner in corners])


class Names(NamedTuple):
    """What the things of a survey are called."""

    instrument: str
    skymap: str
    bands: tuple[str, ...]


SYNTHETIC = Names("MiniCam", "mini_strip", ("g", "r", "i"))
"""Names of the synthetic survey."""

_TRACT = 1.6
_FIELD = 0.8
_FIRST_NIGHT = date(2026, 1, 1)
_START = astropy.time.Time("2026-01-01T12:00:00", scale="tai")
_DAY = 86400
_EVENING = 0.3 * _DAY
"""From noon to the first exposure, in seconds."""
_CADENCE = 38
_EXPOSURE_TIME = 30.0
_EXPOSURE = _EXPOSURE_TIME * u.s
_CHUNK = 5000


@dataclass(frozen=True)
class SyntheticSky:
    """All records of a synthetic survey, in the order in which they can be inserted."""

    visits: int
    detectors: int
    tracts: int
    patches: int
    visits_per_night: int

    def insert(self, butler: Butler) -> None:
        """Insert the records, a few thousand visits at a time."""
        with butler.transaction():
            for element, rows in self._fixed():
                butler.registry.insertDimensionData(element, *rows)
        for first in range(1, self.visits + 1, _CHUNK):
            numbers = range(first, min(first + _CHUNK, self.visits + 1))
            with butler.transaction():
                for element, rows in self._observations(numbers):
                    butler.registry.insertDimensionData(element, *rows)

    def _fixed(self) -> Iterator[tuple[str, list[Record]]]:
        """Yield the instrument, the nights and the skymap."""
        camera = SYNTHETIC.instrument
        yield (
            "instrument",
            [
                {
                    "name": camera,
                    "class_name": "lsst.pipe.base.Instrument",
                    "detector_max": self.detectors,
                    "visit_max": 2**31,
                    "exposure_max": 2**31,
                    "visit_system": 0,
                }
            ],
        )
        yield "physical_filter", [{"instrument": camera, "name": _filter(b), "band": b} for b in SYNTHETIC.bands]
        yield "detector", [self._detector(number) for number in range(self.detectors)]
        yield "visit_system", [{"instrument": camera, "id": 0, "name": "one-to-one"}]
        yield "day_obs", [self._night(night) for night in range(math.ceil(self.visits / self.visits_per_night))]
        size = {"tract_max": self.tracts, "patch_nx_max": self.patches, "patch_ny_max": self.patches}
        yield "skymap", [{"name": SYNTHETIC.skymap, "hash": b"\x01" * 20} | size]
        yield "tract", [self._tract(number) for number in range(self.tracts)]
        yield "patch", [patch for number in range(self.tracts) for patch in self._patches(number)]

    def _detector(self, number: int) -> Record:
        names = {"full_name": f"D{number:03d}", "name_in_raft": f"D{number:03d}", "raft": "R00"}
        return {"instrument": SYNTHETIC.instrument, "id": number, "purpose": "SCIENCE"} | names

    def _night(self, night: int) -> Record:
        begin, end = _START + night * u.day, _START + (night + 1) * u.day
        return {"instrument": SYNTHETIC.instrument, "id": _day_obs(night), "timespan": Timespan(begin, end)}

    def _tract(self, number: int) -> Record:
        region = _box(*_tract_corner(number), _TRACT, _TRACT, _OVERLAP)
        return {"skymap": SYNTHETIC.skymap, "id": number, "region": region}

    def _patches(self, tract: int) -> Iterator[Record]:
        return _patches(SYNTHETIC.skymap, tract, _tract_corner(tract), (_TRACT, _TRACT), self.patches)

    def _observations(self, numbers: range) -> Iterator[tuple[str, list[Record]]]:
        """Yield the records of some visits."""
        records: dict[str, list[Record]] = defaultdict(list)
        for number in numbers:
            shared, corner = self._shared(number)
            region = _box(*corner, _FIELD, _FIELD)
            _add_exposure(records, shared, region)
            records["visit"].append(shared | {"name": f"V{number}", "region": region})
            membership = {"instrument": SYNTHETIC.instrument, "visit": number, "visit_system": 0}
            records["visit_system_membership"].append(membership)
            records["visit_detector_region"] += self._detector_regions(number, corner)
        for element in _ORDER:
            yield element, records[element]

    def _shared(self, number: int) -> tuple[Record, tuple[float, float]]:
        """Make what a visit and its exposure have in common, and place the visit on the sky."""
        night, place = divmod(number - 1, self.visits_per_night)
        begin = _START + (night * _DAY + _EVENING + place * _CADENCE) * u.s
        dice = random.Random(number)
        corner = (1.0 + dice.random() * (self.tracts * _TRACT - _FIELD), (dice.random() - 0.5) * _TRACT - _FIELD / 2)
        record = {
            "instrument": SYNTHETIC.instrument,
            "id": number,
            "day_obs": _day_obs(night),
            "physical_filter": _filter(SYNTHETIC.bands[number % len(SYNTHETIC.bands)]),
            "seq_num": place + 1,
            "exposure_time": _EXPOSURE_TIME,
            "target_name": "strip",
            "observation_reason": "science",
            "science_program": "mini",
            "azimuth": 0.0,
            "zenith_angle": 30.0,
            "timespan": Timespan(begin, begin + _EXPOSURE),
        }
        return record, corner

    def _detector_regions(self, visit: int, corner: tuple[float, float]) -> Iterator[Record]:
        side = math.ceil(math.sqrt(self.detectors))
        size = _FIELD / side
        for detector in range(self.detectors):
            y, x = divmod(detector, side)
            region = _box(corner[0] + x * size, corner[1] + y * size, size, size)
            yield {"instrument": SYNTHETIC.instrument, "visit": visit, "detector": detector, "region": region}


_ORDER = ("group", "exposure", "visit", "visit_definition", "visit_system_membership", "visit_detector_region")
"""Elements of an observation, each after those that it refers to."""


def _filter(band: str) -> str:
    return f"{band}_mini"


def _day_obs(night: int) -> int:
    return int((_FIRST_NIGHT + timedelta(days=night)).strftime("%Y%m%d"))


def _tract_corner(tract: int) -> tuple[float, float]:
    return (1.0 + tract * _TRACT, -_TRACT / 2)
