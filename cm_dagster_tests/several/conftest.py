"""Three sites on PostgreSQL, of which one is home; each with its own code server, Butler and WMS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from cm_dagster.local.deployment import Deployment
from cm_dagster.testing.postgres import PostgresServer
from cm_dagster_tests.several.land import EAST, GROUPS, WEST, Land
from cm_dagster_tests.system.start import pooled, started

_SITE = {
    "limits": {"in_flight": 3},
    "tick": 5.0,
    # As long as an outage here, so that it is the pauses between tries that bring the campaign through.
    "backoff": {"first": 5.0, "longest": 10.0},
    "submit": {"batch": 5},
}
_figures: list[str] = []


@pytest.fixture(scope="package")
def land(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Land]:
    """The three sites, and their services."""
    with ExitStack() as stack:
        database = stack.enter_context(PostgresServer())
        registries = {site: stack.enter_context(PostgresServer()) for site in (EAST, WEST)}
        urls = {site: each.create("registry", extensions=["btree_gist"]).url for site, each in registries.items()}
        rig = stack.enter_context(
            started(
                Deployment(tmp_path_factory.mktemp("several")),
                visits=GROUPS,
                storage=pooled(database),
                site=_SITE,
                butlers=urls,
            )
        )
        yield Land(rig, database, registries, _figures)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the sites got done while one of them was away."""
    for each in _figures:
        terminalreporter.write_line(each)
