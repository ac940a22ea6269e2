"""Drafts of campaign files, from real pipelines."""

from __future__ import annotations

from pathlib import Path

import pytest
from lsst.daf.butler import Butler

import cm_dagster
from cm_dagster.errors import ServiceError
from cm_dagster.services.pipeline import read_steps
from cm_dagster.spec import CampaignSpec, DraftInput, DraftStep, draft_campaign, load_campaign

MINI = str(Path(cm_dagster.__file__).parent / "local/minidrp/pipelines/MiniDRP.yaml")


def _drafted(folder: Path, steps: list[DraftStep], pipeline: str = MINI, repo: str | None = None) -> CampaignSpec:
    file = folder / "draft.yaml"
    text = draft_campaign("mini", pipeline, steps, repo=repo, inputs=["HSC/defaults"], output="u/me/mini")
    file.write_text(text)
    return load_campaign(file)


def test_draft_of_the_mini_pipeline_is_a_campaign(tmp_path: Path) -> None:
    spec = _drafted(tmp_path, read_steps(MINI))
    assert spec.order() == ["step1", "step2", "step3", "step4"]
    assert [step.needs for step in spec.steps.values()] == [[], ["step1"], ["step2"], ["step3"]]
    groups = [step.group_by.model_dump(exclude_none=True) if step.group_by else None for step in spec.steps.values()]
    assert groups == [
        {"dimension": "visit", "dataset": "raw", "size": 100},
        {"dimension": "visit", "dataset": "calexp", "size": 100},
        {"dimension": "tract", "size": 1},
        {"dimension": "tract", "dataset": "coadd", "size": 1},
    ]
    assert spec.pipeline_of("step3") == f"{MINI}#step3"


def test_draft_with_a_repository_is_the_same(tmp_path: Path) -> None:
    repo = str(tmp_path / "repo")
    Butler.makeRepo(repo)
    assert read_steps(MINI, repo=repo) == read_steps(MINI)
    assert _drafted(tmp_path, read_steps(MINI), repo=repo).butler.repo == repo


def test_chosen_subsets(tmp_path: Path) -> None:
    steps = read_steps(MINI, subsets=["step4", "step3"])
    assert [(step.name, step.needs) for step in steps] == [("step3", ()), ("step4", ("step3",))]
    with pytest.raises(ServiceError, match=r"has no subset step9.*its subsets: step1, step2, step3, step4"):
        read_steps(MINI, subsets=["step9"])


TASKS = """\
description: own
tasks:
  isr: cm_dagster.local.minidrp.tasks.IsrTask
  calibrateImage: cm_dagster.local.minidrp.tasks.CalibrateImageTask
  consolidateVisitSummary: cm_dagster.local.minidrp.tasks.ConsolidateVisitSummaryTask
"""


@pytest.mark.parametrize(
    ("subsets", "expected"),
    [
        ("", [("all", ())]),
        ("subsets: {first-one: [isr], rest: [calibrateImage]}", [("first_one", ()), ("rest", ("first_one",))]),
        (
            "subsets: {step2: [calibrateImage], step1: [isr], both: [isr, calibrateImage]}",
            [("step1", ()), ("step2", ("step1",))],
        ),
    ],
)
def test_pipelines_that_declare_no_steps(
    subsets: str, expected: list[tuple[str, tuple[str, ...]]], tmp_path: Path
) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(TASKS + subsets)
    steps = read_steps(str(file))
    assert [(step.name, step.needs) for step in steps] == expected
    spec = _drafted(tmp_path, steps, str(file))
    assert spec.pipeline_of("all" if "all" in spec.steps else steps[0].name).startswith(str(file))


def test_overlapping_subsets_have_to_be_chosen(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(TASKS + "subsets: {one: [isr], both: [isr, calibrateImage]}")
    with pytest.raises(
        ServiceError, match=r"its subsets overlap.*name the subsets that are to be steps, of: both, one"
    ):
        read_steps(str(file))


def test_subsets_that_need_each_other(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(TASKS + "subsets: {ends: [isr, consolidateVisitSummary], middle: [calibrateImage]}")
    with pytest.raises(ServiceError, match=r"cannot all be steps: steps need each other in a circle"):
        read_steps(str(file))


def test_pipeline_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"none.yaml cannot be read: FileNotFoundError"):
        read_steps(str(tmp_path / "none.yaml"))
    with pytest.raises(ServiceError, match=r"with the Butler repository /no/repo"):
        read_steps(MINI, repo="/no/repo")


def test_draft_with_awkward_words_and_dimensions(tmp_path: Path) -> None:
    steps = [
        DraftStep("a", "#a", "say: 'what'\n# you \"want\"", (), ("instrument",)),
        DraftStep("b", "#b", "", ("a",), ("healpix9",), (DraftInput("x", frozenset({"healpix9"})),)),
    ]
    spec = _drafted(tmp_path, steps, "/odd:path/with,comma/p.yaml", repo="12")
    assert spec.steps["a"].group_by is None
    assert spec.steps["b"].group_by is not None
    assert (spec.steps["b"].group_by.dimension, spec.steps["b"].group_by.dataset) == ("healpix9", "x")
    assert spec.butler.repo == "12"
