"""What the tests of campaign and site files share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cm_dagster.errors import SpecError
from cm_dagster.spec import load_campaign, load_sites

EXAMPLE = """\
campaign: hsc_rc2_w43
description: RC2 reprocessing
ticket: DM-12345
butler: {repo: /repo/main, input: [HSC/RC2/defaults], output: HSC/runs/RC2/w43,
  where: "instrument='HSC' AND skymap='hsc_rings_v1'"}
stack: {version: w_2026_43, setup: eups}
pipeline: "${DRP_PIPE_DIR}/pipelines/HSC/DRP-RC2.yaml"
sites: {usdf: 0.6, frdf: 0.4}
defaults: {accept: {quanta: 0.95}, retry: {max: 2}, requirements: {raw: all}}
steps:
  step1: {pipeline: "#step1", group_by: {dimension: visit, dataset: raw, size: 100}, scouts: 2}
  step2: {pipeline: "#step2", needs: [step1], group_by: {dimension: tract, max_quanta: 100000}}
  step3: {pipeline: "#step3", needs: [step2], gate: sign-off}
"""

type Messages = Callable[[str], list[str]]


@pytest.fixture
def campaign_messages(tmp_path: Path) -> Messages:
    """Load a text as campaign file and give the messages, with the file shown as ``c.yaml``."""
    return lambda text: _messages(tmp_path / "c.yaml", text)


@pytest.fixture
def site_messages(tmp_path: Path) -> Messages:
    """Load a text as site file and give the messages, with the file shown as ``s.yaml``."""
    return lambda text: _messages(tmp_path / "s.yaml", text)


def _messages(file: Path, text: str) -> list[str]:
    file.write_text(text)
    load = load_campaign if file.name == "c.yaml" else load_sites
    try:
        load(file)
    except SpecError as error:
        return [str(fault).replace(str(file), file.name) for fault in error.faults]
    return []
