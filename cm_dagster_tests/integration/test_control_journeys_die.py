"""Deaths on the way between sites: whoever brings data, makes a lane or moves groups does it again, and all is well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
import yaml

from cm_dagster.assets.jobs import site_jobs
from cm_dagster.control import site as sites
from cm_dagster.control.deliver import deliver
from cm_dagster.control.inputs import Look
from cm_dagster.control.lanes import prepare_lane
from cm_dagster.control.move import MoveOrder, move
from cm_dagster.control.site import Site
from cm_dagster.control.stage import stage
from cm_dagster.control.steps import Document, inputs_key, load_boards
from cm_dagster.control.travel import DELIVER, STAGE
from cm_dagster.crashpoints import set_crash_hook
from cm_dagster.ledger import store
from cm_dagster.ledger.plans import Plan, load_plan, save_plan
from cm_dagster.plan.groups import Group
from cm_dagster.plan.names import StepId
from cm_dagster.sensors.lanes import lanes_sensor
from cm_dagster.sensors.travel import travel_sensor
from cm_dagster.services.mover import ButlerMover, Moved, Parcel, StageInputs
from cm_dagster.spec import CampaignSpec
from cm_dagster_tests.integration.ledger_rig import SITE, STEP1, Rig, make_spec
from cm_dagster_tests.integration.stand_ins import Killed

THERE = StepId("camp", "step1", "there")
GROUPS = ("g0000", "g0001")


class Chains:
    """Stands for the Butler of a site: it takes chains, and has whatever they are made of."""

    def __init__(self) -> None:
        self.chains: dict[str, list[str]] = {}

    def below(self, _: str) -> dict[str, list[str]]:
        return {}

    def set_chain(self, name: str, children: Sequence[str]) -> bool:
        self.chains[name] = list(children)
        return True


class Whole:
    """A mover that brings everything at once."""

    def deliver(self, source: str, target: str, parcels: Sequence[Parcel], deadline: float) -> Iterator[Moved]:
        for parcel in parcels:
            yield Moved(parcel.name, 3, 3, parcel.runs)

    def stage(
        self, source: str, target: str, parcels: Sequence[Parcel], inputs: StageInputs, deadline: float
    ) -> Iterator[Moved]:
        return ButlerMover().stage(source, target, parcels, inputs, deadline)


@contextmanager
def death_at(point: str) -> Iterator[None]:
    """Die at a point."""

    def die(name: str) -> None:
        if name == point:
            raise Killed

    set_crash_hook(die)
    try:
        with pytest.raises(Killed):
            yield
    finally:
        set_crash_hook(None)


@pytest.fixture
def two(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A home site, and one with a Butler of its own that processes two groups."""
    own = yaml.safe_load(rig.site.spec.model_dump_json())
    file = tmp_path / "sites.yaml"
    others = {"there": {**own, "home": False, "butler": "/repo/there"}}
    file.write_text(yaml.safe_dump({"sites": {SITE: own, **others}}))
    monkeypatch.setenv("CM_SITES", str(file))
    sites.known_sites.cache_clear()
    return rig


def spec_of(**steps: object) -> CampaignSpec:
    return make_spec(sites=[SITE, "there"], **({"steps": steps} if steps else {}))


def plan(rig: Rig, site: str) -> None:
    groups = tuple(Group(name, f"visit = {name[1:]}", 1, None, "", site) for name in GROUPS)
    save_plan(rig.instance, Plan("camp", "step1", groups, remote=("there",)), begun=False)
    rig.materialize(inputs_key("camp", "step1"))


def there(rig: Rig, butler: Chains) -> Site:
    made = Site("there", rig.site.spec)
    vars(made)["_butlers"][made.spec.butler] = butler
    return made


@pytest.mark.parametrize("point", ["stage.moved", "stage.chained", "stage.logged", "travel.remembered"])
def test_inputs_are_staged_by_the_next_run(two: Rig, point: str) -> None:
    two.create(spec_of())
    plan(two, "there")
    butler, told = Chains(), list[str]()

    def go() -> list[str]:
        return stage(two.instance, there(two, butler), Whole(), THERE, GROUPS, lambda group, _: told.append(group))

    with death_at(point):
        go()
    assert go() == list(GROUPS)
    assert Document.STAGED.read(two.instance, [THERE]) == {THERE.tag: dict.fromkeys(GROUPS, 1)}
    assert butler.chains == {"u/camp/step1/inputs": ["HSC/defaults"]}
    assert set(told) == set(GROUPS)


