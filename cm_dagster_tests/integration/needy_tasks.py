"""A task that reads what a real pipeline reads from outside: calibrations, a reference catalogue, the skymap."""

from __future__ import annotations

from lsst.pipe.base import PipelineTask, PipelineTaskConfig, PipelineTaskConnections, connectionTypes

_STORAGE = "StructuredDataDict"
_CCD = ("instrument", "exposure", "detector")


class NeedyConnections(PipelineTaskConnections, dimensions=_CCD):
    """A raw, and all kinds of prerequisites."""

    raw = connectionTypes.Input(doc="Raw.", name="raw", storageClass=_STORAGE, dimensions=_CCD)
    mask = connectionTypes.Input(doc="Mask, if any.", name="mask", storageClass=_STORAGE, dimensions=_CCD, minimum=0)
    bias = connectionTypes.PrerequisiteInput(
        doc="Bias.", name="bias", storageClass=_STORAGE, dimensions=("instrument", "detector"), isCalibration=True
    )
    flat = connectionTypes.PrerequisiteInput(
        doc="Flat.",
        name="flat",
        storageClass=_STORAGE,
        dimensions=("instrument", "detector", "physical_filter"),
        isCalibration=True,
    )
    skymap = connectionTypes.PrerequisiteInput(
        doc="Skymap.", name="skyMap", storageClass=_STORAGE, dimensions=("skymap",)
    )
    refcat = connectionTypes.PrerequisiteInput(
        doc="Stars.", name="stars", storageClass=_STORAGE, dimensions=("skypix",), multiple=True, deferLoad=True
    )
    spots = connectionTypes.PrerequisiteInput(
        doc="Known spots, if any.", name="spots", storageClass=_STORAGE, dimensions=("instrument",), minimum=0
    )
    image = connectionTypes.Output(doc="Image.", name="image", storageClass=_STORAGE, dimensions=_CCD)


class NeedyConfig(PipelineTaskConfig, pipelineConnections=NeedyConnections):
    """No settings."""


class NeedyTask(PipelineTask):
    """Never run: only what it reads is looked at."""

    ConfigClass = NeedyConfig
    _DefaultName = "needy"
