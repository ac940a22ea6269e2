"""Butler repositories to run campaigns on: a real HSC survey in small, and synthetic ones of any size.

A survey is built in a sibling folder and moved into place when it is complete, so a repository that exists is a
complete one: making it again does nothing, and one whose making was killed is made anew. Nothing in it names its own
place, so it can be copied with ``cp -r``.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from lsst.daf.butler import Butler, CollectionType, Config

from cm_dagster.errors import ButlerError
from cm_dagster.local.survey_raws import RawFiles, ingest_raws
from cm_dagster.local.survey_records import (
    SYNTHETIC,
    SyntheticSky,
    copy_records,
    derive_exposures,
    import_hsc_records,
    tile_tracts,
)

__all__ = ["HSC", "Survey", "copy_survey", "make_hsc_survey", "make_synthetic_survey"]


@dataclass(frozen=True)
class Survey:
    """A repository that holds a survey, and what its data are called there."""

    root: Path
    """Folder of the repository."""
    instrument: str
    skymap: str
    defaults: str
    """Chain of all input collections: what a campaign names as its input."""

    @property
    def where(self) -> str:
        """Predicate that selects the survey's data."""
        return f"instrument='{self.instrument}' AND skymap='{self.skymap}'"


HSC = ("HSC", "discrete/ci_hsc")
"""Instrument and skymap of the real records."""


def make_hsc_survey(root: Path, *, patches: int = 4) -> Survey:
    """Make a repository of the HSC records that lsst-daf-butler ships, unless it is there.

    It holds 11 visits of two nights and two bands, 33 regions of a visit and detector, each with a small raw file, and
    one tract. The records have no exposures and no patches: an exposure is added for each visit, as HSC has it, and the
    tract is cut into patches.

    Parameters
    ----------
    root
        Folder of the repository to be.
    patches
        Number of patches along a side of the tract.

    Raises
    ------
    ButlerError
        If there is something else at ``root``.
    """
    instrument, skymap = HSC
    survey = Survey(root.absolute(), instrument, skymap, f"{instrument}/defaults")

    def fill(butler: Butler) -> None:
        import_hsc_records(butler)
        derive_exposures(butler, instrument)
        tile_tracts(butler, skymap, patches)
        ingest_raws(butler, instrument, RawFiles.EACH)
        _chain_defaults(butler, survey)

    _build(survey.root, lambda repo: _fill(repo, fill))
    return survey


def make_synthetic_survey(
    root: Path,
    *,
    visits: int = 12,
    detectors: int = 4,
    tracts: int = 2,
    patches: int = 2,
    visits_per_night: int = 500,
    raws: RawFiles = RawFiles.EACH,
    db_url: str | None = None,
) -> Survey:
    """Make a repository of a made-up survey of any size, unless it is there.

    Visits are numbered from 1 and lie at random, but always the same, places of a strip of tracts along the equator.

    Parameters
    ----------
    root
        Folder of the repository to be.
    visits, detectors
        Number of visits (and exposures), and of detectors of each.
    tracts, patches
        Number of tracts, and of patches along a side of each.
    visits_per_night
        Number of visits that share a night (``day_obs``).
    raws
        Whether each raw has a file, all share one (fast), or there are none.
    db_url
        SQLAlchemy URL of the registry's PostgreSQL database; None for a SQLite file in the repository. The tables lie
        in a schema of their own with a random name, so a making that was killed is never in the way.

    Raises
    ------
    ButlerError
        If there is something else at ``root``.
    """
    sky = SyntheticSky(visits, detectors, tracts, patches, visits_per_night)
    survey = Survey(root.absolute(), SYNTHETIC.instrument, SYNTHETIC.skymap, f"{SYNTHETIC.instrument}/defaults")

    def fill(butler: Butler) -> None:
        sky.insert(butler)
        if raws is not RawFiles.NONE:
            ingest_raws(butler, survey.instrument, raws)
        _chain_defaults(butler, survey)

    _build(survey.root, lambda repo: _fill(repo, fill, db_url))
    return survey


def copy_survey(survey: Survey, root: Path, *, db_url: str | None = None) -> Survey:
    """Make a repository for another site that holds the same survey, unless it is there.

    Parameters
    ----------
    survey
        The survey. It is as it was made: what campaigns have put into it is not for the other site.
    root
        Folder of the repository to be.
    db_url
        As of `make_synthetic_survey`.

    Returns
    -------
    copy
        The same records, the same raws with the same UUIDs, and the same chain.

    Raises
    ------
    ButlerError
        If there is something else at ``root``.
    """
    copy = replace(survey, root=root.absolute())

    def fill(butler: Butler) -> None:
        with Butler.from_config(str(survey.root), writeable=False) as source:
            copy_records(source, butler)
            raws = source.query_datasets("raw", survey.defaults, limit=None, explain=False)
            butler.transfer_from(source, raws, transfer="copy", register_dataset_types=True)
        _chain_defaults(butler, copy)

    if db_url is None and (survey.root / "gen3.sqlite3").exists():
        _build(copy.root, lambda repo: shutil.copytree(survey.root, repo))
    else:
        _build(copy.root, lambda repo: _fill(repo, fill, db_url))
    return copy


def _chain_defaults(butler: Butler, survey: Survey) -> None:
    """Make the chain that campaigns start from; empty where the survey has no raws."""
    runs = butler.collections.query(f"{survey.instrument}/raw/*")
    butler.collections.register(survey.defaults, CollectionType.CHAINED)
    butler.collections.redefine_chain(survey.defaults, sorted(runs))


def _fill(repo: Path, fill: Callable[[Butler], None], db_url: str | None = None) -> None:
    """Make a repository with what there is to be in it."""
    config = Config()
    if db_url is not None:
        config["registry", "db"] = db_url
        config["registry", "namespace"] = f"survey_{uuid4().hex[:12]}"
    Butler.makeRepo(str(repo), config=config)
    with Butler.from_config(str(repo), writeable=True) as butler:
        fill(butler)


def _build(root: Path, make: Callable[[Path], object]) -> None:
    """Make the repository beside its place and move it there, one process at a time."""
    root.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(root.parent / f".{root.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (root / "butler.yaml").exists():
            return
        if root.exists() and any(root.iterdir()):
            raise ButlerError(
                f"{root} is neither empty nor a Butler repository", advice="name another folder or remove it"
            )
        partial = root.parent / f".{root.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        repo = partial / "repo"  # the Butler takes a folder whose name has a suffix for a file
        make(repo)
        repo.rename(root)
        partial.rmdir()
    finally:
        os.close(lock)
