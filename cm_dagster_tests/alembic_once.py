"""Reading the scripts of all changes of Dagster's schemas once a process, not for each instance that is opened.

On SQLite that is a third of all the time that a test of the ledger takes.
"""

from __future__ import annotations

from alembic.config import Config
from alembic.script import ScriptDirectory

__all__ = ["read_scripts_once"]

_read = ScriptDirectory.from_config
_known: dict[str | None, ScriptDirectory] = {}


def _from_config(config: Config) -> ScriptDirectory:
    if config.config_file_name not in _known:
        _known[config.config_file_name] = _read(config)
    return _known[config.config_file_name]


def read_scripts_once() -> None:
    """Have this process, and those that it forks, do so."""
    ScriptDirectory.from_config = _from_config  # type: ignore[method-assign]
