"""Final jobs that fail: what an outage did is told from what will happen again."""

from __future__ import annotations

from pathlib import Path

import pytest

from cm_dagster.errors import ServiceError
from cm_dagster.services.quanta import run_final_job
from cm_dagster.spec.models import StackSpec
from cm_dagster.spec.sites import SiteSpec

NO_STACK = StackSpec(setup="none")


def site(area: Path) -> SiteSpec:
    return SiteSpec.model_validate(
        {
            "butler": "/repo",
            "submit_area": str(area),
            "wms": {"service": "stub.Service", "compute_site": "here"},
            "submit": {"timeout": 0.02},
        }
    )


def run(folder: Path, job: str, stack: StackSpec = NO_STACK) -> ServiceError | None:
    (folder / "w.qg").touch()
    (folder / "w_config.yaml").write_text("payload: {butlerConfig: /repo}")
    (folder / "final_job.bash").write_text(job)
    return run_final_job(folder, stack, site(folder)).error


TRACEBACK = """cat <<'END'
Traceback (most recent call last):
  File "x.py", line 1
{error}
END
exit 1
"""


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        ("sqlalchemy.exc.OperationalError: (psycopg2) connection to server failed: Connection refused", True),
        ("sqlite3.OperationalError: database is locked", True),
        ("OSError: [Errno 28] No space left on device", True),
        ("ValueError: a dataset has two definitions", False),
    ],
)
def test_an_outage_is_told_from_a_fault(tmp_path: Path, error: str, passes: bool) -> None:
    found = run(tmp_path, TRACEBACK.format(error=error))
    assert found is not None
    assert found.transient == passes
    assert error.partition(": ")[2].split(" ")[0] in found.cause


def test_what_is_not_done_in_time_or_not_begun_says_nothing_of_the_workflow(tmp_path: Path) -> None:
    late = run(tmp_path, "sleep 60")
    assert late is not None
    assert late.transient
    assert "not done after 1 s" in late.cause
    absent = StackSpec(setup="script", script="source /nowhere/loadLSST.bash")
    unbegun = run(tmp_path, "exit 0", absent)
    assert unbegun is not None
    assert unbegun.transient
    assert "/nowhere/loadLSST.bash" in unbegun.cause


def test_one_that_goes_well_has_no_error(tmp_path: Path) -> None:
    assert run(tmp_path, "exit 0") is None
