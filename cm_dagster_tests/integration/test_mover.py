"""Data travel between real Butlers: all of it, once, whoever dies, hangs or races meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from lsst.daf.butler import Butler, CollectionType, DataCoordinate

from cm_dagster.errors import TransferError
from cm_dagster.local.minidrp import pipelines
from cm_dagster.local.survey import Survey
from cm_dagster.services.butler import ButlerService
from cm_dagster.services.mover import ButlerMover, Moved, Parcel, StageInputs
from cm_dagster.services.pipeline_inputs import types_read
from cm_dagster.testing.postgres import PostgresServer
from cm_dagster_tests.integration.mover_rig import (
    DETECTOR,
    VISIT,
    Repo,
    on_copied_postgres,
    on_postgres,
    on_sqlite,
)

RUN = "u/step1/g0001/a01/run"
LONG = 300.0
"""Seconds that no transfer here takes."""


@dataclass(frozen=True)
class Sites:
    """Two sites, of which one may be home."""

    source: Repo
    target: Repo

    def deliver(self, *parcels: Parcel, deadline: float = LONG) -> list[Moved]:
        return list(ButlerMover().deliver(self.source.uri, self.target.uri, parcels, deadline))

    def stage(self, inputs: StageInputs, where: str) -> Moved:
        parcel = Parcel("g0001", where=where)
        (moved,) = ButlerMover().stage(self.source.uri, self.target.uri, [parcel], inputs, LONG)
        return moved


@pytest.fixture(scope="module")
def postgres_template(hsc_template: Survey, postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    return on_postgres(hsc_template, tmp_path_factory.mktemp("template") / "postgres", postgres)


@pytest.fixture
def sites(hsc_template: Survey, tmp_path: Path) -> Sites:
    return Sites(on_sqlite(hsc_template, tmp_path / "site"), on_sqlite(hsc_template, tmp_path / "home"))


@pytest.fixture
def to_postgres(hsc_template: Survey, postgres_template: Repo, postgres: PostgresServer, tmp_path: Path) -> Sites:
    target = on_copied_postgres(postgres_template, tmp_path / "home", postgres)
    return Sites(on_sqlite(hsc_template, tmp_path / "site"), target)


@pytest.fixture
def from_postgres(hsc_template: Survey, postgres_template: Repo, postgres: PostgresServer, tmp_path: Path) -> Sites:
    source = on_copied_postgres(postgres_template, tmp_path / "site", postgres)
    return Sites(source, on_sqlite(hsc_template, tmp_path / "home"))


@pytest.fixture(params=["sites", "to_postgres", "from_postgres"])
def any_sites(request: pytest.FixtureRequest) -> Sites:
    made: Sites = request.getfixturevalue(request.param)
    return made


GROUP = Parcel("g0001", (RUN,))


def fill(repo: Repo, run: str = RUN, copies: int = 1) -> int:
    """Put what a group leaves into a RUN; gives how many datasets that are."""
    detectors = repo.ids(DETECTOR)
    for number in range(copies):
        repo.put(f"calexp{number or ''}", DETECTOR, run, detectors)
    repo.put("calibrateImage_metadata", DETECTOR, run, detectors[:5])
    repo.put("summary", VISIT, run, repo.ids(VISIT))
    with repo.butler() as butler:
        empty = DataCoordinate.make_empty(butler.dimensions)
    repo.put("packages", (), run, [empty])
    return copies * len(detectors) + 5 + 11 + 1


def test_a_run_comes_whole_with_its_uuids_and_only_once(any_sites: Sites) -> None:
    total = fill(any_sites.source)
    assert any_sites.deliver(GROUP) == [Moved("g0001", total, total, (RUN,))]
    assert any_sites.target.held(RUN) == any_sites.source.held(RUN)
    assert any_sites.target.readable(RUN) == total
    before = any_sites.target.file("summary", RUN).stat().st_mtime_ns
    assert any_sites.deliver(GROUP) == [Moved("g0001", total, 0, (RUN,))]
    assert any_sites.target.file("summary", RUN).stat().st_mtime_ns == before


def test_what_has_come_since_is_brought_by_the_next_call(sites: Sites) -> None:
    total = fill(sites.source)
    sites.deliver(GROUP)
    sites.source.put("late", VISIT, RUN, sites.source.ids(VISIT)[:2])
    assert sites.deliver(GROUP) == [Moved("g0001", total + 2, 2, (RUN,))]


def test_a_parcel_that_fails_keeps_no_other(sites: Sites) -> None:
    total = fill(sites.source)
    with sites.source.butler() as butler:
        butler.collections.register("u/empty")
        butler.collections.register("u/chain", CollectionType.CHAINED)
    parcels = [
        Parcel("missing", ("u/none",)),
        Parcel("empty", (RUN, "u/empty")),
        Parcel("chain", ("u/chain",)),
        Parcel("nothing"),
        Parcel("good", (RUN,)),
    ]
    moving = ButlerMover().deliver(sites.source.uri, sites.target.uri, parcels, LONG)
    assert next(moving) == Moved("good", total, 0, (RUN,))  # "empty" has brought them
    with pytest.raises(TransferError) as caught:
        next(moving)
    faults = caught.value.faults
    assert list(faults) == ["missing", "empty", "chain", "nothing"]
    assert "no collection u/none at the source" in faults["missing"].cause
    assert "u/empty of empty holds no datasets" in faults["empty"].cause
    assert "not a RUN but a CHAINED" in faults["chain"].cause
    assert "no RUN collection" in faults["nothing"].cause
    assert "aggregate-graph" in faults["missing"].advice
    assert "(and 3 more)" in caught.value.cause
    assert not caught.value.transient
    assert not any(fault.transient for fault in faults.values())


def test_counts_that_differ_are_named(sites: Sites) -> None:
    fill(sites.source)
    sites.source.put("few", VISIT, RUN, sites.source.ids(VISIT)[:3])
    sites.target.put("few", VISIT, RUN, sites.target.ids(VISIT)[3:4])
    with pytest.raises(TransferError) as caught:
        sites.deliver(GROUP)
    assert f"{RUN} of g0001 has 3 few at the source" in caught.value.cause
    assert f"and 4 at the target, {sites.target.uri}" in caught.value.cause
    assert not caught.value.transient


def test_another_dataset_in_the_same_place_is_never_taken_for_the_same(any_sites: Sites) -> None:
    visits = any_sites.source.ids(VISIT)
    any_sites.source.put("summary", VISIT, RUN, visits)
    (other,) = any_sites.target.put("summary", VISIT, RUN, visits[4:5])
    with pytest.raises(TransferError) as caught:
        any_sites.deliver(GROUP)
    assert f"another summary (instrument HSC, visit {visits[4]['visit']}) in {RUN}" in caught.value.cause
    assert str(other) in caught.value.cause
    assert "remove" in caught.value.advice
    assert (caught.value.transient, caught.value.side) == (False, "target")
    assert any_sites.target.held(RUN) == {"summary": {other}}


def test_a_dataset_without_its_file_at_the_source_is_no_delivery(sites: Sites) -> None:
    fill(sites.source)
    visit = sites.source.ids(VISIT)[0]
    sites.source.put("bare", VISIT, RUN, [visit], files=False)
    with pytest.raises(TransferError, match="1 datasets of g0001 have no files at the source") as caught:
        sites.deliver(GROUP)
    assert f"bare (instrument HSC, visit {visit['visit']}) in {RUN}" in caught.value.cause
    assert (caught.value.transient, caught.value.side) == (False, "source")


def test_a_file_that_is_missing_at_the_source_is_named(sites: Sites) -> None:
    total = fill(sites.source)
    path = sites.source.file("calexp", RUN)
    path.rename(path.with_suffix(".away"))
    with pytest.raises(TransferError, match=path.name) as caught:
        sites.deliver(GROUP)
    assert (caught.value.transient, caught.value.side) == (False, "source")
    path.with_suffix(".away").rename(path)
    assert sites.deliver(GROUP)[0].datasets == total


def test_files_that_are_gone_at_the_target_are_brought_again(any_sites: Sites) -> None:
    total = fill(any_sites.source)
    any_sites.deliver(GROUP)
    any_sites.target.file("calexp", RUN).unlink()  # known of, and not there
    with any_sites.target.butler() as butler:  # not known of
        butler.pruneDatasets(butler.query_datasets("packages", RUN), disassociate=False, unstore=True, purge=False)
    assert any_sites.deliver(GROUP) == [Moved("g0001", total, 2, (RUN,))]
    assert any_sites.target.readable(RUN) == total


def test_data_that_the_target_has_no_records_for_are_refused(sites: Sites, tmp_path: Path) -> None:
    fill(sites.source)
    Butler.makeRepo(str(tmp_path / "bare"))
    with pytest.raises(TransferError, match="takes no calexp of g0001") as caught:
        list(ButlerMover().deliver(sites.source.uri, str(tmp_path / "bare"), [GROUP], LONG))
    assert "dimension records" in caught.value.advice
    assert (caught.value.transient, caught.value.side) == (False, "target")


# ------------------------------------------------------------------------------------------- outages, deaths, races


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_database_that_is_away_is_transient_and_named(sites: Sites, side: str) -> None:
    fill(sites.source)
    repo: Repo = getattr(sites, side)
    repo.point_to("postgresql+psycopg2://nobody@127.0.0.1:9/none")
    with pytest.raises(TransferError, match="refused") as caught:
        sites.deliver(GROUP)
    assert (caught.value.transient, caught.value.side) == (True, side)
    assert repo.uri in caught.value.cause
    assert not caught.value.faults  # it says nothing about the parcel


def test_a_source_that_goes_away_in_the_middle_is_told_from_the_target(
    postgres_template: Repo, to_postgres: Sites, hsc_template: Survey, tmp_path: Path
) -> None:
    with PostgresServer() as server:
        sites = Sites(on_postgres(hsc_template, tmp_path / "other", server), to_postgres.target)
        fill(sites.source)
        with sites.target.locked("dataset_type", "SHARE"):
            told = in_thread(sites)
            sites.target.wait_for_waiting(1)
            server.stop("immediate")
        error = told()
        assert isinstance(error, TransferError)
        assert (error.transient, error.side) == (True, "source")
        server.start()
        assert sites.deliver(GROUP)[0].datasets == len(sites.source.ids(DETECTOR)) + 17


def in_thread(sites: Sites) -> Callable[[], object]:
    """Deliver in a thread; gives how to wait for what came of it."""
    came: list[object] = []

    def run() -> None:
        try:
            came.extend(sites.deliver(GROUP))
        except TransferError as error:
            came.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def told() -> object:
        thread.join()
        return came[0]

    return told


def test_a_transfer_that_hangs_ends_in_time(to_postgres: Sites) -> None:
    total = fill(to_postgres.source)
    with to_postgres.target.locked("dataset", "ACCESS EXCLUSIVE"):
        begin = time.monotonic()
        with pytest.raises(TransferError, match="not done within 30 s, while looking up") as caught:
            to_postgres.deliver(GROUP, deadline=30)
        assert time.monotonic() - begin < LONG / 2
        assert not children()
    assert (caught.value.transient, caught.value.side) == (True, "target")
    assert to_postgres.deliver(GROUP) == [Moved("g0001", total, total, (RUN,))]


def test_what_came_in_time_counts(to_postgres: Sites) -> None:
    total = fill(to_postgres.source)
    other = Parcel("g0002", ("u/step1/g0002/a01/run",))
    fill(to_postgres.source, other.runs[0])
    to_postgres.deliver(GROUP)
    moving = ButlerMover().deliver(to_postgres.source.uri, to_postgres.target.uri, [GROUP, other], 30)
    with to_postgres.target.locked("collection", "SHARE"):
        assert next(moving) == Moved("g0001", total, 0, (RUN,))
        with pytest.raises(TransferError, match="bringing"):
            next(moving)  # hangs: its RUN is not there yet


def children() -> list[int]:
    """Processes of transfers that this process has."""
    ours = (pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split())
    return [int(pid) for pid in ours if b"cm_dagster.services.transfer" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.parametrize("target", ["sites", "to_postgres"])
def test_a_transfer_that_is_killed_is_completed_by_the_next(request: pytest.FixtureRequest, target: str) -> None:
    sites: Sites = request.getfixturevalue(target)
    total = fill(sites.source, copies=9)
    folder = sites.target.survey.root / "u"
    told = in_thread(sites)
    while not (folder.exists() and any(folder.rglob("*.json"))):
        time.sleep(0.001)
    (child,) = children()
    os.kill(child, signal.SIGKILL)
    error = told()
    assert isinstance(error, TransferError)
    assert "killed by signal 9 while bringing" in error.cause
    assert error.transient
    (moved,) = sites.deliver(GROUP)
    assert (moved.datasets, sites.target.readable(RUN)) == (total, total)
    assert sites.target.held(RUN) == sites.source.held(RUN)


def test_a_transfer_ends_with_the_process_that_wants_it(to_postgres: Sites) -> None:
    fill(to_postgres.source)
    code = (
        "from cm_dagster.services.mover import *\n"
        f"list(ButlerMover().deliver({to_postgres.source.uri!r}, {to_postgres.target.uri!r},"
        f" [Parcel('g0001', ({RUN!r},))], {LONG}))"
    )
    with to_postgres.target.locked("dataset", "ACCESS EXCLUSIVE"):
        parent = subprocess.Popen([sys.executable, "-c", code])
        to_postgres.target.wait_for_waiting(1)
        (child,) = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        parent.kill()
        parent.wait()
        for _ in range(600):
            if not Path(f"/proc/{child}/exe").exists():
                break
            time.sleep(0.05)
        else:
            raise AssertionError("the transfer runs on")


def test_two_at_once_bring_each_dataset_once(to_postgres: Sites) -> None:
    total = fill(to_postgres.source)
    with to_postgres.target.locked("dataset_type", "SHARE"):
        both = [in_thread(to_postgres), in_thread(to_postgres)]
        to_postgres.target.wait_for_waiting(2)
    for told in both:
        moved = told()
        assert isinstance(moved, Moved), moved
        assert moved.datasets == total
    assert to_postgres.target.readable(RUN) == total
    assert to_postgres.target.held(RUN) == to_postgres.source.held(RUN)


def test_an_iteration_that_is_left_leaves_no_process(sites: Sites) -> None:
    fill(sites.source)
    parcels = [GROUP, Parcel("g0002", (RUN,))]
    moving = ButlerMover().deliver(sites.source.uri, sites.target.uri, parcels, LONG)
    next(moving)
    moving.close()  # type: ignore[attr-defined]
    assert not children()


# --------------------------------------------------------------------------------------------------------- staging


@pytest.fixture
def outputs(sites: Sites) -> Sites:
    """What a step has left at home, in two groups of which the second was done again for some."""
    home = sites.source
    detectors = home.ids(DETECTOR)
    home.put("calexp", DETECTOR, "u/step1/g1", detectors[:20])
    home.put("calexp", DETECTOR, "u/step1/g2", detectors[15:])
    home.put("isr_log", DETECTOR, "u/step1/g2", detectors[:3])
    home.put("summary", VISIT, "u/step1/g2", home.ids(VISIT))
    home.put("coadd", ("patch", "band"), "u/step1/g3", home.ids(("patch", "band")))
    home.put("look_up", ("instrument",), "u/step1/g3", home.ids(("instrument",)))
    with home.butler() as butler:
        butler.collections.register("u/step1", CollectionType.CHAINED)
        butler.collections.redefine_chain("u/step1", ["u/step1/g2", "u/step1/g1", "u/step1/g3"])
    return sites


def test_what_a_group_reads_is_staged(outputs: Sites) -> None:
    visit = outputs.source.ids(VISIT)[8]["visit"]
    where = f"{outputs.source.survey.where} AND visit = {visit}"
    with outputs.source.butler() as butler:
        expected = {ref.id for ref in butler.query_datasets("calexp", "u/step1", where=where)}
    inputs = StageInputs(("u/step1",), ("calexp", "look_up", "raw", "never_made"))
    moved = outputs.stage(inputs, where)
    assert (moved.datasets, moved.new) == (len(expected) + 1, len(expected) + 1)
    assert moved.runs[-1] == "u/step1/g3"
    assert set.union(*(outputs.target.held(run).get("calexp", set()) for run in moved.runs)) == expected
    assert outputs.stage(inputs, where).new == 0


def test_of_two_runs_the_first_is_staged(outputs: Sites) -> None:
    where = outputs.source.survey.where
    moved = outputs.stage(StageInputs(("u/step1",), ("calexp",)), where)
    assert moved == Moved("g0001", 33, 33, ("u/step1/g2", "u/step1/g1"))
    assert outputs.target.held("u/step1/g2") == {"calexp": outputs.source.held("u/step1/g2")["calexp"]}
    assert len(outputs.target.held("u/step1/g1")["calexp"]) == 15


def test_a_predicate_is_joined_on_the_sky(outputs: Sites) -> None:
    patch = f"{outputs.source.survey.where} AND tract = 0 AND patch = 3"
    with outputs.source.butler() as butler, butler.query() as query:
        over = query.join_dataset_search("calexp", "u/step1").where(patch).data_ids(["visit", "detector", "patch"])
        expected = len({(row["visit"], row["detector"]) for row in over})
    assert 0 < expected < 33
    assert outputs.stage(StageInputs(("u/step1",), ("calexp",)), patch).datasets == expected


def test_what_a_predicate_does_not_tell_of_is_staged_whole(outputs: Sites) -> None:
    two = ", ".join(str(data_id["visit"]) for data_id in outputs.source.ids(VISIT)[:2])
    where = f"{outputs.source.survey.where} AND visit IN ({two})"
    home = outputs.source
    with home.butler() as butler:
        universe = butler.dimensions
    home.put(
        "map", ("healpix9",), "u/maps", [DataCoordinate.standardize(healpix9=n, universe=universe) for n in (1, 2)]
    )
    home.put("schema", (), "u/maps", [DataCoordinate.make_empty(universe)])
    moved = outputs.stage(StageInputs(("u/maps", "u/step1"), ("schema", "look_up")), where)
    assert moved == Moved("g0001", 2, 2, ("u/maps", "u/step1/g3"))
    assert outputs.stage(StageInputs(("u/maps",), ("map",)), where).datasets == 2


def test_without_knowing_what_is_read_all_that_tasks_read_is_staged(outputs: Sites) -> None:
    moved = outputs.stage(StageInputs(("u/step1",)), outputs.source.survey.where)
    held = [name for run in moved.runs for name in outputs.target.held(run)]
    assert sorted(set(held)) == ["calexp", "coadd", "look_up", "summary"]


def test_records_of_what_is_staged_come_along(outputs: Sites, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    Butler.makeRepo(str(bare))
    visit = outputs.source.ids(VISIT)[0]["visit"]
    where = f"{outputs.source.survey.where} AND visit = {visit}"
    parcel, inputs = Parcel("g0001", where=where), StageInputs(("u/step1",), ("calexp",))
    (moved,) = ButlerMover().stage(outputs.source.uri, str(bare), [parcel], inputs, LONG)
    with Butler.from_config(str(bare)) as butler:
        regions = butler.query_dimension_records("visit_detector_region", where=f"instrument='HSC' AND visit={visit}")
        assert len(regions) == moved.datasets > 0


def test_what_butler_can_not_do_concerns_one_parcel(outputs: Sites) -> None:
    home = outputs.source
    with home.butler() as butler:
        regions = {one["visit"]: one for one in home.ids(DETECTOR)}
        every = butler.query_data_ids(DETECTOR, where=home.survey.where, limit=None)
    bare = next(one for one in every if one not in home.ids(DETECTOR) and one["visit"] in regions)
    other = next(visit for visit in regions if visit != bare["visit"])
    home.put("odd", DETECTOR, "u/odd", [bare])  # Butler fails to bring the region, which is not there
    where = [f"{home.survey.where} AND visit = {visit}" for visit in (bare["visit"], other)]
    inputs = StageInputs(("u/odd", "u/step1"), ("odd", "calexp"))
    parcels = [Parcel("bad", where=where[0]), Parcel("good", where=where[1])]
    moving = ButlerMover().stage(home.uri, outputs.target.uri, parcels, inputs, LONG)
    assert next(moving).name == "good"
    with pytest.raises(TransferError, match="bad can't be brought: KeyError") as caught:
        next(moving)
    assert not caught.value.transient


def test_a_wrong_predicate_is_permanent(outputs: Sites) -> None:
    with pytest.raises(TransferError, match="Failed to parse") as caught:
        outputs.stage(StageInputs(("u/step1",), ("calexp",)), "visit >")
    assert (caught.value.transient, caught.value.side) == (False, "source")
    assert list(caught.value.faults) == ["g0001"]


def test_what_a_pipeline_reads(sites: Sites) -> None:
    butler = ButlerService(sites.source.uri)
    path = Path(pipelines.__path__[0]) / "MiniDRP.yaml"
    assert types_read(butler, f"{path}#step3") == ("calexp", "visitSummary")
    assert types_read(butler, str(path.with_name("none.yaml"))) is None
    butler.close()
