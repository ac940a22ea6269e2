"""The root command: finds its commands when they are asked for, and turns errors into messages and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NoReturn

import click

from cm_dagster.errors import CmError, SpecError

__all__ = ["EXIT_FAILURE", "EXIT_INPUT", "Root", "show_error"]

EXIT_FAILURE = 1
"""A service or the ledger failed or refused."""
EXIT_INPUT = 2
"""The command line or a file is wrong."""


class Root(click.Group):
    """A group whose commands are imported when they are run.

    Parameters
    ----------
    commands_in
        For each command the place of it, ``module:attribute``, and its line in the list of commands.
    """

    def __init__(self, *args: Any, commands_in: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        listed = {name: click.Command(name, short_help=line) for name, (_, line) in commands_in.items()}
        super().__init__(*args, **{**kwargs, "commands": listed})
        self._places = commands_in

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in self._places:
            return None
        module, _, name = self._places[cmd_name][0].partition(":")
        found = getattr(import_module(module), name)
        return found if isinstance(found, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._places[name][1]) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a reader that has had enough (``cm status | head``) is no error."""
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # Python would complain once more when it flushes stdout at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return code

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the command line and exit; expected errors are messages on stderr, never tracebacks."""
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except click.Abort:
            click.echo("interrupted", err=True)
            code = EXIT_FAILURE
        except CmError as error:
            show_error(error)
            code = EXIT_INPUT if isinstance(error, SpecError) else EXIT_FAILURE
        sys.exit(code if isinstance(code, int) else 0)


def show_error(error: CmError) -> None:
    """Write an error to stderr: a line for each fault of a file, or what happened and what to do."""
    if isinstance(error, SpecError):
        for fault in error.faults:
            click.echo(str(fault), err=True)
        return
    click.echo(f"{click.style('error:', fg='red', bold=True)} {error.cause}", err=True)
    if error.advice:
        click.echo(f"{click.style('what to do:', bold=True)} {error.advice}", err=True)
