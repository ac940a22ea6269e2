"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from cm_dagster_tests.quick_sqlite import spare_sqlite

spare_sqlite()

# No test is judged by the clock. In continuous integration the examples are the same each time, so that a change is
# judged by what it changes; elsewhere they are new each time, so that more is found.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

_SERVICES = ("managed", "several", "outages", "system")
"""Folders of tests that start whole deployments: one after the other, in one process, beside all other tests."""
_HERE = Path(__file__).parent


def _share(item: pytest.Item) -> str:
    """Name what is run by one process of several, in order."""
    place = item.path.relative_to(_HERE)
    return "services" if place.parts[0] in _SERVICES else str(place)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest and computes least."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_share(item)))
    items.sort(key=lambda item: _SERVICES.index(place) if (place := _folder(item)) in _SERVICES else len(_SERVICES))


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(_HERE).parts[0]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say the figures that tests have taken down."""
    for report in terminalreporter.getreports(""):
        for name, value in report.user_properties if report.when == "teardown" else ():
            if name == "figure":
                terminalreporter.write_line(str(value))
