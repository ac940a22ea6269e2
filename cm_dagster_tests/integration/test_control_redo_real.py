"""What failed is put right with the real BPS, WMS and Butler: rescued, restarted, given more memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lsst.daf.butler import Butler

from cm_dagster.control.audit import audit
from cm_dagster.control.chain import chain
from cm_dagster.control.collect import collect
from cm_dagster.control.inputs import prepare_inputs
from cm_dagster.control.quanta import campaign_quanta
from cm_dagster.control.steps import inputs_key
from cm_dagster.ledger import tags
from cm_dagster.local.minidrp import PIPELINE
from cm_dagster.local.survey import Survey
from cm_dagster.local.wms.shutdown import shutdown
from cm_dagster.plan.recipe import Recipe
from cm_dagster.policy.states import State
from cm_dagster.policy.verbs import Verb
from cm_dagster_tests.integration.bps_bench import VISITS
from cm_dagster_tests.integration.ledger_rig import LOG, STEP1, Rig, make_spec, open_rig
from cm_dagster_tests.integration.test_control_real import watch_until
from cm_dagster_tests.integration.verbs_rig import done, requested, run_of


@pytest.fixture
def real(tmp_path: Path, blank_home: Path, hsc_repo: Survey) -> Iterator[Rig]:
    """A site with real services, where one quantum of each of three groups fails, in a way of its own."""
    faults = tmp_path / "faults.json"
    site = {
        "butler": str(hsc_repo.root),
        "bps": {
            "numberOfRetries": 0,
            "requestMemory": 64,
            "site": {"local": {"cores": 2, "warm": True}},
            "environment": {"CM_MINIDRP_FAULTS": str(faults)},
        },
        "submit": {"timeout": 3.0},
    }
    ways: list[dict[str, Any]] = [{"action": "raise"}, {"action": "raise"}, {"action": "memory", "megabytes": 100}]
    found = raws(hsc_repo)
    first = {visit: next(detector for exposure, detector in found if exposure == visit) for visit in VISITS[:3]}
    where = [f"exposure={visit} AND detector={detector}" for visit, detector in first.items()]
    faults.write_text(json.dumps([{"task": "isr", "where": w, **way} for w, way in zip(where, ways, strict=True)]))
    with open_rig(tmp_path, blank_home, site) as made:
        del made.site.wms, made.site.submitter
        try:
            yield made
        finally:
            shutdown()


def test_rescue_restart_and_more_memory(real: Rig, hsc_repo: Survey) -> None:
    spec = real.create(
        make_spec(
            pipeline=str(PIPELINE),
            butler={"input": [hsc_repo.defaults], "output": "u/camp", "where": hsc_repo.where},
            steps={"step1": {"pipeline": "#step1", "group_by": {"dimension": "visit", "values": list(VISITS[:3])}}},
        )
    )
    prepare_inputs(real.instance, real.site, spec, "step1")
    real.materialize(inputs_key("camp", "step1"))
    first = [real.queue(f"g000{place}") for place in range(3)]
    real.submit(*first)
    watch_until(real, lambda: all(real.state(run_id) is State.FAILED for run_id in first))

    # The rule on killed jobs has asked for more memory by itself; the others wait for a pilot.
    assert set(requested(real)) == {"g0002"}
    tags_of = requested(real)["g0002"]
    recipe = Recipe.load(tags_of[tags.HOW], 2)
    assert (recipe.rescued, recipe.memory) == ((1,), {"pipetask/isr": 128})
    faults = json.loads((real.folder / "faults.json").read_text())
    (real.folder / "faults.json").write_text(json.dumps(faults[2:]))  # the memory is still needed

    assert "was restarted" in done(real, Verb.RESTART, "g0001")
    assert "which skips" in done(real, Verb.RESCUE, "g0000")
    second = [real.queue(group, 2, more=requested(real)[group]) for group in ("g0000", "g0002")]
    real.submit(*second)
    last = [second[0], first[1], second[1]]
    watch_until(real, lambda: all(real.state(run_id) is State.ACCEPTED for run_id in last))

    # Nothing was done twice: what a rescue made and what it rescued are apart, and together all.
    counts = {run: quanta(hsc_repo, run) for run in (run_of("g0000", 2), run_of("g0000"), run_of("g0001"))}
    whole = planned(hsc_repo)
    assert counts[run_of("g0000", 2)] == 1
    assert [counts[run_of("g0000")] + 1, counts[run_of("g0001")]] == whole[:2]
    chain(real.instance, real.site, STEP1).remember(real.instance)
    collected = collect(real.instance, real.site, spec, "step1")
    wanted = [run_of(*at) for at in (("g0000", 2), ("g0000",), ("g0001",), ("g0002", 2), ("g0002",))]
    butler = real.site.butler(spec)
    assert butler.chain("u/camp/step1") == wanted
    assert quanta(hsc_repo, "u/camp/step1") == sum(whole)
    # The summary says the same as the Butler, though two of the groups were rescued.
    (step,) = campaign_quanta(real.instance, "camp")
    have = {task: quanta(hsc_repo, "u/camp/step1", task) for task in ("isr", "calibrateImage")}
    assert {task: row.all_registered for task, row in step.tasks.items()} == have
    assert {task: row.all_expected for task, row in step.tasks.items()} == have
    assert (step.groups, step.accepted, step.below, step.uncounted) == (3, 3, 0, 0)
    assert collected["quanta registered"] == collected["quanta expected"] == sum(have.values())
    assert audit(real.instance, real.site, LOG).all_well

    assert done(real, Verb.REJECT, "g0002").startswith("accepted -> failed")
    assert chain(real.instance, real.site, STEP1).new == ()
    assert butler.chain("u/camp/step1/at/here") == wanted[:3]
    assert done(real, Verb.ACCEPT, "g0002").startswith("failed -> accepted, with ")
    butler.close()


def quanta(survey: Survey, collection: str, task: str = "isr") -> int:
    """Count the quanta of a task that a collection holds, each data ID once."""
    with Butler.from_config(str(survey.root)) as butler, butler.query() as query:
        return len({ref.dataId for ref in query.datasets(f"{task}_metadata", collection, find_first=False)})


def planned(survey: Survey) -> list[int]:
    """Number of quanta of isr in each group."""
    found = [exposure for exposure, _ in raws(survey)]
    return [found.count(visit) for visit in VISITS[:3]]


def raws(survey: Survey) -> list[tuple[int, int]]:
    """Exposure and detector of each raw, in order."""
    with Butler.from_config(str(survey.root)) as butler:
        found = butler.query_datasets("raw", collections=survey.defaults, find_first=False)
    return sorted((int(ref.dataId["exposure"]), int(ref.dataId["detector"])) for ref in found)
