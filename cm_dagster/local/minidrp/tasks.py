"""The tasks of the pipeline: each reads what it is given, counts and sums it, and writes what it found."""

from __future__ import annotations

import time
from typing import Any, NoReturn

from lsst.pex.config import RangeField
from lsst.pipe.base import (
    AnnotatedPartialOutputsError,
    InputQuantizedConnection,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantumContext,
    connectionTypes,
)
from lsst.utils.iteration import ensure_iterable

from cm_dagster.local.minidrp.faults import PartialOutputsError, strike

__all__ = [
    "AssembleCoaddTask",
    "CalibrateImageTask",
    "ConsolidateObjectTask",
    "ConsolidateVisitSummaryTask",
    "IsrTask",
    "MakeWarpTask",
]

_STORAGE = "StructuredDataDict"
_EXPOSURE = ("instrument", "exposure", "detector")
_VISIT = ("instrument", "visit", "detector")
_WARP = ("skymap", "tract", "patch", "instrument", "visit")
_COADD = ("skymap", "tract", "patch", "band")


class NoConnections(PipelineTaskConnections, dimensions=()):
    """Stands in for the connections of the base class."""


class MiniConfig(PipelineTaskConfig, pipelineConnections=NoConnections):
    """Settings that all tasks have."""

    burn = RangeField(  # type: ignore[no-untyped-call]
        doc="CPU time that each quantum uses up, in seconds.", dtype=float, default=0.0, min=0.0
    )


class MiniTask(PipelineTask):
    """Base of the tasks: sums the ``value`` of its inputs into each of its outputs."""

    ConfigClass = MiniConfig
    _DefaultName = "mini"
    config: MiniConfig

    def runQuantum(  # noqa: N802
        self,
        butlerQC: QuantumContext,  # noqa: N803
        inputRefs: InputQuantizedConnection,  # noqa: N803
        outputRefs: OutputQuantizedConnection,  # noqa: N803
    ) -> None:
        """Read, compute and write a quantum.

        Parameters
        ----------
        butlerQC
            Reads and writes the quantum's datasets.
        inputRefs, outputRefs
            The datasets, by connection.
        """
        end = time.process_time() + self.config.burn
        while time.process_time() < end:
            pass
        inputs = {
            name: [float(butlerQC.get(ref)["value"]) for ref in ensure_iterable(refs)] for name, refs in inputRefs
        }
        self.metadata["n_inputs"] = sum(len(values) for values in inputs.values())
        data_id = butlerQC.quantum.dataId
        keep = strike(self.getName(), {} if data_id is None else dict(data_id.required))
        for name, refs in outputRefs:
            if keep is None or name in keep:
                for ref in ensure_iterable(refs):
                    butlerQC.put(self._document(ref, inputs), ref)
        if keep is not None:
            self._fail_in_part(keep)

    def _fail_in_part(self, kept: frozenset[str]) -> NoReturn:
        try:
            raise PartialOutputsError(f"only these outputs could be made: {', '.join(sorted(kept)) or 'none'}")
        except PartialOutputsError as fault:
            raise AnnotatedPartialOutputsError.annotate(fault, self, log=self.log) from fault

    def _document(self, ref: Any, inputs: dict[str, list[float]]) -> dict[str, Any]:
        return {
            "task": self.getName(),
            "dataset_type": ref.datasetType.name,
            "data_id": dict(ref.dataId.required),
            "value": sum(sum(values) for values in inputs.values()),
            "inputs": {name: len(values) for name, values in inputs.items()},
        }


class IsrConnections(PipelineTaskConnections, dimensions=_EXPOSURE):
    """From a raw to an image."""

    raw = connectionTypes.Input(doc="Raw image.", name="raw", storageClass=_STORAGE, dimensions=_EXPOSURE)
    image = connectionTypes.Output(doc="Image.", name="postISRCCD", storageClass=_STORAGE, dimensions=_EXPOSURE)


class IsrConfig(MiniConfig, pipelineConnections=IsrConnections):
    """Settings of `IsrTask`."""


class IsrTask(MiniTask):
    """Remove the instrument's signature from a raw."""

    ConfigClass = IsrConfig
    _DefaultName = "isr"


