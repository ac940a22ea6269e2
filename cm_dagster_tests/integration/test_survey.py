"""The surveys: what they hold, and that making them is all or nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lsst.daf.butler import Butler

from cm_dagster.errors import ButlerError
from cm_dagster.local.survey import Survey, copy_survey, make_hsc_survey, make_synthetic_survey
from cm_dagster.local.survey_raws import RawFiles
from cm_dagster.testing.postgres import PostgresServer


def test_hsc_survey_holds_the_real_records(hsc_template: Survey) -> None:
    with Butler.from_config(str(hsc_template.root), collections=hsc_template.defaults) as butler:
        visits = butler.query_dimension_records("visit", where=hsc_template.where)
        assert len(visits) == 11
        assert {visit.day_obs for visit in visits} == {20130617, 20131102}
        assert {visit.science_program for visit in visits} == {"o13015"}
        raws = butler.query_datasets("raw")
        assert len(raws) == 33
        assert butler.get(raws[0])["value"] == 1.0
        assert butler.collections.get_info("HSC/defaults").children == ("HSC/raw/all",)


def test_every_hsc_raw_lies_in_the_tract(hsc_template: Survey) -> None:
    with (
        Butler.from_config(str(hsc_template.root), collections=hsc_template.defaults) as butler,
        butler.query() as query,
    ):
        rows = query.join_dataset_search("raw", "HSC/raw/all").data_ids(["exposure", "detector", "visit", "tract"])
        assert len({(row["exposure"], row["detector"]) for row in rows.where(hsc_template.where)}) == 33


def test_patches_cover_every_hsc_raw(hsc_template: Survey) -> None:
    with Butler.from_config(str(hsc_template.root)) as butler:
        found = butler.query_data_ids(["visit", "detector", "patch"], where=hsc_template.where)
        assert len({(row["visit"], row["detector"]) for row in found}) == 33
        assert len({row["patch"] for row in found}) == 4


def test_a_survey_can_be_moved(hsc_repo: Survey, tmp_path: Path) -> None:
    moved = hsc_repo.root.rename(tmp_path / "elsewhere")
    with Butler.from_config(str(moved), collections=hsc_repo.defaults) as butler:
        assert butler.get(butler.query_datasets("raw")[0])["dataset_type"] == "raw"


def test_making_a_survey_again_changes_nothing(hsc_repo: Survey) -> None:
    before = {path: path.stat().st_mtime_ns for path in hsc_repo.root.rglob("*")}
    assert make_hsc_survey(hsc_repo.root) == hsc_repo
    assert {path: path.stat().st_mtime_ns for path in hsc_repo.root.rglob("*")} == before


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ButlerError, match="neither empty nor a Butler repository"):
        make_hsc_survey(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_survey_whose_making_was_killed_is_made_anew(tmp_path: Path) -> None:
    root = tmp_path / "survey"
    code = f"from pathlib import Path; from cm_dagster.local.survey import *; make_hsc_survey(Path({str(root)!r}))"
    process = subprocess.Popen([sys.executable, "-c", code])
    half_made = tmp_path / ".survey.partial" / "repo" / "gen3.sqlite3"
    while not half_made.exists():
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not root.exists()
    survey = make_hsc_survey(root)
    assert not half_made.parent.parent.exists()
    with Butler.from_config(str(survey.root)) as butler:
        assert len(butler.query_datasets("raw", collections="HSC/raw/all")) == 33


@pytest.mark.parametrize(("raws", "files"), [(RawFiles.EACH, 12), (RawFiles.SHARED, 1), (RawFiles.NONE, 0)])
def test_synthetic_survey_is_as_large_as_asked(tmp_path: Path, raws: RawFiles, files: int) -> None:
    survey = make_synthetic_survey(
        tmp_path / "repo", visits=6, detectors=2, tracts=3, patches=2, visits_per_night=4, raws=raws
    )
    with Butler.from_config(str(survey.root)) as butler:
        assert len(butler.query_dimension_records("visit", where=survey.where)) == 6
        assert len({record.id for record in butler.query_dimension_records("day_obs")}) == 2
        assert len(butler.query_dimension_records("patch", where=survey.where)) == 12
        if raws is not RawFiles.NONE:
            found = butler.query_datasets("raw", collections=survey.defaults)
            assert len(found) == 12
            assert len({butler.getURI(ref) for ref in found}) == files


def test_synthetic_visits_lie_in_the_tracts(tmp_path: Path) -> None:
    survey = make_synthetic_survey(tmp_path / "repo", visits=20, detectors=1, raws=RawFiles.NONE)
    with Butler.from_config(str(survey.root)) as butler:
        found = butler.query_data_ids(["visit", "tract"], where=survey.where)
        assert {row["visit"] for row in found} == set(range(1, 21))


def test_synthetic_surveys_are_alike(tmp_path: Path) -> None:
    records = []
    for name in ("one", "two"):
        survey = make_synthetic_survey(tmp_path / name, visits=3, raws=RawFiles.NONE)
        with Butler.from_config(str(survey.root)) as butler:
            records.append(butler.query_dimension_records("visit", where=survey.where))
        shutil.rmtree(survey.root)
    assert records[0] == records[1]


@pytest.mark.parametrize("db", ["sqlite", "postgres"])
def test_another_site_holds_the_same_survey(
    hsc_template: Survey, tmp_path: Path, db: str, request: pytest.FixtureRequest
) -> None:
    url = None
    if db == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.create("another_site", extensions=["btree_gist"]).url
    copy = copy_survey(hsc_template, tmp_path / "site", db_url=url)
    assert (copy.root, copy.where, copy.defaults) == (tmp_path / "site", hsc_template.where, hsc_template.defaults)
    assert _content(copy) == _content(hsc_template)
    assert copy_survey(hsc_template, tmp_path / "site", db_url=url) == copy
    # A copy of what is not SQLite is one as well.
    again = copy_survey(copy, tmp_path / "third")
    assert (again.root / "gen3.sqlite3").exists()
    assert _content(again) == _content(hsc_template)


def _content(survey: Survey) -> object:
    """What a repository holds: raws with what is in them, chain, and records of all kinds."""
    with Butler.from_config(str(survey.root)) as butler:
        raws = butler.query_datasets("raw", survey.defaults, limit=None)
        elements = [element.name for element in butler.dimensions.elements if element.has_own_table]
        records = {
            name: {record.dataId: record for record in butler.query_dimension_records(name, limit=None, explain=False)}
            for name in elements
        }
        children = butler.collections.get_info(survey.defaults).children
        return {ref.id: (ref.dataId, butler.get(ref)) for ref in raws}, records, children
