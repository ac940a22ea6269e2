"""What all tests share."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from cm_dagster_tests.quick_sqlite import spare_sqlite

spare_sqlite()

# No test is judged by the clock. In continuous integration the examples are the same each time, so that a change is
# judged by what it changes; elsewhere they are new each time, so that more is found.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

_SERVICES = ("managed", "several", "outages", "system")
"""Folders of tests that start whole deployments: one after the other, in one process, beside all other tests."""


def _folder(nodeid: str) -> str:
    return nodeid.split("/")[1]


class _Apart(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Shares tests out to processes by module, but for those that start whole deployments."""

    def _split_scope(self, nodeid: str) -> str:
        return "services" if _folder(nodeid) in _SERVICES else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Give the scheduler of tests that several processes run."""
    return _Apart(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest and computes least."""
    items.sort(
        key=lambda item: _SERVICES.index(place) if (place := _folder(item.nodeid)) in _SERVICES else len(_SERVICES)
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say the figures that tests have taken down."""
    for report in terminalreporter.getreports(""):
        for name, value in report.user_properties if report.when == "teardown" else ():
            if name == "figure":
                terminalreporter.write_line(str(value))
