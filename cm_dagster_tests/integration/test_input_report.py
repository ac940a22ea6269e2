"""What a step will ask of its inputs, on a real repository: each kind of thing, there and missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import astropy.time
import pytest
import sqlalchemy
from lsst.daf.butler import Butler, CollectionType, DatasetRef, DatasetType, Timespan

from cm_dagster.errors import ButlerError
from cm_dagster.local.survey import Survey, make_synthetic_survey
from cm_dagster.services.butler import ButlerService
from cm_dagster.services.input_report import InputRow, check_collections, check_datasets, first_missing
from cm_dagster.spec.models import CampaignSpec

PIPELINE = "description: d\ntasks: {needy: cm_dagster_tests.integration.needy_tasks.NeedyTask}\n"
DETECTORS, FILTERS = range(4), ("g_mini", "r_mini", "i_mini")
ALL_TIME = Timespan(None, None)


def made(folder: Path, visits: int) -> Survey:
    """A survey of four visits a night, with all that the task reads."""
    survey = make_synthetic_survey(folder, visits=visits, detectors=len(DETECTORS), visits_per_night=4)
    with Butler.from_config(str(folder), writeable=True) as butler:
        put(butler, "skyMap", ["skymap"], [{"skymap": survey.skymap}], "skymaps")
        put(butler, "stars", ["htm7"], [{"htm7": 2**15 + 17}], "refcats")
        butler.collections.register("calib", CollectionType.CALIBRATION)
        butler.registry.certify("calib", biases(butler), ALL_TIME)
        butler.registry.certify("calib", flats(butler), ALL_TIME)
        butler.collections.register("empty/run")
    return survey


def put(
    butler: Butler, name: str, dimensions: list[str], ids: list[dict[str, Any]], run: str, *, calibration: bool = False
) -> list[DatasetRef]:
    """Register datasets without files."""
    kind = DatasetType(name, dimensions, "StructuredDataDict", universe=butler.dimensions, isCalibration=calibration)
    butler.registry.registerDatasetType(kind)
    butler.collections.register(run)
    return butler.registry.insertDatasets(kind, ids, run=run)


def biases(butler: Butler, run: str = "calib/bias") -> list[DatasetRef]:
    ids = [{"instrument": "MiniCam", "detector": number} for number in DETECTORS]
    return put(butler, "bias", ["instrument", "detector"], ids, run, calibration=True)


def flats(butler: Butler) -> list[DatasetRef]:
    of = {"instrument": "MiniCam"}
    ids = [of | {"detector": number, "physical_filter": name} for number in DETECTORS for name in FILTERS]
    return put(butler, "flat", ["instrument", "detector", "physical_filter"], ids, "calib/flat", calibration=True)


def night(date: str) -> astropy.time.Time:
    return astropy.time.Time(f"{date}T12:00:00", scale="tai")


class Bench:
    """A repository of one test, and a campaign of one step that reads it."""

    def __init__(self, folder: Path, survey: Survey) -> None:
        self.survey = survey
        (folder / "needy.yaml").write_text(PIPELINE)
        self.pipeline = str(folder / "needy.yaml")
        self.service = ButlerService(str(survey.root))
        self.inputs = [survey.defaults, "calib", "refcats", "skymaps"]

    def spec(self, **step: Any) -> CampaignSpec:
        return CampaignSpec.model_validate(
            {
                "campaign": "c",
                "butler": {"input": self.inputs, "output": "u/c", "where": self.survey.where},
                "pipeline": self.pipeline,
                "sites": "here",
                "steps": {"s": {"pipeline": self.pipeline, **step}},
            }
        )

    def rows(self, **step: Any) -> dict[str, InputRow]:
        report = check_datasets(self.service, self.spec(**step), "s", self.inputs)
        return {row.what: row for row in report.rows}

    @contextmanager
    def butler(self) -> Iterator[Butler]:
        with Butler.from_config(str(self.survey.root), writeable=True) as butler:
            yield butler


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    return made(tmp_path_factory.mktemp("survey") / "sky", 12)


@pytest.fixture
def bench(template: Survey, tmp_path: Path) -> Iterator[Bench]:
    root = tmp_path / "sky"
    shutil.copytree(template.root, root)
    found = Bench(tmp_path, Survey(root, template.instrument, template.skymap, template.defaults))
    yield found
    found.service.close()


def lacking(rows: Mapping[str, InputRow]) -> list[str]:
    return [name for name, row in rows.items() if not row.met]


def test_all_that_the_pipeline_reads_is_there(bench: Bench) -> None:
    rows = bench.rows(requirements={"raw": 40})
    assert lacking(rows) == []
    assert {name: row.kind for name, row in rows.items()} == {
        "raw": "input",
        "mask": "input",
        "bias": "calibration",
        "flat": "calibration",
        "skyMap": "prerequisite",
        "stars": "prerequisite",
        "spots": "prerequisite",
    }
    assert (rows["bias"].found, rows["bias"].wanted, rows["bias"].collections) == ("48", "48", "calib")
    assert rows["flat"].found == "48"  # each exposure by the flat of its own filter
    # What the tasks do without is said, and stops nothing.
    assert [rows[name].wanted for name in ("mask", "spots")] == ["optional"] * 2
    assert "no dataset type of this name" in rows["spots"].note


@pytest.mark.parametrize(
    ("left_out", "missing"),
    [("skymaps", "skyMap"), ("refcats", "stars"), ("calib", "bias"), ("MiniCam/defaults", "raw")],
)
def test_what_no_collection_holds_is_missing(bench: Bench, left_out: str, missing: str) -> None:
    bench.inputs.remove(left_out)
    rows = bench.rows()
    assert lacking(rows) == (["bias", "flat"] if missing == "bias" else [missing])
    assert missing in rows[missing].advice or "put some into" in rows[missing].advice
    if missing == "raw":
        assert rows["bias"].note.startswith("its dates are not checked")


def test_a_dataset_type_that_was_never_registered_is_missing(bench: Bench) -> None:
    with bench.butler() as butler:
        for name in ("stars", "skyMap", "bias"):
            found = butler.query_datasets(name, "*", find_first=False)
            butler.pruneDatasets(found, disassociate=True, unstore=True, purge=True)
            butler.registry.removeDatasetType(name)
    rows = bench.rows()
    assert lacking(rows) == ["bias", "skyMap", "stars"]
    assert {rows[name].note for name in lacking(rows)} == {"the repository has no dataset type of this name"}


def test_a_skymap_of_another_name_does_not_do(bench: Bench) -> None:
    with bench.butler() as butler:
        butler.registry.insertDimensionData(
            "skymap", {"name": "other", "hash": b"2" * 20, "tract_max": 1, "patch_nx_max": 1, "patch_ny_max": 1}
        )
        put(butler, "skyMap", ["skymap"], [{"skymap": "other"}], "other_skymaps")
    bench.inputs[-1] = "other_skymaps"
    row = bench.rows()["skyMap"]
    assert not row.met
    assert row.note == f"there are some, but none where {bench.survey.where}"


def test_a_gap_in_validity_is_told_with_its_first_exposure(bench: Bench) -> None:
    with bench.butler() as butler:
        butler.registry.decertify("calib", "bias", Timespan(night("2026-01-02"), night("2026-01-03")))
        butler.registry.decertify(
            "calib", "bias", Timespan(night("2026-01-03"), None), dataIds=[{"instrument": "MiniCam", "detector": 3}]
        )
    rows = bench.rows()
    assert lacking(rows) == ["bias"]
    assert rows["bias"].found == "28 of 48"
    assert rows["bias"].note == (
        "none is valid for 20 of 48 exposures x detectors of raw,"
        " the first: exposure 5 (2026-01-02T19:12:00 TAI), detector 0"
    )
    assert lacking(bench.rows(where="day_obs = 20260101")) == []
    assert lacking(bench.rows(where="day_obs = 20260103 AND detector < 3")) == []


def test_a_filter_without_a_flat_is_found(bench: Bench) -> None:
    with bench.butler() as butler:
        of = [{"instrument": "MiniCam", "detector": number, "physical_filter": "g_mini"} for number in DETECTORS]
        butler.registry.decertify("calib", "flat", ALL_TIME, dataIds=of)
    row = bench.rows()["flat"]
    assert (row.met, row.found) == (False, "32 of 48")
    assert lacking(bench.rows(where="physical_filter = 'r_mini'")) == []


def test_a_detector_that_was_off_needs_no_calibration(bench: Bench) -> None:
    with bench.butler() as butler:
        butler.registry.decertify(
            "calib", "bias", Timespan(night("2026-01-02"), None), dataIds=[{"instrument": "MiniCam", "detector": 1}]
        )
        off = butler.query_datasets(
            "raw",
            bench.survey.defaults,
            where="detector = 1 AND day_obs > 20260101",
            bind=None,
            find_first=True,
            instrument="MiniCam",
        )
        butler.pruneDatasets(off, disassociate=True, unstore=True, purge=True)
    assert lacking(bench.rows()) == []


def test_a_calibration_in_a_run_is_always_valid(bench: Bench) -> None:
    bench.inputs[1:2] = ["calib/bias", "calib/flat"]
    assert lacking(bench.rows()) == []


def test_the_number_of_questions_does_not_grow_with_the_exposures(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = Bench(tmp_path, made(tmp_path / "large", 200))
    asked = []
    for one in (bench, large):
        with one.butler() as butler:  # a gap, so that all questions are asked
            butler.registry.decertify("calib", "bias", Timespan(night("2026-01-02"), None))
        asked.append(statements(one))
    large.service.close()
    assert asked[0] == asked[1]


def statements(bench: Bench) -> int:
    """Count the SQL statements of a look."""
    told: list[str] = []

    def hear(*event: Any) -> None:
        told.append(event[2])

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "before_cursor_execute", hear)
    try:
        assert lacking(bench.rows()) == ["bias"]
    finally:
        sqlalchemy.event.remove(sqlalchemy.engine.Engine, "before_cursor_execute", hear)
    assert told
    return len(told)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (None, "there is no such file where cm_dagster runs"),
        ("description: d\ntasks: {needy: lsst.no.such.Task}\n", "No module named 'lsst.no'"),
        ("tasks: [", "Error"),
    ],
    ids=["another stack's file", "another stack's task", "not a pipeline"],
)
def test_a_pipeline_that_cannot_be_read_here_stops_nothing(bench: Bench, text: str | None, cause: str) -> None:
    path = Path(bench.pipeline)
    path.unlink()
    if text is not None:
        path.write_text(text)
    rows = bench.rows()
    assert list(rows) == [bench.pipeline]
    row = rows[bench.pipeline]
    assert row.met
    assert row.note.startswith("not checked: it can't be read: ")
    assert cause in row.note


def test_requirements_are_counted(bench: Bench) -> None:
    Path(bench.pipeline).unlink()
    rows = bench.rows(requirements={"raw": 49, "calexp": "all"}, group_by={"dimension": "visit", "dataset": "flux"})
    assert lacking(rows) == ["raw", "calexp", "flux"]
    assert (rows["raw"].found, rows["raw"].wanted) == ("48", "49")
    assert rows["calexp"].note.endswith("has no dataset type of this name")
    assert rows["flux"].kind == "group_by"
    first, advice = first_missing(list(rows.values()))
    assert first == "requirement raw: 48 found, 49 wanted (and 2 more)"
    assert advice.startswith(
        "put some into the inputs (MiniCam/defaults, calib, refcats, ... (4)), or change the step's"
    )
    rows = bench.rows(requirements={"raw": "all"}, group_by={"dimension": "visit", "dataset": "raw"})
    assert lacking(rows) == []


def test_collections_are_looked_at_in_their_order(bench: Bench) -> None:
    rows = check_collections(bench.service, ["calib", "empty/run", "MiniCam/default", "MiniCam/defaults"])
    assert [row.found for row in rows] == ["CALIBRATION", "RUN", "no", "CHAINED"]
    assert [row.collections for row in rows] == ["1 of 4", "2 of 4", "3 of 4", "4 of 4"]
    assert [row.note for row in rows[:2]] == ["", "it is empty"]
    assert [row.met for row in rows] == [True, True, False, True]
    assert "nearest: 'MiniCam/defaults'" in rows[2].note


def test_a_repository_that_does_not_answer_is_no_missing_dataset(bench: Bench) -> None:
    (bench.survey.root / "gen3.sqlite3").rename(bench.survey.root / "away")
    with pytest.raises(ButlerError):
        bench.rows()
