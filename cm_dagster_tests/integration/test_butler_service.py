"""What the adapter of the Butler tells of a real repository, and how it fails."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from lsst.daf.butler import Butler, CollectionType, DataCoordinate, DatasetType
from lsst.daf.butler.direct_butler._direct_butler_collections import DirectButlerCollections
from lsst.pipe.base import Pipeline
from sqlalchemy.exc import OperationalError

from cm_dagster.errors import ButlerError, PlanError
from cm_dagster.local.minidrp import pipelines
from cm_dagster.local.survey import Survey, make_synthetic_survey
from cm_dagster.services.butler import ButlerService, PipelineShape


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    """A survey whose tracts and visits overlap in many ways, with a mosaic per patch and a map per pixel; read only."""
    survey = make_synthetic_survey(tmp_path_factory.mktemp("sky") / "sky", visits=25, detectors=4, tracts=3, patches=3)
    with Butler.from_config(str(survey.root), writeable=True) as butler:
        patches = butler.query_data_ids(["patch"], where=survey.where)
        put(butler, "mosaic", ["patch"], "made/a", patches[:20])
        put(butler, "mosaic", ["patch"], "made/b", patches[10:])
        universe = butler.dimensions
        pixels = [DataCoordinate.standardize(healpix9=pixel, universe=universe) for pixel in range(700, 1100, 3)]
        put(butler, "map", ["healpix9"], "made/maps", pixels)
        put(butler, "bias", ["instrument", "detector"], "made/calib", butler.query_data_ids(["detector"])[:2])
        butler.collections.register("made/all", CollectionType.CHAINED)
        butler.collections.redefine_chain("made/all", ["made/b", "made/a", "made/maps", "made/calib"])
    return survey


@pytest.fixture
def service(sky: Survey) -> Iterator[ButlerService]:
    service = ButlerService(str(sky.root))
    yield service
    service.close()


@pytest.fixture
def own(hsc_repo: Survey) -> Iterator[ButlerService]:
    """A repository to write to."""
    service = ButlerService(str(hsc_repo.root))
    yield service
    service.close()


def put(butler: Butler, name: str, dimensions: list[str], run: str, data_ids: list[DataCoordinate]) -> None:
    """Register datasets without files."""
    dataset_type = DatasetType(name, dimensions, "StructuredDataDict", universe=butler.dimensions)
    butler.registry.registerDatasetType(dataset_type)
    butler.collections.register(run)
    butler.registry.insertDatasets(dataset_type, data_ids, run=run)


def joined_by_butler(
    survey: Survey, dataset: str, dimensions: list[str], by: list[str], collection: str
) -> Counter[object]:
    """Count by one statement of Butler's own, with all relations joined at once."""
    with Butler.from_config(str(survey.root)) as butler, butler.query() as query:
        rows = query.join_dataset_search(dataset, collection).where(survey.where).data_ids(dimensions)
        return Counter(tuple(row[name] for name in by) for row in rows)


@pytest.mark.parametrize(
    ("dimension", "dataset", "dimensions"),
    [
        ("exposure", "raw", ["exposure", "detector"]),
        ("visit", "raw", ["exposure", "detector", "visit"]),
        ("detector", "raw", ["exposure", "detector"]),
        ("band", "raw", ["exposure", "detector"]),
        ("physical_filter", "raw", ["exposure", "detector"]),
        ("group", "raw", ["exposure", "detector"]),
        ("day_obs", "raw", ["exposure", "detector"]),
        ("tract", "raw", ["exposure", "detector", "visit", "tract"]),
        ("patch", "raw", ["exposure", "detector", "visit", "patch"]),
        ("htm7", "raw", ["exposure", "detector", "visit", "htm7"]),
        ("tract", "mosaic", ["patch"]),
        ("patch", "mosaic", ["patch"]),
        ("skymap", "mosaic", ["patch"]),
        ("visit", "mosaic", ["patch", "visit"]),
        ("healpix9", "map", ["healpix9"]),
    ],
)
def test_counts_are_those_of_one_joined_query(
    sky: Survey, service: ButlerService, dimension: str, dataset: str, dimensions: list[str]
) -> None:
    collection = sky.defaults if dataset == "raw" else "made/all"
    columns = service.shape(dimension).columns
    counts = service.counts(columns, dataset, [collection], sky.where)
    expected = joined_by_butler(sky, dataset, dimensions, list(columns), collection)
    assert len(expected) > (0 if dimension in ("day_obs", "skymap") else 1)
    assert dict(counts) == dict(expected)


