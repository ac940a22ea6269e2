"""Turn what Butler, SQLAlchemy and the network raise into `ButlerError`: what happened, what to do, worth asking again.

Butler lets errors of its database and of the network through as they are, so they are recognized here, and only here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from cm_dagster.errors import ButlerError

__all__ = ["missing_collections", "translated"]

_PERMANENT = (
    ("Expression tree is too large", "make the groups smaller, or the predicate shorter: SQLite takes 1000 terms"),
    ("unable to open database file", "check that the repository's database file is there and may be read"),
    ("readonly database", "give the site's account the right to write to the repository"),
    ("no such table", "check that the address names a Butler repository, and its version"),
    ("authentication failed", "check the account and password of the repository's database (~/.lsst/db-auth.yaml)"),
    ("no password supplied", "give the password of the repository's database (~/.lsst/db-auth.yaml)"),
    ("permission denied", "ask the owner of the repository for the rights"),
    ("does not exist", "check the repository's configuration: its database or schema is not there"),
)
"""Database errors that do not go away by themselves, with what to do; all other operational errors may."""

_TYPES = {
    "MissingCollectionError": "check the collection's name: `butler query-collections`",
    "MissingDatasetTypeError": "check the dataset type's name; if a step makes it, that step has not run here",
    "CollectionTypeError": "choose another name, or remove what has it",
    "CollectionCycleError": "a chain cannot hold itself; check the campaign's inputs and output",
    "UnimplementedQueryError": "group by a dimension that the dataset type has, or by one with records of its own",
    "DimensionNameError": "check the names of dimensions in the campaign file",
    "DimensionValueError": "check the values of dimensions in the campaign file",
    "InvalidQueryError": "check the predicates (`where`) of the campaign and the step",
}

_AGAIN = "nothing needs to be done if it comes back; else check the database or network of the repository"


@contextmanager
def translated(repo: str, doing: str) -> Iterator[None]:
    """Raise `ButlerError` for what goes wrong outside of us.

    Parameters
    ----------
    repo
        Address of the repository.
    doing
        What is being done, for the message, e.g. ``counting raw``.

    Raises
    ------
    ButlerError
        In place of errors of Butler, its database or the network; others (our own, and bugs) pass.
    """
    from lsst.daf.butler import ButlerUserError
    from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError, SQLAlchemyError
    from sqlalchemy.exc import TimeoutError as PoolTimeoutError

    where = f"{doing} in {repo}"
    try:
        yield
    except ButlerUserError as error:
        raise ButlerError(f"{where}: {_text(error)}", advice=_advice(error)) from error
    except DBAPIError as error:
        text = _text(error.orig or error)
        advice = next((advice for words, advice in _PERMANENT if words in text), "")
        # Integrity: another process wrote the same at the same time.
        passing = isinstance(error, OperationalError | InterfaceError | IntegrityError) or error.connection_invalidated
        transient = passing and not advice
        raise ButlerError(f"{where}: {text}", advice=advice or _AGAIN, transient=transient) from error
    except SQLAlchemyError as error:
        # No free connection in the pool; all others are settings that are wrong.
        transient = isinstance(error, PoolTimeoutError)
        raise ButlerError(f"{where}: {_text(error)}", advice=_AGAIN, transient=transient) from error
    except RecursionError as error:
        raise ButlerError(f"{where}: the predicate is too deeply nested", advice=_TYPES["InvalidQueryError"]) from error
    except FileNotFoundError as error:
        raise ButlerError(f"{where}: {_text(error)}", advice="check the address or label of the repository") from error
    except PermissionError as error:
        raise ButlerError(f"{where}: {_text(error)}", advice=dict(_PERMANENT)["permission denied"]) from error
    except OSError as error:
        raise ButlerError(f"{where}: {_text(error)}", advice=_AGAIN, transient=True) from error


def missing_collections(repo: str, missing: list[str], known: list[str]) -> ButlerError:
    """Make the error for collections that are not there, with the nearest names that are.

    Parameters
    ----------
    repo
        Address of the repository.
    missing
        Names that were asked for.
    known
        Names of all collections.
    """
    names = []
    for name in missing:
        # Names of the same depth only: a repository may hold 100,000 runs, and comparing names is slow.
        peers = [other for other in known if other.count("/") == name.count("/")]
        near = get_close_matches(name, peers, n=1)
        names.append(f"{name!r} (nearest: {near[0]!r})" if near else repr(name))
    return ButlerError(f"no such collection in {repo}: {', '.join(names)}", advice=_TYPES["MissingCollectionError"])


def _text(error: BaseException) -> str:
    """Give the first line of an error; a KeyError would put its message in quotes."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return text.strip().split("\n", 1)[0].strip() or type(error).__name__


def _advice(error: BaseException) -> str:
    if "without constraining it directly" in str(error):
        governor = str(error).split(" without", 1)[0].rsplit(" ", 1)[-1]
        return f"add {governor}='...' to `butler.where` of the campaign"
    for kind in type(error).__mro__:
        if kind.__name__ in _TYPES:
            return _TYPES[kind.__name__]
    return ""
