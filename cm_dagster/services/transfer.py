"""The process of `cm_dagster.services.mover` that brings datasets from one Butler to another.

Each batch is one transaction at the target, its files included, so a process that is killed leaves either all of a
batch or none (and files that nobody knows, which the next try overwrites). Before a batch is brought, the target is
asked what it has of it, by UUID; of what it has the files are looked at too, since Butler takes them for granted.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import batched
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from cm_dagster.errors import ButlerError, Side, TransferError
from cm_dagster.services.butler import ButlerService
from cm_dagster.services.mover import Moved, Parcel, StageInputs

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef

__all__ = ["main"]

_BATCH = 2000
"""Datasets of one transaction, at most."""
_FIRST = 100
"""Datasets of the first one: batches grow while they are quick, so that each call gets some done."""
_SHARE = 20
"""A batch is quick if it takes less than this part of the time that the call has."""
_WAITS = (0.0, 1.0, 4.0)
"""Seconds before a batch is tried again that another process may be bringing too. On PostgreSQL a dataset type of new
dimensions is seen a moment before the table for its datasets is."""
_SIDELINE = ("_log", "_metadata", "_config", "packages")
"""Ends of the names of dataset types that no task reads."""

Tell = Callable[[dict[str, Any]], None]


class _Ends:
    """Both repositories, and what is done at each."""

    def __init__(self, source: str, target: str, tell: Tell) -> None:
        self.source, self.target = ButlerService(source), ButlerService(target)
        self._tell = tell

    @contextmanager
    def at(self, side: Literal["source", "target"], doing: str, *, writeable: bool = False) -> Iterator[Butler]:
        """Give a Butler of one of them; what goes wrong in between is that one's fault."""
        service = self.source if side == "source" else self.target
        self._tell({"doing": f"{doing} at the {side}, {service.repo}", "side": side})
        try:
            with service.session(f"{doing} at the {side},", writeable=writeable) as butler:
                yield butler
        except ButlerError as error:
            raise _AtSide(side, error) from error

    def ask_source(self, collection: str) -> None:
        """Ask the source anything, to learn whether it answers."""
        with self.at("source", f"looking up {collection}") as butler:
            butler.collections.query(collection)


class _AtSide(Exception):  # noqa: N818
    """What a Butler, its database or the network raised, with which one it was."""

    def __init__(self, side: Side, error: ButlerError) -> None:
        self.side, self.error = side, error
        super().__init__(str(error))

    def typed(self) -> TransferError:
        error = self.error
        return TransferError(error.cause, advice=error.advice, transient=error.transient, side=self.side)


class _LateError(TransferError):
    """There is no time for more."""


