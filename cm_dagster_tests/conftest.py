"""What all tests share."""

from __future__ import annotations

import os

from hypothesis import settings

from cm_dagster_tests.quick_sqlite import spare_sqlite

spare_sqlite()

# No test is judged by the clock. In continuous integration the examples are the same each time, so that a change is
# judged by what it changes; elsewhere they are new each time, so that more is found.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")