class CalibrateImageConnections(PipelineTaskConnections, dimensions=_VISIT):
    """From the exposures of a visit to a calibrated image and its stars."""

    exposures = connectionTypes.Input(
        doc="Images.", name="postISRCCD", storageClass=_STORAGE, dimensions=_EXPOSURE, multiple=True
    )
    calexp = connectionTypes.Output(doc="Calibrated image.", name="calexp", storageClass=_STORAGE, dimensions=_VISIT)
    stars = connectionTypes.Output(doc="Its stars.", name="initial_stars", storageClass=_STORAGE, dimensions=_VISIT)


class CalibrateImageConfig(MiniConfig, pipelineConnections=CalibrateImageConnections):
    """Settings of `CalibrateImageTask`."""


class CalibrateImageTask(MiniTask):
    """Calibrate an image."""

    ConfigClass = CalibrateImageConfig
    _DefaultName = "calibrateImage"


class ConsolidateVisitSummaryConnections(PipelineTaskConnections, dimensions=("instrument", "visit")):
    """From all detectors of a visit to its summary."""

    calexp = connectionTypes.Input(
        doc="Calibrated images.", name="calexp", storageClass=_STORAGE, dimensions=_VISIT, multiple=True
    )
    summary = connectionTypes.Output(
        doc="Summary of the visit.", name="visitSummary", storageClass=_STORAGE, dimensions=("instrument", "visit")
    )


class ConsolidateVisitSummaryConfig(MiniConfig, pipelineConnections=ConsolidateVisitSummaryConnections):
    """Settings of `ConsolidateVisitSummaryTask`."""


class ConsolidateVisitSummaryTask(MiniTask):
    """Summarize a visit."""

    ConfigClass = ConsolidateVisitSummaryConfig
    _DefaultName = "consolidateVisitSummary"


class MakeWarpConnections(PipelineTaskConnections, dimensions=_WARP):
    """From the images of a visit that touch a patch to their warp."""

    calexp = connectionTypes.Input(
        doc="Calibrated images.", name="calexp", storageClass=_STORAGE, dimensions=_VISIT, multiple=True
    )
    summary = connectionTypes.Input(
        doc="Summary of the visit.", name="visitSummary", storageClass=_STORAGE, dimensions=("instrument", "visit")
    )
    warp = connectionTypes.Output(doc="Warp.", name="warp", storageClass=_STORAGE, dimensions=_WARP)


class MakeWarpConfig(MiniConfig, pipelineConnections=MakeWarpConnections):
    """Settings of `MakeWarpTask`."""


class MakeWarpTask(MiniTask):
    """Resample a visit's images to a patch."""

    ConfigClass = MakeWarpConfig
    _DefaultName = "makeWarp"


class AssembleCoaddConnections(PipelineTaskConnections, dimensions=_COADD):
    """From the warps of a band to their coadd."""

    warps = connectionTypes.Input(doc="Warps.", name="warp", storageClass=_STORAGE, dimensions=_WARP, multiple=True)
    coadd = connectionTypes.Output(doc="Coadd.", name="coadd", storageClass=_STORAGE, dimensions=_COADD)


class AssembleCoaddConfig(MiniConfig, pipelineConnections=AssembleCoaddConnections):
    """Settings of `AssembleCoaddTask`."""


class AssembleCoaddTask(MiniTask):
    """Coadd the warps of a patch."""

    ConfigClass = AssembleCoaddConfig
    _DefaultName = "assembleCoadd"


class ConsolidateObjectConnections(PipelineTaskConnections, dimensions=("skymap", "tract")):
    """From the coadds of a tract to its table of objects."""

    coadds = connectionTypes.Input(doc="Coadds.", name="coadd", storageClass=_STORAGE, dimensions=_COADD, multiple=True)
    objects = connectionTypes.Output(
        doc="Objects.", name="objectTable_tract", storageClass=_STORAGE, dimensions=("skymap", "tract")
    )


class ConsolidateObjectConfig(MiniConfig, pipelineConnections=ConsolidateObjectConnections):
    """Settings of `ConsolidateObjectTask`."""


class ConsolidateObjectTask(MiniTask):
    """Put a tract's objects together."""

    ConfigClass = ConsolidateObjectConfig
    _DefaultName = "consolidateObject"
