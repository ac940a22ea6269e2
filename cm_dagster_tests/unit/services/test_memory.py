"""The memory that jobs asked for is found where BPS would find it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cm_dagster.services.memory import requested_memory

CONFIG: dict[str, Any] = {
    "computeSite": "here",
    "requestMemory": 2048,
    "pipetask": {"isr": {"requestMemory": "8192"}, "calibrate": {"requestCpus": 2}, "odd": {"requestMemory": "{x}"}},
    "cluster": {"visit": {"pipetasks": "one, two", "requestMemory": 10_000}, "plain": {"pipetasks": "three"}},
    "finalJob": {"requestMemory": 4096},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "w_config.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


@pytest.mark.parametrize(
    ("label", "place", "memory"),
    [
        ("isr", "pipetask/isr", 8192),
        ("calibrate", "pipetask/calibrate", 2048),
        ("two", "cluster/visit", 10_000),  # BPS asks the cluster before the task
        ("visit", "cluster/visit", 10_000),
        ("three", "pipetask/three", 2048),
        ("plain", "cluster/plain", 2048),
        ("finalJob", "finalJob", 4096),
    ],
)
def test_a_label_has_a_place_and_a_number(folder: Path, label: str, place: str, memory: int) -> None:
    (found,) = requested_memory(folder, [label]).values()
    assert (found.place, found.memory) == (place, memory)


def test_the_site_comes_before_the_rest(folder: Path) -> None:
    changed = CONFIG | {"site": {"here": {"requestMemory": 3000}}}
    (folder / "w_config.yaml").write_text(yaml.safe_dump(changed))
    assert requested_memory(folder, ["calibrate", "isr"])["calibrate"].memory == 3000
    assert requested_memory(folder, ["isr"])["isr"].memory == 8192


def test_what_is_no_number_is_not_known(folder: Path) -> None:
    assert requested_memory(folder, ["odd", ""]) == {}


@pytest.mark.parametrize("text", ["", "{", "just text", None])
def test_without_a_configuration_nothing_is_known(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "w_config.yaml").write_text(text)
    assert requested_memory(tmp_path, ["isr"]) == {}
