"""A Butler repository: what exists in it, and its chains.

Waiting: Butler gives no deadline of its own. On SQLite a call waits silently for another process's write transaction,
at most 300 s, and then fails as transient; reading goes through a read-only connection, which waits only while the
other process commits. On PostgreSQL set PGCONNECT_TIMEOUT (seconds) and PGOPTIONS ("-c statement_timeout=60000",
milliseconds) in the site's environment; both failures are transient.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

from cm_dagster.errors import ButlerError
from cm_dagster.plan.predicates import Row
from cm_dagster.services.butler_errors import missing_collections, translated
from cm_dagster.services.counting import tally

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, CollectionInfo

__all__ = ["ButlerService", "PipelineShape", "Shape"]

_METADATA = "_metadata"
"""End of the name of the dataset type that each finished quantum of a task leaves."""


@dataclass(frozen=True)
class Shape:
    """What a dimension looks like in predicates and counts."""

    columns: tuple[str, ...]
    """The dimension and those it requires: governors first, the dimension last."""
    governors: int
    """How many of the columns, from the first, are governor dimensions (instrument, skymap)."""
    integers: bool
    """Whether its values are integers; otherwise they are text."""
    recorded: bool
    """Whether the repository has records of it; pixels of the sky (healpix, htm) are only computed."""


@dataclass(frozen=True)
class PipelineShape:
    """What a pipeline works on."""

    tasks: dict[str, frozenset[str]]
    """Required dimensions of each task, by label."""
    inputs: dict[str, frozenset[str]]
    """Required dimensions of each dataset type that the pipeline reads and does not make, prerequisites left out."""


class ButlerService:
    """One Butler repository; opened at the first call, and usable from several threads.

    Parameters
    ----------
    repo
        Label or URI of the repository.

    Raises
    ------
    ButlerError
        By every method: ``transient`` if the database or network did not answer, permanent if what was asked for is
        not there or not allowed.
    """

    def __init__(self, repo: str) -> None:
        self.repo = repo
        self._lock = Lock()

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        with self._lock:
            for name in ("_reader", "_writer"):
                if butler := self.__dict__.pop(name, None):
                    butler.close()

    @cached_property
    def _reader(self) -> Butler:
        from lsst.daf.butler import Butler

        return Butler.from_config(self.repo, writeable=False)

    @cached_property
    def _writer(self) -> Butler:
        from lsst.daf.butler import Butler

        return Butler.from_config(self.repo, writeable=True)

    @contextmanager
    def _butler(self, doing: str, *, writeable: bool = False) -> Iterator[Butler]:
        """Give a Butler for one call: a clone (0.2 ms), since a Butler itself must not be shared by threads."""
        with translated(self.repo, "opening the repository"):
            try:
                with self._lock:
                    butler = (self._writer if writeable else self._reader).clone()
            except (ImportError, RuntimeError) as error:  # a driver or a database extension is not installed
                raise ButlerError(f"{self.repo} cannot be opened: {error}", advice="see `cm doctor`") from error
        with translated(self.repo, doing):
            yield butler

    def session(self, doing: str, *, writeable: bool = False) -> AbstractContextManager[Butler]:
        """Give a Butler for what has no method here.

        Parameters
        ----------
        doing
            What is done, for the message of an error, e.g. ``looking up what step1 reads``.
        writeable
            Whether it may write.
        """
        return self._butler(doing, writeable=writeable)

    def shape(self, dimension: str) -> Shape:
        """Describe a dimension.

        Raises
        ------
        ButlerError
            If the repository's universe has no such dimension.
        """
        with self._butler(f"looking up the dimension {dimension}") as butler:
            universe = butler.dimensions
            if dimension not in universe.dimensions.names:
                raise ButlerError(f"{self.repo} has no dimension {dimension!r}", advice="see `group_by` of the step")
            required = [name for name in universe.conform([dimension]).required if name != dimension]
            governors = [name for name in required if name in universe.governor_dimensions.names]
            others = [name for name in required if name not in governors]
            return Shape(
                columns=(*governors, *others, dimension),
                governors=len(governors),
                integers=universe.dimensions[dimension].primary_key.type == "int",
                recorded=dimension not in universe.skypix_dimensions.names,
            )

    def counts(
        self,
        columns: Sequence[str],
        dataset: str | None,
        collections: Sequence[str],
        where: str = "",
        of: Collection[str] = (),
    ) -> list[tuple[Row, int]]:
        """Count the data IDs that exist, per value of some dimensions.

        Parameters
        ----------
        columns
            Dimensions to count by, usually `Shape.columns`.
        dataset
            Dataset type that must exist in the collections; None: the dimensions' own records alone.
        collections
            Collections to search for datasets.
        where
            Predicate that the data IDs meet.
        of
            Dimensions whose data IDs are counted, together with the columns; by default those of the dataset type.

        Returns
        -------
        counts
            Each value that exists, and its number of data IDs (not of datasets: one that two runs hold counts once),
            in no particular order.
        """
        with self._butler(f"counting {dataset or 'data IDs'} by {columns[-1]}") as butler:
            return list(tally(butler, columns, of, dataset, collections, where).items())

    def dataset_count(self, dataset: str, collections: Sequence[str], where: str = "") -> int:
        """Count datasets of a type; one that several collections hold for the same data ID counts once."""
        with self._butler(f"counting {dataset}") as butler, butler.query() as query:
            found = query.datasets(dataset, collections)
            # Where a predicate meets the dataset type on the sky alone, Butler drops rows after the query.
            return (found.where(where) if where else found).count(discard=True)

    def exists(self, collection: str) -> bool:
        """Say whether there is a collection of this name."""
        with self._butler(f"looking up {collection}") as butler:
            return _info(butler, collection) is not None

    def check_inputs(self, collections: Sequence[str]) -> None:
        """Check that all collections exist.

        Raises
        ------
        ButlerError
            If some do not: it names each, with the nearest name that exists.
        """
        with self._butler("looking up input collections") as butler:
            missing = [name for name in collections if _info(butler, name) is None]
            if missing:
                raise missing_collections(self.repo, missing, list(butler.collections.query("*")))

    def chain(self, name: str) -> list[str] | None:
        """Give the children of a chain, in order; None if there is no such collection."""
        with self._butler(f"reading the chain {name}") as butler:
            info = _info(butler, name)
            return None if info is None else self._children(info)

    def below(self, collection: str) -> dict[str, list[str]]:
        """List the RUN collections and chains whose names begin with another's and a slash, in one query.

        Returns
        -------
        found
            The children of each chain, in order, by name; for a RUN collection none.
        """
        from lsst.daf.butler import CollectionType

        wanted = {CollectionType.RUN, CollectionType.CHAINED}
        with self._butler(f"listing the collections below {collection}") as butler:
            found = butler.collections.query_info(f"{collection}/*", wanted, include_chains=True)
            return {info.name: list(info.children) for info in found}

    def set_chain(self, name: str, children: Sequence[str]) -> bool:
        """Make a chain hold exactly some collections; it is registered if it does not exist.

        Chains are always set whole: prepending to a chain that others change as well loses updates.

        Parameters
        ----------
        name
            Name of the chain.
        children
            Names of collections that exist, in order of search; one that is named twice counts at its first place.

        Returns
        -------
        changed
            Whether anything had to be changed. If not, nothing is written and no lock is taken.
        """
        from lsst.daf.butler import CollectionType, MissingCollectionError

        wanted = list(dict.fromkeys(children))
        if self.chain(name) == wanted:
            return False
        with self._butler(f"setting the chain {name}", writeable=True) as butler:
            try:
                # One transaction: what ends in between must not leave a chain that is registered and empty.
                with butler.transaction():
                    butler.collections.register(name, CollectionType.CHAINED)
                    butler.collections.redefine_chain(name, wanted)
            except MissingCollectionError as error:  # it names one of them
                missing = [child for child in wanted if _info(butler, child) is None]
                raise missing_collections(self.repo, missing, list(butler.collections.query("*"))) from error
        return True

    def run_counts(self, run: str, tasks: Sequence[str]) -> dict[str, int] | None:
        """Count the quanta of each task that a RUN collection holds, by their metadata datasets.

        Parameters
        ----------
        run
            Name of the RUN collection.
        tasks
            Labels of tasks.

        Returns
        -------
        counts
            Number of ``<task>_metadata`` datasets by task; None if there is no such collection. A RUN whose final job
            died exists and holds nothing.
        """
        from lsst.daf.butler import MissingDatasetTypeError

        with self._butler(f"counting quanta of {run}") as butler:
            if _info(butler, run) is None:
                return None
            counts = dict.fromkeys(tasks, 0)
            with butler.query() as query:
                for task in tasks:
                    with suppress(MissingDatasetTypeError):  # no workflow with this task has ended here yet
                        counts[task] = query.datasets(f"{task}_metadata", run).count()
            return counts

    def quanta_in(self, run: str) -> dict[str, int] | None:
        """Count the quanta that a RUN collection holds, by task, without knowing the tasks.

        Returns
        -------
        counts
            Number of ``<task>_metadata`` datasets by task, none that is 0; None if there is no such collection.
        """
        with self._butler(f"counting quanta of {run}") as butler:
            if _info(butler, run) is None:
                return None
            types = butler.collections.get_info(run, include_summary=True).dataset_types
        tasks = sorted(name.removesuffix(_METADATA) for name in types or () if name.endswith(_METADATA))
        return {task: count for task, count in (self.run_counts(run, tasks) or {}).items() if count}

    def pipeline(self, uri: str) -> PipelineShape:
        """Read what the tasks of a pipeline work on; this imports the tasks.

        Parameters
        ----------
        uri
            Path or URI, with ``#subset`` where only a part is meant.

        Raises
        ------
        ButlerError
            Also if the pipeline cannot be read, or its tasks cannot be imported by this Python.
        """
        from lsst.pipe.base import Pipeline
        from sqlalchemy.exc import SQLAlchemyError

        with self._butler(f"reading the pipeline {uri}") as butler:
            try:
                graph = Pipeline.from_uri(uri).to_graph(butler.registry)
            except SQLAlchemyError:
                raise  # an outage says nothing about the pipeline
            except Exception as error:  # the tasks' own code runs here, and may raise anything
                raise ButlerError(
                    f"the pipeline {uri} cannot be read here: {type(error).__name__}: {error}",
                    advice="use `size` or `count` in place of `max_quanta`, which needs the pipeline's tasks to be"
                    " importable by cm_dagster itself",
                ) from error
            inputs = {
                name: frozenset(node.dimensions.required)
                for name, node in graph.iter_overall_inputs()
                if node is not None and node.is_initial_query_constraint
            }
            tasks = {label: frozenset(task.dimensions.required) for label, task in graph.tasks.items()}
            return PipelineShape(tasks, inputs)

    def _children(self, info: CollectionInfo) -> list[str]:
        from lsst.daf.butler import CollectionType

        if info.type is not CollectionType.CHAINED:
            raise ButlerError(
                f"{info.name} in {self.repo} is not a chain but a {info.type.name} collection",
                advice="choose another output for the campaign, or remove that collection",
            )
        return list(info.children)


def _info(butler: Butler, collection: str) -> CollectionInfo | None:
    from lsst.daf.butler import MissingCollectionError

    try:
        return butler.collections.get_info(collection)
    except MissingCollectionError:
        return None
