"""Three sites on PostgreSQL, of which one is home; each with its own code server, Butler and WMS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cm_dagster_tests.several.land import Land, open_land

GROUPS = 20
"""Groups of the first step of the campaign."""


@pytest.fixture(scope="package")
def land(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Land]:
    """The three sites, and their services."""
    with open_land(tmp_path_factory.mktemp("several"), GROUPS, in_flight=2) as made:
        yield made
