"""Two sites' repositories that data travel between, and what is put into them."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from uuid import UUID

import yaml
from lsst.daf.butler import Butler, DataCoordinate, DatasetRef, DatasetType, FileDataset
from lsst.daf.butler.formatters.json import JsonFormatter

from cm_dagster.local.survey import Survey, copy_survey
from cm_dagster.testing.postgres import Database, PostgresServer
from cm_dagster_tests.integration.databases import connected

VISIT = ("visit",)
DETECTOR = ("visit", "detector")

_numbers = count()


@dataclass(frozen=True)
class Repo:
    """A site's repository."""

    survey: Survey
    database: Database | None = None

    @property
    def uri(self) -> str:
        return str(self.survey.root)

    @contextmanager
    def butler(self) -> Iterator[Butler]:
        with Butler.from_config(self.uri, writeable=True) as butler:
            yield butler

    def ids(self, dimensions: Sequence[str]) -> list[DataCoordinate]:
        with self.butler() as butler:
            if dimensions == DETECTOR:  # not each detector of a visit has its region
                regions = butler.query_dimension_records("visit_detector_region", instrument=self.survey.instrument)
                return sorted((region.dataId for region in regions), key=lambda one: one.required_values)
            return butler.query_data_ids(dimensions, where=self.survey.where, order_by=list(dimensions), limit=None)

    def put(
        self,
        name: str,
        dimensions: Sequence[str],
        run: str,
        data_ids: Iterable[DataCoordinate],
        *,
        files: bool = True,
    ) -> set[UUID]:
        """Put a dataset for each data ID, with a file each or none."""
        with self.butler() as butler:
            dataset_type = DatasetType(name, dimensions, "StructuredDataDict", universe=butler.dimensions)
            butler.registry.registerDatasetType(dataset_type)
            butler.collections.register(run)
            if not files:
                return {ref.id for ref in butler.registry.insertDatasets(dataset_type, data_ids, run=run)}
            refs = [DatasetRef(dataset_type, data_id, run=run) for data_id in data_ids]
            folder = self.survey.root.parent / f"files{next(_numbers)}"
            folder.mkdir()
            butler.ingest(*_files(folder, refs), transfer="move")
            return {ref.id for ref in refs}

    def held(self, run: str) -> dict[str, set[UUID]]:
        """The UUIDs of what a RUN holds, by dataset type."""
        with self.butler() as butler:
            return {ref: {r.id for r in refs} for ref, refs in _by_type(butler, run).items()}

    def readable(self, run: str) -> int:
        """Read all that a RUN holds; gives how many datasets that were."""
        with self.butler() as butler:
            refs = [ref for some in _by_type(butler, run).values() for ref in some]
            assert all(butler.get(ref)["id"] == str(ref.id) for ref in refs)
            return len(refs)

    def file(self, name: str, run: str, place: int = 0) -> Path:
        """The file of one of the datasets of a type."""
        with self.butler() as butler:
            return Path(butler.getURI(_by_type(butler, run)[name][place]).ospath)

    def point_to(self, url: str) -> None:
        """Have the registry in another database."""
        path = self.survey.root / "butler.yaml"
        config = yaml.safe_load(path.read_text())
        config.setdefault("registry", {})["db"] = url
        path.write_text(yaml.safe_dump(config))

    @contextmanager
    def locked(self, table: str, mode: str) -> Iterator[None]:
        """Lock a table of the PostgreSQL registry against others for a while."""
        assert self.database
        with connected(self.database) as connection, connection.transaction():
            connection.execute(f'LOCK TABLE {self.schema}."{table}" IN {mode} MODE')
            yield

    @property
    def schema(self) -> str:
        return str(yaml.safe_load((self.survey.root / "butler.yaml").read_text())["registry"]["namespace"])

    def wait_for_waiting(self, processes: int) -> None:
        """Wait until that many processes wait for a lock in the database."""
        sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        assert self.database
        with connected(self.database) as connection:
            for _ in range(1200):
                if (connection.execute(sql).fetchone() or (0,))[0] >= processes:
                    return
                time.sleep(0.05)
        raise AssertionError(f"{processes} processes do not come to wait")


def on_sqlite(template: Survey, root: Path) -> Repo:
    return Repo(copy_survey(template, root))


def on_postgres(template: Survey, root: Path, server: PostgresServer) -> Repo:
    database = server.create(f"mover{next(_numbers)}", extensions=["btree_gist"])
    return Repo(copy_survey(template, root, db_url=database.url), database)


def on_copied_postgres(template: Repo, root: Path, server: PostgresServer) -> Repo:
    """A repository with a PostgreSQL registry for one test, quickly."""
    assert template.database
    shutil.copytree(template.uri, root)
    database = server.create(f"mover{next(_numbers)}", template=template.database.name)
    made = Repo(Survey(root, *_names(template.survey)), database)
    made.point_to(database.url)
    return made


def _names(survey: Survey) -> tuple[str, str, str]:
    return survey.instrument, survey.skymap, survey.defaults


def _by_type(butler: Butler, run: str) -> dict[str, list[DatasetRef]]:
    names = butler.collections.get_info(run, include_summary=True).dataset_types or ()
    return {name: butler.query_datasets(name, run, limit=None, explain=False) for name in sorted(names)}


def _files(folder: Path, refs: list[DatasetRef]) -> Iterator[FileDataset]:
    for ref in refs:
        path = folder / f"{ref.id}.json"
        path.write_text(json.dumps({"id": str(ref.id)}))
        yield FileDataset(path=str(path), refs=[ref], formatter=JsonFormatter)