@dataclass
class _Pace:
    """How many datasets go into the next batch, and whether there is time for it."""

    end: float
    """When the time is over, of the monotonic clock, in seconds."""
    span: float
    """How long the call may take, in seconds."""
    size: int = _FIRST
    longest: float = 0.0

    def check(self) -> None:
        if time.monotonic() + self.longest > self.end:
            raise _LateError(
                f"not done within {self.span:g} s: stopped before another batch",
                advice="nothing needs to be done: the next try goes on where this one ended",
                transient=True,
            )

    def took(self, seconds: float) -> None:
        self.longest = max(self.longest, seconds)
        self.size = min(_BATCH, 2 * self.size) if seconds < self.span / _SHARE else max(1, self.size // 2)


class _Transfer:
    """Brings parcels, one by one."""

    def __init__(self, ends: _Ends, pace: _Pace) -> None:
        self.ends, self.pace = ends, pace

    # ---------------------------------------------------------------------------------------------- what is wanted

    def deliver(self, parcel: Parcel) -> Moved:
        """Bring RUN collections, whole."""
        if not parcel.runs:
            raise TransferError(f"{parcel.name} names no RUN collection to deliver")
        total = new = 0
        for run in parcel.runs:
            types = self._types_of(run)
            wanted: Counter[str] = Counter()
            for name in types:
                refs = self._all(name, run)
                wanted[name] = len(refs)
                new += self._bring(parcel.name, refs, dimensions=False)
            if not wanted.total():
                raise TransferError(
                    f"{run} of {parcel.name} holds no datasets at the source, {self.ends.source.repo}",
                    advice="its final job has not registered anything: run it again (`butler aggregate-graph`)",
                    side="source",
                )
            self._compare(parcel.name, run, wanted)
            total += wanted.total()
        return Moved(parcel.name, total, new, parcel.runs)

    def stage(self, parcel: Parcel, inputs: StageInputs) -> Moved:
        """Bring what a predicate selects."""
        new, ids, held = 0, set(), set()
        for name in inputs.types if inputs.types is not None else self._types_in(inputs.collections):
            refs = self._selected(name, inputs.collections, parcel.where)
            new += self._bring(parcel.name, refs, dimensions=True)
            ids |= {ref.id for ref in refs}
            held |= {ref.run for ref in refs}
        with self.ends.at("source", "listing collections") as butler:
            runs = butler.collections.query(inputs.collections, flatten_chains=True) if held else ()
        return Moved(parcel.name, len(ids), new, tuple(run for run in dict.fromkeys(runs) if run in held))

    def _types_of(self, run: str) -> list[str]:
        from lsst.daf.butler import CollectionType, MissingCollectionError

        with self.ends.at("source", f"looking up {run}") as butler:
            try:
                info = butler.collections.get_info(run, include_summary=True)
            except MissingCollectionError as error:
                raise TransferError(
                    f"there is no collection {run} at the source, {self.ends.source.repo}",
                    advice="its final job has not registered it: run it again (`butler aggregate-graph`)",
                    side="source",
                ) from error
            if info.type is not CollectionType.RUN:
                raise TransferError(
                    f"{run} is not a RUN but a {info.type.name} collection at the source, {self.ends.source.repo}",
                    advice="only RUN collections are delivered",
                    side="source",
                )
            return sorted(info.dataset_types or ())

    def _types_in(self, collections: Iterable[str]) -> list[str]:
        with self.ends.at("source", "listing dataset types") as butler:
            infos = butler.collections.query_info(list(collections), include_summary=True, flatten_chains=True)
            names = {name for info in infos for name in info.dataset_types or ()}
        return sorted(name for name in names if not name.endswith(_SIDELINE))

    def _all(self, name: str, run: str) -> list[DatasetRef]:
        with self.ends.at("source", f"listing {name} of {run}") as butler, butler.query() as query:
            return list(query.datasets(name, run, find_first=False))

    def _selected(self, name: str, collections: Iterable[str], where: str) -> list[DatasetRef]:
        """List the datasets of a type that a predicate selects; none of a type that is not known."""
        from lsst.daf.butler import MissingDatasetTypeError

        with self.ends.at("source", f"selecting {name}") as butler, butler.query() as query:
            try:
                found = query.datasets(name, list(collections), find_first=True)
            except MissingDatasetTypeError:
                return []
            try:
                # A dataset comes once for each value of what its type lacks: visits, for a type without dimensions.
                return list({ref.id: ref for ref in (found.where(where) if where else found)}.values())
            except (
                NotImplementedError
            ):  # Butler's UnimplementedQueryError: nothing relates the predicate's dimensions to those of the type
                return list(found)

    # ------------------------------------------------------------------------------------------- how it is brought

    def _bring(self, parcel: str, refs: list[DatasetRef], *, dimensions: bool) -> int:
        """Bring what the target lacks of some datasets; gives how many that were."""
        missing = [ref for some in batched(refs, _BATCH) for ref in self._lacking(some)]
        brought = 0
        while brought < len(missing):
            self.pace.check()
            begin = time.monotonic()
            batch = missing[brought : brought + self.pace.size]
            self._batch(parcel, batch, dimensions=dimensions)
            brought += len(batch)
            self.pace.took(time.monotonic() - begin)
        return len(missing)

    def _lacking(self, refs: Iterable[DatasetRef]) -> list[DatasetRef]:
        """Give those of some datasets that the target does not have, or has without their files.

        Butler would leave out the latter: what is wrongly known of files is forgotten.
        """
        refs = list(refs)
        with self.ends.at("target", f"looking up {len(refs)} datasets") as butler:
            known = {ref.id for ref in butler.get_many_datasets(ref.id for ref in refs)}
            stored = {ref.id for ref, there in butler.stored_many([r for r in refs if r.id in known]).items() if there}
        lost = [ref for ref in refs if ref.id in known - stored]
        if lost:
            with self.ends.at("target", f"forgetting {len(lost)} files that are gone", writeable=True) as butler:
                butler.pruneDatasets(lost, disassociate=False, unstore=True, purge=False)
        return [ref for ref in refs if ref.id not in stored]

    def _batch(self, parcel: str, batch: list[DatasetRef], *, dimensions: bool) -> None:
        """Bring a batch; again, after some waiting, if another process has just done, or is doing, the same."""
        from lsst.daf.butler.registry import ConflictingDefinitionError

        for wait in _WAITS:
            try:
                self._pull(parcel, batch, dimensions=dimensions)
            except ConflictingDefinitionError:
                pass
            except _AtSide as error:
                self._check_contested(error, batch[0].run)
            else:
                return
            time.sleep(wait)
            self.ends.target.close()  # it may remember tables otherwise than they are by now
            batch = self._lacking(batch)
        try:
            self._pull(parcel, batch, dimensions=dimensions)
        except ConflictingDefinitionError as error:
            self._explain(parcel, batch, error)

    def _check_contested(self, error: _AtSide, run: str) -> None:
        """Raise an error unless it may come of two processes that bring the same."""
        from sqlalchemy.exc import DBAPIError

        cause = error.error.__cause__
        if error.side == "source" or not isinstance(cause, DBAPIError):
            raise error
        self.ends.ask_source(run)  # its database may be the one that is away
        if not _contested(cause):
            raise error

    def _pull(self, parcel: str, batch: list[DatasetRef], *, dimensions: bool) -> None:
        if not batch:
            return
        doing = f"bringing {len(batch)} datasets of {parcel}"
        with (
            self.ends.at("source", doing) as source,
            self.ends.at("target", doing, writeable=True) as target,
        ):
            try:
                brought = target.transfer_from(
                    source, batch, transfer="copy", register_dataset_types=True, transfer_dimensions=dimensions
                )
            except ExceptionGroup as group:  # of files
                self._blame(group.exceptions[0])
        if lost := {ref.id for ref in batch} - {ref.id for ref in brought}:
            first = next(ref for ref in batch if ref.id in lost)
            raise TransferError(
                f"{len(lost)} datasets of {parcel} have no files at the source, {self.ends.source.repo}: the first is"
                f" {first.datasetType.name} {_shown(first)} in {first.run}",
                advice="bring the files back, or remove these datasets from the source's registry too",
                side="source",
            )

    def _blame(self, error: Exception) -> NoReturn:
        """Raise what went wrong with a file as whose fault it is."""
        if isinstance(error, FileNotFoundError):
            raise TransferError(
                f"a file is missing at the source, {self.ends.source.repo}: {error}",
                advice="bring the file back, or remove its dataset from the source",
                side="source",
            ) from error
        if isinstance(error, OSError):
            raise error
        raise OSError(
            f"{type(error).__name__}: {error}"
        ) from error  # clients of object stores have errors of their own

    # ------------------------------------------------------------------------------------------- what came of it

    def _explain(self, parcel: str, batch: list[DatasetRef], error: Exception) -> NoReturn:
        """Say why the target refuses a batch that nobody else brings."""
        from lsst.daf.butler import MissingCollectionError, MissingDatasetTypeError

        for ref in batch:
            with self.ends.at("target", f"looking up {ref.datasetType.name}") as butler:
                try:
                    there = butler.find_dataset(ref.datasetType.name, ref.dataId, collections=ref.run)
                except (MissingCollectionError, MissingDatasetTypeError):  # not even that is there
                    break
            if there is not None and there.id != ref.id:
                raise TransferError(
                    f"the target, {self.ends.target.repo}, has another {ref.datasetType.name} {_shown(ref)} in"
                    f" {ref.run} than the source: its id is {there.id}, not {ref.id}",
                    advice="two workflows have written to a RUN of the same name: find out which is right, and remove"
                    " the other's datasets",
                    side="target",
                ) from error
        raise TransferError(
            f"the target, {self.ends.target.repo}, takes no {batch[0].datasetType.name} of {parcel}: {error}",
            advice="either it defines the dataset type differently, or its dimension records lack what these data are"
            " of: add them as the source has them",
            side="target",
        ) from error

    def _compare(self, parcel: str, run: str, wanted: Counter[str]) -> None:
        """Compare how many datasets of each type a RUN has at both ends."""
        for name, listed in wanted.items():
            here, there = self._count("source", name, run), self._count("target", name, run)
            if here != there:
                raise TransferError(
                    f"{run} of {parcel} has {here} {name} at the source, {self.ends.source.repo}, and {there} at the"
                    f" target, {self.ends.target.repo}",
                    advice="nothing needs to be done if the source has just got them"
                    if here != listed
                    else "find out who has put datasets into that RUN at the target, and remove them",
                    transient=here != listed,
                )

    def _count(self, side: Literal["source", "target"], name: str, run: str) -> int:
        from lsst.daf.butler import MissingCollectionError, MissingDatasetTypeError

        with self.ends.at(side, f"counting {name} of {run}") as butler, butler.query() as query:
            try:
                return int(query.datasets(name, run, find_first=False).count())
            except (MissingCollectionError, MissingDatasetTypeError):
                return 0


def _contested(error: BaseException) -> bool:
    """Tell whether two processes may have got in each other's way: at a row, at a new table, or in a deadlock."""
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    return isinstance(error, IntegrityError | ProgrammingError) or "deadlock" in str(error)


def _shown(ref: DatasetRef) -> str:
    return "(" + ", ".join(f"{name} {value}" for name, value in ref.dataId.required.items()) + ")"


# ------------------------------------------------------------------------------------------------------- the process


def main() -> None:
    """Do what the file says whose descriptor is the argument; tell it on standard output."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print
    with os.fdopen(int(sys.argv[1]), encoding="utf-8") as stream:
        request = json.load(stream)
    tell = partial(_tell, told)
    ends = _Ends(request["source"], request["target"], tell)
    transfer = _Transfer(ends, _Pace(request["end"], request["span"]))
    bring: Callable[[Parcel], Moved] = transfer.deliver
    if inputs := request["inputs"]:
        types = None if inputs["types"] is None else tuple(inputs["types"])
        bring = partial(transfer.stage, inputs=StageInputs(tuple(inputs["collections"]), types))
    for each in request["parcels"]:
        if not _tell_of(bring, Parcel(each["name"], tuple(each["runs"]), each["where"]), tell):
            return
    tell({"end": True})


def _tell(stream: Any, what: dict[str, Any]) -> None:
    stream.write(json.dumps(what) + "\n")
    stream.flush()


def _tell_of(bring: Callable[[Parcel], Moved], parcel: Parcel, tell: Tell) -> bool:
    """Bring a parcel and tell of it; gives whether others are worth trying."""
    try:
        moved = bring(parcel)
    except TransferError as error:
        fault, alone = error, not isinstance(error, _LateError)
    except _AtSide as error:
        fault, alone = error.typed(), not error.error.transient
    except Exception as error:  # Butler has faults too: one parcel's are not to keep the others
        traceback.print_exc()
        fault, alone = TransferError(f"{parcel.name} can't be brought: {type(error).__name__}: {error}"), True
    else:
        tell({"moved": {"name": moved.name, "datasets": moved.datasets, "new": moved.new, "runs": moved.runs}})
        return True
    tell(
        {
            "parcel": parcel.name if alone else "",
            "cause": fault.cause,
            "advice": fault.advice,
            "transient": fault.transient,
            "side": fault.side,
        }
    )
    return alone


def _end_with_parent() -> None:
    """End when standard input does: nobody wants the data any more, or somebody else will bring them."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    main()
