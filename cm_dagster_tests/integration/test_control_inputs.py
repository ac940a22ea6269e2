"""A step whose inputs are not complete: it is not planned, it says why, and goes on when they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
from lsst.daf.butler import Butler, Timespan

from cm_dagster.assets.steps import step_assets
from cm_dagster.control.advance import ADVANCE, moves
from cm_dagster.control.inputs import CHECKED, look_at_inputs, prepare_inputs
from cm_dagster.control.overview import StepView, overview
from cm_dagster.control.steps import inputs_key
from cm_dagster.ledger import tags
from cm_dagster.ledger.plans import load_plan
from cm_dagster.local.survey import Survey
from cm_dagster.spec import CampaignSpec
from cm_dagster_tests.integration.conftest import Clock
from cm_dagster_tests.integration.ledger_rig import SITE, Rig, make_spec, open_rig
from cm_dagster_tests.integration.test_control_chain import children, next_moves
from cm_dagster_tests.integration.test_input_report import PIPELINE, biases, made, night

KEY = inputs_key("camp", "step1")
CHECK = dg.AssetCheckKey(KEY, "complete")


class Needy:
    """A campaign whose first step reads calibrations, with a real ledger and a real repository."""

    def __init__(self, rig: Rig, survey: Survey, folder: Path) -> None:
        self.rig, self.survey = rig, survey
        (folder / "needy.yaml").write_text(PIPELINE)
        inputs = [survey.defaults, "calib", "refcats", "skymaps"]
        group_by = {"dimension": "visit", "dataset": "raw", "size": 4}
        self.spec: CampaignSpec = rig.create(
            make_spec(
                butler={"input": inputs, "output": "u/camp", "where": survey.where},
                pipeline=str(folder / "needy.yaml"),
                steps={"step1": {"pipeline": str(folder / "needy.yaml"), "group_by": group_by}},
            )
        )

    def decertify(self, name: str, date: str, until: str) -> None:
        with Butler.from_config(str(self.survey.root), writeable=True) as butler:
            butler.registry.decertify("calib", name, Timespan(night(date), night(until)))

    def certify_again(self, date: str, until: str) -> None:
        with Butler.from_config(str(self.survey.root), writeable=True) as butler:
            butler.registry.certify("calib", biases(butler, "calib/again"), Timespan(night(date), night(until)))

    def run(self, run_tags: dict[str, str] | None = None, without: tuple[str, ...] = ()) -> bool:
        """Materialize the inputs, as the UI does, or as the sensor asks with its tags."""
        config = {"ops": {"__".join(KEY.path): {"config": {"without": list(without)}}}} if without else None
        return dg.materialize(
            step_assets(self.spec, "step1", site=SITE, home=True),
            selection=[KEY],
            instance=self.rig.instance,
            tags=run_tags,
            run_config=config,
            raise_on_error=False,
        ).success

    def run_as_asked(self) -> bool:
        (move,) = moves(self.rig.instance, self.rig.site)
        return self.run({tags.KIND: ADVANCE, **move.tags})

    def view(self) -> StepView:
        (campaign,) = overview(self.rig.instance)
        return campaign.steps[0]

    def evaluation(self) -> dg.AssetCheckEvaluation:
        (record,) = self.rig.instance.event_log_storage.get_asset_check_execution_history(CHECK, limit=1)
        assert record.event
        assert record.event.dagster_event
        return record.event.dagster_event.asset_check_evaluation_data


@pytest.fixture
def needy(tmp_path: Path, blank_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Needy]:
    survey = made(tmp_path / "sky", 12)
    with open_rig(tmp_path, blank_home, {"butler": str(survey.root), "home": True}) as rig:
        monkeypatch.setattr("cm_dagster.assets.steps.current_site", lambda: rig.site)
        yield Needy(rig, survey, tmp_path)
        rig.site.butler(make_spec()).close()


def test_complete_inputs_are_materialized_with_the_table_of_what_was_checked(needy: Needy) -> None:
    assert needy.run_as_asked()
    event = needy.rig.instance.get_latest_materialization_event(KEY)
    assert event
    assert event.asset_materialization
    table = event.asset_materialization.metadata[CHECKED]
    assert isinstance(table, dg.TableMetadataValue)
    rows = {str(record.data["what"]): record.data for record in table.records}
    assert {"calib", "raw", "bias", "flat", "skyMap", "stars"} <= set(rows)
    shown = [column.name for column in table.schema.columns]
    assert shown == ["what", "kind", "collections", "wanted", "found", "met", "note"]
    assert set(rows["bias"]) == set(shown)
    assert needy.evaluation().passed
    assert needy.evaluation().metadata[CHECKED] == table
    assert next_moves(needy.rig) == []


def test_a_step_that_lacks_a_calibration_is_not_planned_and_goes_on_when_it_is_there(
    needy: Needy, clock: Clock
) -> None:
    needy.decertify("bias", "2026-01-02", "2026-01-03")
    assert not needy.run_as_asked()
    assert load_plan(needy.rig.instance, "camp", "step1") is None
    assert needy.rig.instance.get_latest_materialization_event(KEY) is None
    assert children(needy.rig, "u/camp/step1/inputs") is None
    told = needy.evaluation()
    assert (told.passed, told.blocking) == (False, True)
    assert told.description
    assert told.description.startswith(
        "the inputs of step1 are not complete: calibration bias: none is valid for 16 of 48"
    )
    view = needy.view()
    assert view.state == "blocked"  # a person must do something
    assert view.reason.startswith("the inputs of step1 are not complete: calibration bias: ")
    assert "exposure 5 (2026-01-02T19:12:00 TAI), detector 0. What to do: certify bias" in view.reason
    assert "then it goes on by itself: the next look is at 20" in view.reason
    assert next_moves(needy.rig) == []
    clock.forward(61)
    assert not needy.run_as_asked()  # nobody has done anything
    assert next_moves(needy.rig) == []
    needy.certify_again("2026-01-02", "2026-01-03")
    clock.forward(121)
    assert needy.run_as_asked()
    assert needy.view().state != "blocked"
    assert load_plan(needy.rig.instance, "camp", "step1") is not None


def test_a_collection_that_is_not_there_yet_is_waited_for(needy: Needy, clock: Clock) -> None:
    with Butler.from_config(str(needy.survey.root), writeable=True) as butler:
        butler.removeRuns(["skymaps"])
    assert not needy.run_as_asked()
    assert "collection skymaps: no such collection" in needy.view().reason
    assert len(look_at_inputs(needy.rig.site, needy.spec, "step1").rows) == 4  # the collections alone
    clock.forward(61)
    assert next_moves(needy.rig) == [["step1.inputs"]]


def test_a_full_disk_stops_the_step(needy: Needy, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        full = SimpleNamespace(f_bavail=100, f_frsize=4096, f_files=10**6, f_favail=10**6)
        patch.setattr(os, "statvfs", lambda _: full)
        error = look_at_inputs(needy.rig.site, needy.spec, "step1").error("step1")
    assert error is not None
    assert "disk space" in error.cause
    assert "400 KiB free, and the step needs about 100 MiB" in error.cause
    assert look_at_inputs(needy.rig.site, needy.spec, "step1").error("step1") is None


def test_a_person_can_go_on_without_what_is_missing(needy: Needy) -> None:
    needy.decertify("bias", "2026-01-02", "2026-01-03")
    assert not needy.run(without=("flat",))
    assert needy.run(without=("bias",))
    assert load_plan(needy.rig.instance, "camp", "step1") is not None
    rows = needy.evaluation().metadata[CHECKED]
    assert isinstance(rows, dg.TableMetadataValue)
    (row,) = [record.data for record in rows.records if record.data["what"] == "bias"]
    assert str(row["note"]).startswith("a person goes on without it: none is valid for 16 of 48")


def test_without_any_data_nobody_can_go_on(needy: Needy) -> None:
    spec = needy.spec.model_copy(
        update={"butler": needy.spec.butler.model_copy(update={"where": f"{needy.survey.where} AND visit > 99"})}
    )
    look = look_at_inputs(needy.rig.site, spec, "step1")
    assert [row.kind for row in look.rows if not row.met] == ["input", "groups"]
    assert look.going_without(["raw", "step1"]).error("step1") is not None


def test_groups_of_several_sites_are_summed_up_by_site(needy: Needy) -> None:
    sites = {SITE: 2, "other": 1, "third": {"where": "visit < 3"}}
    spec = CampaignSpec.model_validate(needy.spec.model_dump(mode="json") | {"sites": sites})
    room = [row for row in look_at_inputs(needy.rig.site, spec, "step1").rows if row.kind == "disk space"]
    assert [row.what for row in room if row.note] == ["submit area of other", "submit area of third"]
    assert [row.what for row in room if not row.note] == [str(needy.rig.site.area)]
    table = prepare_inputs(needy.rig.instance, needy.rig.site, spec, "step1")["sites"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [tuple(record.data.values()) for record in table.records] == [
        (SITE, 2, "24 datasets", "66.7%", "60.0%"),
        ("other", 1, "16 datasets", "33.3%", "40.0%"),
        ("third", 1, "8 datasets", "", ""),
    ]
    plan = load_plan(needy.rig.instance, "camp", "step1")
    assert plan
    assert {site: [group.name for group in plan.at(site)] for site in plan.sites} == {
        SITE: ["g0000", "g0003"],
        "other": ["g0002"],
        "third": ["g0001"],
    }