def test_a_predicate_on_a_dimension_that_the_dataset_lacks_is_honoured(sky: Survey, service: ButlerService) -> None:
    where = f"{sky.where} AND visit IN (3..12) AND tract = 1"
    counts = service.counts(("skymap", "tract"), "raw", [sky.defaults], where)
    assert [row for row, _ in counts] == [(sky.skymap, 1)]
    with Butler.from_config(str(sky.root)) as butler, butler.query() as query:
        rows = query.join_dataset_search("raw", sky.defaults).where(where)
        assert counts[0][1] == len(list(rows.data_ids(["exposure", "detector", "visit", "tract"])))


def test_data_ids_of_other_dimensions_can_be_counted(sky: Survey, service: ButlerService) -> None:
    warps = service.counts(("skymap", "tract"), "raw", [sky.defaults], sky.where, ["visit", "patch"])
    expected = joined_by_butler(sky, "raw", ["visit", "patch"], ["skymap", "tract"], sky.defaults)
    # A visit's region is that of all its detectors, which is all that can be known before there are images.
    assert dict(warps) == dict(expected)


def test_a_dataset_in_two_runs_counts_once(sky: Survey, service: ButlerService) -> None:
    assert service.dataset_count("mosaic", ["made/all"], sky.where) == 27
    assert service.dataset_count("mosaic", ["made/a"], f"{sky.where} AND tract = 0") == 9
    assert sum(n for _, n in service.counts(("skymap", "tract"), "mosaic", ["made/all"], sky.where)) == 27


def test_counts_without_a_dataset_are_the_records(sky: Survey, service: ButlerService) -> None:
    assert service.counts(("instrument", "visit"), None, [], f"{sky.where} AND visit > 20") == [
        ((sky.instrument, visit), 1) for visit in range(21, 26)
    ]


def test_shapes(service: ButlerService) -> None:
    patch = service.shape("patch")
    assert (patch.columns, patch.governors, patch.integers, patch.recorded) == (
        ("skymap", "tract", "patch"),
        1,
        True,
        True,
    )
    assert not service.shape("band").integers
    assert not service.shape("healpix9").recorded
    with pytest.raises(ButlerError, match="no dimension 'visitt'"):
        service.shape("visitt")


@pytest.mark.parametrize(
    ("columns", "dataset", "collection", "where", "cause", "advice"),
    [
        (("instrument", "visit"), "raw", "made/all", "visit > 3", "instrument", "instrument='...'"),
        (("instrument", "visit"), "nope", "made/all", "", "'nope' does not exist", "dataset type"),
        (("instrument", "visit"), "raw", "made/none", "", "made/none", "query-collections"),
        (("instrument", "visit"), "raw", "made/all", "visit >", "Failed to parse", "where"),
        (("instrument", "visit"), "raw", "made/all", "visitt = 3", "Unrecognized identifier", "where"),
        (("healpix9",), None, "made/all", "", "no table", "group by"),
        (("healpix9",), "raw", "made/all", "", "Unsupported", "group by"),
    ],
)
def test_questions_that_cannot_be_answered_say_what_to_do(
    service: ButlerService,
    columns: tuple[str, ...],
    dataset: str | None,
    collection: str,
    where: str,
    cause: str,
    advice: str,
) -> None:
    with pytest.raises(ButlerError) as caught:
        service.counts(columns, dataset, [collection], where)
    assert cause in caught.value.cause
    assert advice in caught.value.advice
    assert not caught.value.transient


def test_dimensions_without_any_relation_are_not_multiplied(sky: Survey, service: ButlerService) -> None:
    with pytest.raises(PlanError, match="nothing relates"):
        service.counts(("skymap", "tract"), "bias", ["made/all"], sky.where)


def test_too_long_a_predicate_is_not_called_transient(sky: Survey, service: ButlerService) -> None:
    numbers = ",".join(str(number) for number in range(0, 3000, 2))
    with pytest.raises(ButlerError, match="Expression tree is too large") as caught:
        service.counts(("instrument", "visit"), "raw", [sky.defaults], f"{sky.where} AND visit IN ({numbers})")
    assert not caught.value.transient