@pytest.mark.parametrize("point", ["deliver.moved", "deliver.logged", "travel.remembered"])
def test_outputs_are_delivered_by_the_next_run(two: Rig, point: str) -> None:
    two.create(spec_of())
    plan(two, "there")
    for group in GROUPS:
        two.accept(group, step=THERE)
    told: list[str] = []

    def go() -> list[str]:
        return deliver(two.instance, two.site, Whole(), THERE, GROUPS, lambda group, _: told.append(group))

    with death_at(point):
        go()
    assert go() == list(GROUPS)
    assert Document.DELIVERED.read(two.instance, [THERE]) == {THERE.tag: dict.fromkeys(GROUPS, 1)}
    assert set(told) == set(GROUPS)


@pytest.mark.parametrize("kind", [STAGE, DELIVER])
def test_journeys_are_requested_at_the_next_tick(two: Rig, kind: str) -> None:
    two.create(spec_of())
    plan(two, "there")
    for group in GROUPS:
        two.accept(group, step=THERE)
    site = Site("there", two.site.spec) if kind == STAGE else two.site
    sensor = travel_sensor(site, kind, site_jobs(site.name, [kind])[kind])
    with death_at("sensor.travel"):
        sensor(dg.build_sensor_context(instance=two.instance))
    result = sensor(dg.build_sensor_context(instance=two.instance))
    assert isinstance(result, dg.SensorResult)
    (request,) = result.run_requests or ()
    assert request.run_config["ops"][f"{kind}_groups"]["config"] == {"step": THERE.tag, "groups": list(GROUPS)}


@pytest.mark.parametrize("point", ["move.noted", "move.planned"])
def test_a_move_is_done_when_it_is_ordered_again(two: Rig, point: str) -> None:
    two.create(spec_of())
    plan(two, "there")
    order = MoveOrder("anna", "it burns")
    with death_at(point):
        move(two.instance, "camp", "step1", dict.fromkeys(GROUPS, SITE), order)
    move(two.instance, "camp", "step1", dict.fromkeys(GROUPS, SITE), order)
    found = load_plan(two.instance, "camp", "step1")
    assert found is not None
    assert [(group.site, group.first) for group in found.groups] == [(SITE, 1), (SITE, 1)]
    assert sorted(two.instance.get_dynamic_partitions(STEP1.tag)) == list(GROUPS)


@pytest.fixture
def lanes(two: Rig) -> Rig:
    """The second step may begin at home: the first is complete there."""
    first = {"pipeline": "#step1", "barrier": "site"}
    second = {"pipeline": "#step2", "needs": ["step1"], "group_by": {"dimension": "visit", "dataset": "calexp"}}
    two.create(spec_of(step1=first, step2=second))
    plan(two, SITE)
    for group in GROUPS:
        two.accept(group)
    store.put(two.instance, Document.CHAINED.key(STEP1), dict.fromkeys(GROUPS, 1))
    return two


def test_a_lane_is_requested_at_the_next_tick(lanes: Rig) -> None:
    sensor = lanes_sensor(lanes.site, ["camp"])
    with death_at("sensor.lanes"):
        sensor(dg.build_sensor_context(instance=lanes.instance))
    result = sensor(dg.build_sensor_context(instance=lanes.instance))
    assert isinstance(result, dg.SensorResult)
    (request,) = result.run_requests or ()
    assert request.asset_selection == [dg.AssetKey(["camp", "step2", SITE, "inputs"])]


@pytest.mark.parametrize("point", ["lane.grouped", "lane.chained", "plan.written"])
def test_a_lane_is_made_by_the_next_run(lanes: Rig, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = (Group("g0000", "visit = 0", 1, None, "", SITE),)
    monkeypatch.setattr("cm_dagster.control.lanes.look_at", lambda *_: Look((), made))
    butler = Chains()
    vars(lanes.site)["_butlers"][lanes.site.spec.butler] = butler
    spec = load_boards(lanes.instance, ["camp"])[0].campaign.spec
    with death_at(point):
        prepare_lane(lanes.instance, lanes.site, spec, "step2")
    prepare_lane(lanes.instance, lanes.site, spec, "step2")
    found = load_boards(lanes.instance, ["camp"])[0].plans["step2"]
    assert (found.groups, found.lanes) == (made, (SITE,))
    assert butler.chains["u/camp/step2/inputs"] == [f"u/camp/step1/at/{SITE}", "HSC/defaults"]
    assert lanes.instance.get_dynamic_partitions(f"camp/step2/{SITE}") == ["g0000"]
