"""A Data Release Production in miniature: four steps of real PipelineTasks whose datasets are small dictionaries."""

from pathlib import Path

__all__ = ["PIPELINE"]

PIPELINE = Path(__file__).parent / "pipelines" / "MiniDRP.yaml"
"""The pipeline, with the steps ``step1`` to ``step4``."""