def test_missing_inputs_are_named_with_the_nearest(service: ButlerService, sky: Survey) -> None:
    service.check_inputs([sky.defaults, "made/a"])
    with pytest.raises(ButlerError) as caught:
        service.check_inputs([sky.defaults, "made/mapz", "nothing/like/it"])
    assert "'made/mapz' (nearest: 'made/maps')" in caught.value.cause
    assert "'nothing/like/it'" in caught.value.cause
    assert sky.defaults not in caught.value.cause


def test_setting_a_chain_again_changes_and_locks_nothing(own: ButlerService, hsc_repo: Survey) -> None:
    assert own.chain("u/out") is None
    assert own.set_chain("u/out", ["HSC/raw/all", "HSC/defaults", "HSC/raw/all"])
    assert own.chain("u/out") == ["HSC/raw/all", "HSC/defaults"]
    lock = sqlite3.connect(hsc_repo.root / "gen3.sqlite3", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")  # a writer would wait for this
    assert not own.set_chain("u/out", ["HSC/raw/all", "HSC/defaults"])
    lock.close()
    assert own.set_chain("u/out", ["HSC/defaults"])
    assert own.set_chain("u/out", [])
    assert own.chain("u/out") == []


def test_a_chain_that_is_refused_leaves_nothing_behind(own: ButlerService) -> None:
    with pytest.raises(ButlerError, match="'HSC/raw/al' \\(nearest: 'HSC/raw/all'\\)"):
        own.set_chain("u/new", ["HSC/defaults", "HSC/raw/al"])
    assert not own.exists("u/new")
    own.set_chain("u/a", ["HSC/defaults"])
    own.set_chain("u/b", ["u/a"])
    with pytest.raises(ButlerError, match="Cycle"):
        own.set_chain("u/a", ["u/b"])
    assert own.chain("u/a") == ["HSC/defaults"]
    with pytest.raises(ButlerError, match="not a chain but a RUN"):
        own.set_chain("HSC/raw/all", ["u/a"])
    with pytest.raises(ButlerError, match="not a chain but a RUN"):
        own.chain("HSC/raw/all")


def test_a_chain_whose_setting_breaks_off_is_not_registered(
    own: ButlerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(*_: object) -> None:
        raise ConnectionResetError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(DirectButlerCollections, "redefine_chain", break_off)
        with pytest.raises(ButlerError, match="gone") as caught:
            own.set_chain("u/new", ["HSC/defaults"])
    assert caught.value.transient
    assert not own.exists("u/new")
    assert own.set_chain("u/new", ["HSC/defaults"])


def test_run_counts_tell_an_empty_run_from_one_that_is_not_there(own: ButlerService, hsc_repo: Survey) -> None:
    with Butler.from_config(str(hsc_repo.root), writeable=True) as butler:
        put(
            butler,
            "isr_metadata",
            ["exposure", "detector"],
            "u/run",
            butler.query_data_ids(["exposure", "detector"])[:7],
        )
        butler.collections.register("u/empty")
    assert own.run_counts("u/run", ["isr", "other"]) == {"isr": 7, "other": 0}
    assert own.run_counts("u/empty", ["isr"]) == {"isr": 0}
    assert own.run_counts("u/none", ["isr"]) is None


def test_quanta_of_a_run_are_counted_without_knowing_its_tasks(own: ButlerService, hsc_repo: Survey) -> None:
    with Butler.from_config(str(hsc_repo.root), writeable=True) as butler:
        data_ids = butler.query_data_ids(["exposure", "detector"])[:7]
        put(butler, "isr_metadata", ["exposure", "detector"], "u/run", data_ids)
        put(butler, "isr_log", ["exposure", "detector"], "u/run", data_ids)
        put(butler, "other_metadata", ["exposure", "detector"], "u/another", data_ids)
        butler.collections.register("u/empty")
    assert own.quanta_in("u/run") == {"isr": 7}
    assert own.quanta_in("u/empty") == {}
    assert own.quanta_in("u/none") is None


def test_an_open_service_sees_what_others_add(own: ButlerService, hsc_repo: Survey) -> None:
    assert own.run_counts("u/run", ["isr"]) is None
    with Butler.from_config(str(hsc_repo.root), writeable=True) as butler:
        put(
            butler,
            "isr_metadata",
            ["exposure", "detector"],
            "u/run",
            butler.query_data_ids(["exposure", "detector"])[:7],
        )
    assert own.run_counts("u/run", ["isr"]) == {"isr": 7}


def test_a_service_is_shared_by_threads(sky: Survey, service: ButlerService) -> None:
    answers: list[int] = []
    work = [
        threading.Thread(
            target=lambda: answers.append(len(service.counts(("instrument", "visit"), "raw", [sky.defaults])))
        )
        for _ in range(8)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert answers == [25] * 8


def test_a_closed_service_opens_again(sky: Survey, service: ButlerService) -> None:
    assert service.exists(sky.defaults)
    service.close()
    assert service.exists(sky.defaults)


def test_a_repository_that_is_not_there_is_permanent(tmp_path: Path) -> None:
    with pytest.raises(ButlerError, match="does not exist") as caught:
        ButlerService(str(tmp_path / "none")).exists("a")
    assert not caught.value.transient
    assert "address" in caught.value.advice


def test_a_database_that_does_not_answer_is_transient(hsc_repo: Survey) -> None:
    config = yaml.safe_load((hsc_repo.root / "butler.yaml").read_text())
    config.setdefault("registry", {})["db"] = "postgresql+psycopg2://nobody@127.0.0.1:9/none"
    (hsc_repo.root / "butler.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ButlerError, match="refused") as caught:
        ButlerService(str(hsc_repo.root)).exists("a")
    assert caught.value.transient


def test_a_database_that_cannot_be_meant_is_permanent(hsc_repo: Survey) -> None:
    config = yaml.safe_load((hsc_repo.root / "butler.yaml").read_text())
    config.setdefault("registry", {})["db"] = "postgresql+nosuchdriver://nobody@127.0.0.1:9/none"
    (hsc_repo.root / "butler.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ButlerError, match="nosuchdriver") as caught:
        ButlerService(str(hsc_repo.root)).exists("a")
    assert not caught.value.transient


def test_a_database_file_that_is_gone_is_permanent(hsc_repo: Survey) -> None:
    (hsc_repo.root / "gen3.sqlite3").unlink()
    with pytest.raises(ButlerError) as caught:
        ButlerService(str(hsc_repo.root)).exists("a")
    assert not caught.value.transient


def test_a_label_without_an_index_is_permanent() -> None:
    with pytest.raises(ButlerError, match="no_such_label"):
        ButlerService("no_such_label").exists("a")


def test_pipeline_shape(service: ButlerService) -> None:
    path = Path(pipelines.__path__[0]) / "MiniDRP.yaml"
    assert service.pipeline(f"{path}#step3") == PipelineShape(
        tasks={
            "makeWarp": frozenset({"skymap", "tract", "patch", "instrument", "visit"}),
            "assembleCoadd": frozenset({"skymap", "tract", "patch", "band"}),
        },
        inputs={
            "calexp": frozenset({"instrument", "visit", "detector"}),
            "visitSummary": frozenset({"instrument", "visit"}),
        },
    )
    with pytest.raises(ButlerError, match=r"nope\.yaml"):
        service.pipeline(str(path.with_name("nope.yaml")))


def test_a_database_that_is_away_says_nothing_about_the_pipeline(
    service: ButlerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise OperationalError("SELECT 1", {}, Exception("server closed the connection unexpectedly"))

    monkeypatch.setattr(Pipeline, "to_graph", away)
    with pytest.raises(ButlerError, match="server closed the connection") as caught:
        service.pipeline(str(Path(pipelines.__path__[0]) / "MiniDRP.yaml"))
    assert caught.value.transient


def test_what_is_below_a_collection(own: ButlerService) -> None:
    with Butler.from_config(own.repo, writeable=True) as butler:
        for name in ("u/x/a/run", "u/x/b/run", "u/xy/run", "u/x"):
            butler.collections.register(name)
    own.set_chain("u/x/all", ["u/x/b/run", "u/x/a/run"])
    own.set_chain("u/x/nothing", [])
    assert own.below("u/x") == {
        "u/x/a/run": [],
        "u/x/b/run": [],
        "u/x/all": ["u/x/b/run", "u/x/a/run"],
        "u/x/nothing": [],
    }
    assert own.below("u/x/a/run") == {}
