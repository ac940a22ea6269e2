"""What commands work with: the ledger, the site file, the user."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cm_dagster.errors import CmError, LedgerError

if TYPE_CHECKING:
    import dagster as dg

    from cm_dagster.control.health import SiteHealth
    from cm_dagster.spec import Sites, SiteSpec

__all__ = [
    "home_folder",
    "known_sites",
    "ledger",
    "reason_option",
    "site_health",
    "site_named",
    "site_specs",
    "sites_option",
    "user",
]

_STORAGE_HINT = "`cm doctor` says what is wrong with the storage; if it was a restart of its database, try again"


def user() -> str:
    """Give the name that decisions are recorded under: ``CM_USER``, else that of the account."""
    return os.environ.get("CM_USER") or getpass.getuser()


def home_folder() -> Path:
    """Give Dagster's home folder.

    Raises
    ------
    CmError
        If ``DAGSTER_HOME`` is not set, or is not the absolute path of a folder with a dagster.yaml.
    """
    value = os.environ.get("DAGSTER_HOME", "")
    advice = "set it to the folder of this deployment's dagster.yaml, as it is set for the daemon and the web UI"
    if not value:
        raise CmError("DAGSTER_HOME is not set", advice=advice)
    folder = Path(value)
    if not folder.is_absolute():
        raise CmError(f"DAGSTER_HOME is {value!r}, not an absolute path", advice=advice)
    if not (folder / "dagster.yaml").is_file():
        what = "has no dagster.yaml" if folder.is_dir() else "does not exist"
        raise CmError(f"DAGSTER_HOME is {value}, which {what}", advice=advice)
    return folder


@contextmanager
def ledger() -> Iterator[dg.DagsterInstance]:
    """Open the ledger: the storage of the Dagster instance.

    Raises
    ------
    CmError
        If the environment does not say where it is.
    LedgerError
        If it cannot be opened, or fails meanwhile.
    """
    home_folder()
    import dagster as dg

    with _storage_errors(Exception):
        instance = dg.DagsterInstance.get()
    with instance, _storage_errors(dg.DagsterError):
        yield instance


@contextmanager
def _storage_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Raise a message in place of what Dagster's storage raises: errors of some kinds, and all of its database."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except CmError:
        raise
    except Exception as error:
        # dagster-postgres hides the database's error behind one of its own, without a base class.
        root = error.__cause__ if isinstance(error.__cause__, SQLAlchemyError) else error
        if not isinstance(root, (SQLAlchemyError, *kinds)):
            raise
        root = getattr(root, "orig", None) or root
        text = next(iter(str(root).strip().splitlines()), "")
        cause = f"Dagster's storage cannot be used: {type(root).__name__}: {text}"
        raise LedgerError(cause, advice=_STORAGE_HINT, transient=True) from error


def sites_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option ``--sites``."""
    return click.option(
        "--sites",
        "sites_file",
        type=click.Path(path_type=Path),
        envvar="CM_SITES",
        show_envvar=True,
        help="Site file to check the campaign against.",
    )(command)


def _not_blank(context: click.Context, option: click.Parameter, value: str) -> str:
    if not value.strip():
        raise click.BadParameter("it is empty")
    return value


def reason_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option ``--reason``, which must say something."""
    text = "Why; kept with who did it and when."
    return click.option("--reason", required=True, callback=_not_blank, help=text)(command)


def known_sites(path: Path | None) -> Sites | None:
    """Load a site file; None if there is none to load."""
    from cm_dagster.spec import load_sites

    return None if path is None else load_sites(path)


def site_named(path: Path | None, name: str) -> SiteSpec:
    """Give a site of a site file.

    Raises
    ------
    click.UsageError
        If it is not known which sites there are.
    LedgerError
        If there is no such site.
    """
    known = known_sites(path)
    if known is None:
        raise click.UsageError("which sites there are is not known: give --sites FILE, or set CM_SITES")
    if name not in known.sites:
        raise LedgerError(f"there is no site {name!r}", advice=f"known sites: {', '.join(known.sites)}")
    return known.sites[name]


def site_specs() -> Mapping[str, SiteSpec] | None:
    """Load the site file that ``CM_SITES`` names, for what is shown beside something else; None if it can't be read."""
    path = os.environ.get("CM_SITES")
    try:
        known = known_sites(Path(path)) if path else None
    except CmError as error:  # where campaigns stand is more than why something waits
        click.echo(f"limits are not shown, since the site file can't be read: {error}", err=True)
        known = None
    return known.sites if known else None


def site_health(instance: dg.DagsterInstance, campaign: str) -> dict[str, SiteHealth]:
    """Read the health of the sites of a campaign.

    Raises
    ------
    LedgerError
        If there is no such campaign.
    """
    from cm_dagster.control.health import read_sites
    from cm_dagster.control.overview import tick_of
    from cm_dagster.ledger import campaigns

    specs, spec = site_specs(), campaigns.find(instance, campaign).spec
    return read_sites(instance, {site: tick_of(specs, site) for site in spec.sites})
