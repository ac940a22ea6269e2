"""Worlds are played in processes that were started afresh: that of the tests has threads, and must not fork."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from cm_dagster_tests.faults.play import Result, play, working_folder
from cm_dagster_tests.faults.scenario import Scenario
from cm_dagster_tests.faults.world import Templates, make_templates

type Play = Callable[..., Result]


@pytest.fixture(scope="package")
def folder() -> Iterator[Path]:
    """Where the worlds of all tests are; it stays if one of them is not as it should be."""
    made = working_folder()
    yield made
    if not any(made.glob("world-*")):
        shutil.rmtree(made)


@pytest.fixture(scope="package")
def templates(folder: Path) -> Templates:
    return make_templates(folder / "templates")


@pytest.fixture(scope="package")
def workers() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="package")
def played(folder: Path, templates: Templates, workers: ProcessPoolExecutor) -> Play:
    """Play a scenario in a new world, which is removed if all is well with it, or if that is not to be expected."""
    numbers = itertools.count(1)

    def play_one(scenario: Scenario, mutation: str = "") -> Result:
        world = folder / f"world-{next(numbers)}"
        result = workers.submit(play, scenario, world, templates, mutation).result()
        if result.good or mutation:
            shutil.rmtree(world)
        return result

    return play_one
