"""Raw files of a survey: small JSON documents, one for each exposure and detector."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from lsst.daf.butler import Butler, DataCoordinate, DatasetRef, DatasetType, FileDataset
from lsst.daf.butler.formatters.json import JsonFormatter

__all__ = ["RawFiles", "ingest_raws"]


class RawFiles(Enum):
    """How many files hold a survey's raws."""

    EACH = "each"
    """One for each raw."""
    SHARED = "shared"
    """One for all."""
    NONE = "none"
    """The survey has no raws."""


def ingest_raws(butler: Butler, instrument: str, files: RawFiles) -> int:
    """Ingest a raw for each exposure and detector of an instrument whose region is known.

    Parameters
    ----------
    butler
        Writeable Butler of the survey.
    instrument
        Name of the instrument; the raws' RUN is ``<instrument>/raw/all``.
    files
        One file each, or one shared file.

    Returns
    -------
    count
        Number of raws.
    """
    run = f"{instrument}/raw/all"
    raw = DatasetType("raw", ["instrument", "exposure", "detector"], "StructuredDataDict", universe=butler.dimensions)
    butler.registry.registerDatasetType(raw)
    butler.collections.register(run)
    refs = [DatasetRef(raw, data_id, run=run) for data_id in _data_ids(butler, instrument)]
    with tempfile.TemporaryDirectory() as folder:
        write = _shared if files is RawFiles.SHARED else _each
        butler.ingest(*write(Path(folder), refs), transfer="copy")
    return len(refs)


def _data_ids(butler: Butler, instrument: str) -> Iterator[DataCoordinate]:
    """Yield the (exposure, detector) data IDs whose visit and detector have a region on the sky."""
    for region in butler.query_dimension_records(
        "visit_detector_region", where=f"instrument='{instrument}'", limit=None, order_by=["visit", "detector"]
    ):
        # In these surveys a visit is the exposure of the same number.
        ids = {"instrument": instrument, "exposure": region.visit, "detector": region.detector}
        yield DataCoordinate.standardize(ids, universe=butler.dimensions)


def _content(ref: DatasetRef) -> str:
    return json.dumps({"dataset_type": "raw", "data_id": dict(ref.dataId.required), "value": 1.0})


def _each(folder: Path, refs: list[DatasetRef]) -> Iterator[FileDataset]:
    for ref in refs:
        path = folder / f"{ref.dataId['exposure']}_{ref.dataId['detector']}.json"
        path.write_text(_content(ref))
        yield FileDataset(path=str(path), refs=[ref], formatter=JsonFormatter)


def _shared(folder: Path, refs: list[DatasetRef]) -> Iterator[FileDataset]:
    path = folder / "shared.json"
    path.write_text(_content(refs[0]))
    yield FileDataset(path=str(path), refs=refs, formatter=JsonFormatter)
