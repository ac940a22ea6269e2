"""Plans made from real repositories: Butler itself must find in the groups what there is, each dataset once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lsst.daf.butler import Butler, CollectionType, DataCoordinate, DatasetType
from lsst.pipe.base import Pipeline
from lsst.pipe.base.all_dimensions_quantum_graph_builder import AllDimensionsQuantumGraphBuilder

from cm_dagster.errors import ButlerError, NoInputsError, PlanError
from cm_dagster.local.minidrp import pipelines
from cm_dagster.local.survey import Survey, make_synthetic_survey
from cm_dagster.plan.groups import Group
from cm_dagster.services.butler import ButlerService
from cm_dagster.services.planner import check_requirements, plan_groups, plan_lane, split_group
from cm_dagster.spec.models import CampaignSpec

PIPELINE = str(Path(pipelines.__path__[0]) / "MiniDRP.yaml")


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    """A survey with what a first step would have made of its first 20 visits, and data of a second instrument."""
    survey = make_synthetic_survey(tmp_path_factory.mktemp("sky") / "sky", visits=30, detectors=4, tracts=3, patches=3)
    with Butler.from_config(str(survey.root), writeable=True) as butler:
        some = f"{survey.where} AND visit IN (1..20)"
        put(butler, "calexp", ["visit", "detector"], butler.query_data_ids(["visit", "detector"], where=some))
        put(butler, "visitSummary", ["visit"], butler.query_data_ids(["visit"], where=some))
        put(butler, "mosaic", ["patch", "band"], butler.query_data_ids(["patch", "band"], where=survey.where))
        universe = butler.dimensions
        pixels = [DataCoordinate.standardize(healpix9=pixel, universe=universe) for pixel in range(700, 1100, 3)]
        put(butler, "map", ["healpix9"], pixels)
        second_instrument(butler)
        butler.collections.register("made/all", CollectionType.CHAINED)
        children = ["made/calexp", "made/visitSummary", "made/mosaic", "made/map", "Other/raw", survey.defaults]
        butler.collections.redefine_chain("made/all", children)
    return survey


@pytest.fixture
def service(sky: Survey) -> Iterator[ButlerService]:
    service = ButlerService(str(sky.root))
    yield service
    service.close()


def put(
    butler: Butler, name: str, dimensions: Sequence[str], data_ids: Sequence[DataCoordinate], run: str = ""
) -> None:
    """Register datasets without files."""
    dataset_type = DatasetType(name, dimensions, "StructuredDataDict", universe=butler.dimensions)
    butler.registry.registerDatasetType(dataset_type)
    butler.collections.register(run or f"made/{name}")
    butler.registry.insertDatasets(dataset_type, data_ids, run=run or f"made/{name}")


def second_instrument(butler: Butler) -> None:
    """Add raws of another instrument, whose filters and exposures have the same numbers and bands."""
    of = {"instrument": "Other"}
    records: dict[str, list[dict[str, Any]]] = {
        "instrument": [{"name": "Other", "class_name": "a.B", "detector_max": 9, "visit_max": 99, "exposure_max": 99}],
        "physical_filter": [of | {"name": f"{band} Other c0006 3500.0", "band": band} for band in "gr"],
        "detector": [of | {"id": 0, "full_name": "0", "purpose": "SCIENCE"}],
        "day_obs": [of | {"id": 20260101}],
        "group": [of | {"name": f"2026-01-01#{number}"} for number in range(1, 13)],
        "exposure": [
            of
            | {"id": number, "obs_id": str(number), "group": f"2026-01-01#{number}", "day_obs": 20260101}
            | {"physical_filter": f"{'gr'[number % 2]} Other c0006 3500.0", "observation_type": "science"}
            for number in range(1, 13)
        ],
    }
    for element, rows in records.items():
        butler.registry.insertDimensionData(element, *rows)
    data_ids = butler.query_data_ids(["exposure", "detector"], where="instrument='Other'")
    put(butler, "raw", ["instrument", "exposure", "detector"], data_ids, run="Other/raw")


def campaign(sky: Survey, selection: str | None = None, sites: Any = "here", **step: Any) -> CampaignSpec:
    """A campaign of one step."""
    return CampaignSpec.model_validate(
        {
            "campaign": "c",
            "butler": {"input": ["made/all"], "output": "u/c", "where": sky.where if selection is None else selection},
            "pipeline": PIPELINE,
            "sites": sites,
            "steps": {"s": {"pipeline": "#step1", **step}},
        }
    )


def plan(service: ButlerService, spec: CampaignSpec) -> list[Group]:
    return plan_groups(spec, "s", service, spec.butler.input)


def found(sky: Survey, dataset: str, where: str) -> Counter[str]:
    """Ask the Butler for datasets as `butler query-datasets` does."""
    with Butler.from_config(str(sky.root)) as butler:
        refs = butler.query_datasets(dataset, "made/all", where=where, limit=None, explain=False)
        return Counter(str(ref.id) for ref in refs)


@pytest.mark.parametrize(
    ("dataset", "group_by"),
    [
        ("raw", {"dimension": "visit", "size": 7}),
        ("raw", {"dimension": "exposure", "count": 4}),
        ("raw", {"dimension": "detector"}),
        ("raw", {"dimension": "band"}),
        ("raw", {"dimension": "physical_filter", "count": 2}),
        ("raw", {"dimension": "group", "count": 2}),
        ("raw", {"dimension": "day_obs", "size": 1}),
        ("calexp", {"dimension": "visit", "count": 3}),
        ("mosaic", {"dimension": "tract", "size": 2}),
        ("mosaic", {"dimension": "patch", "size": 5}),
        ("mosaic", {"dimension": "patch", "count": 2}),
        ("map", {"dimension": "healpix9", "size": 50}),
    ],
)
def test_every_dataset_is_in_exactly_one_group(
    sky: Survey, service: ButlerService, dataset: str, group_by: dict[str, Any]
) -> None:
    groups = plan(service, campaign(sky, group_by=group_by | {"dataset": dataset}))
    parts = [found(sky, dataset, group.where) for group in groups]
    assert sum(parts, Counter()) == found(sky, dataset, sky.where)
    assert [group.datasets for group in groups] == [part.total() for part in parts]
    assert max(group.datasets for group in groups) <= 2 * min(group.datasets for group in groups) or len(groups) == 1
    assert len(groups) > 1 or group_by["dimension"] == "day_obs"


@pytest.mark.parametrize(
    ("dataset", "group_by"),
    [
        ("raw", {"dimension": "visit", "size": 7}),
        ("raw", {"dimension": "visit", "values": [9, "2..6", 12, 11], "size": 4}),
        ("raw", {"dimension": "physical_filter", "count": 1}),
        ("mosaic", {"dimension": "patch", "count": 2}),
        ("map", {"dimension": "healpix9", "size": 50}),
    ],
)
def test_parts_of_a_group_hold_what_it_holds_each_dataset_once(
    sky: Survey, service: ButlerService, dataset: str, group_by: dict[str, Any]
) -> None:
    by = group_by if "values" in group_by else group_by | {"dataset": dataset}
    spec = campaign(sky, group_by=by)
    group = replace(plan(service, spec)[0], site="here")
    made = split_group(spec, "s", service, spec.butler.input, group, 3)
    assert [part.name for part in made] == ["g0000a", "g0000b", "g0000c"]
    assert {part.site for part in made} == {"here"}
    parts = [found(sky, dataset, part.where) for part in made]
    assert sum(parts, Counter()) == found(sky, dataset, group.where)
    assert all(part.total() for part in parts)
    assert sum(part.size for part in made) == group.size


def test_a_part_is_split_in_its_turn(sky: Survey, service: ButlerService) -> None:
    spec = campaign(sky, group_by={"dimension": "visit", "dataset": "raw", "size": 8})
    part = split_group(spec, "s", service, spec.butler.input, plan(service, spec)[0], 2)[1]
    made = split_group(spec, "s", service, spec.butler.input, part, 2)
    assert [each.name for each in made] == ["g0000ba", "g0000bb"]
    assert sum((found(sky, "raw", each.where) for each in made), Counter()) == found(sky, "raw", part.where)


def test_a_split_that_is_not_possible_says_why(sky: Survey, service: ButlerService) -> None:
    spec = campaign(sky, group_by={"dimension": "visit", "dataset": "raw", "size": 2})
    group = plan(service, spec)[0]
    with pytest.raises(PlanError, match="holds 2 values of visit, which can't make 3 parts"):
        split_group(spec, "s", service, spec.butler.input, group, 3)
    whole = campaign(sky)
    with pytest.raises(PlanError, match="has no `group_by`"):
        split_group(whole, "s", service, spec.butler.input, plan(service, whole)[0], 2)
    gone = replace(group, where=f"{sky.where} AND visit = 99")
    with pytest.raises(NoInputsError, match="nothing to process"):
        split_group(spec, "s", service, spec.butler.input, gone, 2)


def by_site(groups: Sequence[Group]) -> dict[str, list[Group]]:
    return {site: [group for group in groups if group.site == site] for site in dict.fromkeys(g.site for g in groups)}


@pytest.mark.parametrize(
    ("dataset", "group_by", "where"),
    [
        ("raw", {"dimension": "visit", "size": 4}, "visit < 12"),
        ("raw", {"dimension": "visit", "size": 4}, "band = 'r'"),
        ("raw", {"dimension": "visit", "values": ["5..25", 2], "size": 3}, "visit < 12"),
        ("raw", {"dimension": "exposure", "count": 6}, "exposure IN (3, 17, 21..30)"),
        ("raw", {"dimension": "visit", "max_quanta": 50}, "visit > 20 OR visit = 3"),
        ("mosaic", {"dimension": "patch", "size": 4}, "tract = 1"),
    ],
)
def test_sites_take_what_their_predicates_select_and_others_share_the_rest(
    sky: Survey, service: ButlerService, dataset: str, group_by: dict[str, Any], where: str
) -> None:
    by = group_by if "values" in group_by else group_by | {"dataset": dataset}
    wider = f"({where}) OR {'visit = 14' if dataset == 'raw' else 'tract = 2'}"
    sites = {"usdf": 0.5, "ukdf": {"where": where}, "idf": {"where": wider}, "frdf": 0.5}
    groups = plan(service, campaign(sky, sites=sites, group_by=by))
    listed = f"{sky.where} AND visit IN (2, 5..25)" if "values" in by else sky.where
    parts = {site: sum((found(sky, dataset, g.where) for g in own), Counter()) for site, own in by_site(groups).items()}
    assert sum(parts.values(), Counter()) == found(sky, dataset, listed)  # each dataset in one group
    assert parts["ukdf"] == found(sky, dataset, f"{listed} AND ({where})")
    assert parts["idf"] == found(sky, dataset, f"{listed} AND ({wider}) AND NOT ({where})")
    assert "values" in by or [g.datasets for g in groups] == [found(sky, dataset, g.where).total() for g in groups]
    assert [group.name for group in groups] == [f"g{place:04d}" for place in range(len(groups))]
    usdf, frdf = ([group.datasets for group in by_site(groups)[site]] for site in ("usdf", "frdf"))
    assert abs(sum(usdf) - sum(frdf)) <= max(usdf + frdf)


def test_groups_are_shared_out_by_their_quanta(sky: Survey, service: ButlerService) -> None:
    by = {"dimension": "visit", "dataset": "raw", "max_quanta": 16}
    groups = plan(service, campaign(sky, sites={"usdf": 0.6, "frdf": 0.4}, group_by=by))
    assert [replace(group, site="here") for group in groups] == plan(service, campaign(sky, group_by=by))
    quanta = {site: sum(group.quanta or 0 for group in own) for site, own in by_site(groups).items()}
    heaviest = max(group.quanta or 0 for group in groups)
    assert abs(quanta["usdf"] - 0.6 * sum(quanta.values())) <= heaviest / 2


def test_a_step_of_its_own_sites_runs_there(sky: Survey, service: ButlerService) -> None:
    by = {"dimension": "visit", "dataset": "raw", "size": 4}
    spec = campaign(sky, group_by=by, sites=["usdf", "frdf"])
    assert set(by_site(plan(service, spec))) == {"usdf", "frdf"}
    pinned = spec.model_dump(mode="json")
    pinned["steps"]["s"]["sites"] = "frdf"
    assert set(by_site(plan(service, CampaignSpec.model_validate(pinned)))) == {"frdf"}


def test_a_step_that_is_not_cut_goes_to_the_largest_share(sky: Survey, service: ButlerService) -> None:
    sites = {"idf": {"where": "visit < 3"}, "ukdf": 0.2, "usdf": 0.4, "frdf": 0.4}
    (group,) = plan(service, campaign(sky, sites=sites))
    assert (group.site, group.where) == ("usdf", f"({sky.where})")


def test_data_that_no_site_takes_is_named(sky: Survey, service: ButlerService) -> None:
    by = {"dimension": "visit", "dataset": "raw", "size": 4}
    sites = {"usdf": {"where": "visit < 10"}, "frdf": {"where": "visit > 12"}}
    with pytest.raises(NoInputsError, match=r"no site takes 3 of 30 values: .*visit 10; .*visit 11; .*visit 12"):
        plan(service, campaign(sky, sites=sites, group_by=by))
    groups = plan(service, campaign(sky, sites={**sites, "ukdf": 1}, group_by=by))
    assert [group.size for group in by_site(groups)["ukdf"]] == [3]


def test_a_predicate_that_divides_what_groups_are_made_of_is_refused(sky: Survey, service: ButlerService) -> None:
    """A visit on two tracts would be processed twice; and no visit may lose some of its detectors."""
    by_visit = {"dimension": "visit", "size": 4}
    by = by_visit | {"dataset": "raw"}
    for where in ("detector < 2", f"skymap = '{sky.skymap}' AND tract = 1"):
        with pytest.raises(PlanError, match=r"the `where` of sites divides \d+ of 30 values: .*visit"):
            plan(service, campaign(sky, sites={"usdf": 1, "frdf": {"where": where}}, group_by=by))
    for values in ({"dataset": "raw"}, {"values": ["1..30"]}):
        with pytest.raises(PlanError, match="divides 30 of 30 values"):  # nobody would take the other detectors
            plan(service, campaign(sky, sites={"usdf": {"where": "detector < 2"}}, group_by=by_visit | values))


def test_values_without_records_cannot_be_selected(sky: Survey, service: ButlerService) -> None:
    by = {"dimension": "healpix9", "values": ["700..900"], "size": 50}
    with pytest.raises(PlanError, match="no records of healpix9"):
        plan(service, campaign(sky, sites={"usdf": 1, "frdf": {"where": "healpix9 < 800"}}, group_by=by))
    groups = plan(service, campaign(sky, sites=["usdf", "frdf"], group_by=by))
    assert [len(own) for own in by_site(groups).values()] == [3, 2]


def test_a_lane_is_what_its_site_has_made(sky: Survey, service: ButlerService) -> None:
    spec = CampaignSpec.model_validate(
        {
            "campaign": "c",
            "butler": {"input": ["made/all"], "output": "u/c", "where": sky.where},
            "pipeline": PIPELINE,
            "sites": ["usdf", "frdf"],
            "steps": {
                "r": {"pipeline": "#step1", "barrier": "site"},
                "s": {
                    "pipeline": "#step2",
                    "needs": ["r"],
                    "group_by": {"dimension": "visit", "dataset": "calexp", "size": 7},
                },
            },
        }
    )
    assert spec.lanes("s")
    lanes = {site: plan_lane(spec, "s", site, service, ["made/calexp", sky.defaults]) for site in spec.sites}
    assert [group.name for group in lanes["usdf"]] == ["g0000", "g0001", "g0002"]
    assert [group.name for group in lanes["frdf"]] == ["g10000", "g10001", "g10002"]
    assert {group.site for group in lanes["frdf"]} == {"frdf"}
    made = sum((found(sky, "calexp", group.where) for group in lanes["frdf"]), Counter())
    assert made == found(sky, "calexp", sky.where)
    with pytest.raises(NoInputsError, match="nothing to process"):
        plan_lane(spec, "s", "frdf", service, ["made/map", sky.defaults])
    with pytest.raises(PlanError, match="r has no `group_by`"):
        plan_lane(spec, "r", "frdf", service, ["made/all"])


@pytest.mark.parametrize(
    "group_by",
    [{"dimension": "exposure", "size": 5}, {"dimension": "physical_filter"}, {"dimension": "group", "count": 5}],
)
def test_instruments_never_share_a_group(sky: Survey, service: ButlerService, group_by: dict[str, Any]) -> None:
    groups = plan(service, campaign(sky, "", group_by=group_by | {"dataset": "raw"}))
    parts = [found(sky, "raw", group.where) for group in groups]
    assert sum(parts, Counter()) == found(sky, "raw", "")
    firsts = [group.where.split(" AND ")[0] for group in groups]
    assert firsts == sorted(firsts)
    assert set(firsts) == {f"(instrument = '{name}'" for name in (sky.instrument, "Other")}


def test_predicates_of_campaign_and_step_both_hold(sky: Survey, service: ButlerService) -> None:
    both = f"({sky.where} AND visit > 25) OR ({sky.where} AND visit < 3)"
    step = {"where": "band = 'r' OR visit = 2", "group_by": {"dimension": "visit", "dataset": "raw", "size": 2}}
    groups = plan(service, campaign(sky, both, **step))
    parts = [found(sky, "raw", group.where) for group in groups]
    assert sum(parts, Counter()) == found(sky, "raw", f"({both}) AND (band = 'r' OR visit = 2)")
    assert 0 < sum(parts, Counter()).total() < found(sky, "raw", both).total()


def test_a_step_is_cut_by_what_a_former_step_made(sky: Survey, service: ButlerService) -> None:
    by = {"dimension": "visit", "size": 10}
    assert sum(group.size for group in plan(service, campaign(sky, group_by=by | {"dataset": "raw"}))) == 30
    assert sum(group.size for group in plan(service, campaign(sky, group_by=by | {"dataset": "calexp"}))) == 20


def test_tracts_are_found_by_the_images_that_overlap_them(sky: Survey, service: ButlerService) -> None:
    for dataset in ("calexp", "raw"):
        groups = plan(service, campaign(sky, group_by={"dimension": "tract", "dataset": dataset}))
        assert [group.label for group in groups] == [f"skymap {sky.skymap}, tract {tract}" for tract in range(3)]
        everything = Counter[str]()
        for group in groups:
            part = found(sky, "calexp", group.where)
            assert part.total() == group.datasets or dataset == "raw"
            everything |= part
        # An image at a border belongs to two tracts, but none is forgotten.
        assert everything == found(sky, "calexp", sky.where)


@pytest.mark.parametrize(
    ("subset", "group_by"),
    [
        ("#step1", {"dimension": "visit", "dataset": "raw", "max_quanta": 50}),
        ("#step1", {"dimension": "exposure", "dataset": "raw", "max_quanta": 16, "size": 10}),
        ("#step2", {"dimension": "visit", "max_quanta": 6}),
    ],
)
def test_quanta_are_estimated_as_the_quantum_graph_has_them(
    sky: Survey, service: ButlerService, subset: str, group_by: dict[str, Any]
) -> None:
    groups = plan(service, campaign(sky, pipeline=subset, group_by=group_by))
    assert len(groups) > 1
    for group in groups:
        assert group.quanta == quanta_of(sky, subset, group.where)
        assert group.quanta <= group_by["max_quanta"]


def test_quanta_of_tracts_are_estimated_from_above(sky: Survey, service: ButlerService) -> None:
    groups = plan(service, campaign(sky, pipeline="#step3", group_by={"dimension": "tract", "max_quanta": 1}))
    assert [group.size for group in groups] == [1, 1, 1]
    for group in groups:
        assert "more than max_quanta 1" in group.label
        real = quanta_of(sky, "#step3", group.where)
        assert group.quanta is not None
        assert real <= group.quanta <= 1.2 * real


def quanta_of(sky: Survey, subset: str, where: str) -> int:
    """Build the real quantum graph of a group, as `bps submit` does, and count."""
    with Butler.from_config(str(sky.root)) as butler:
        builder = AllDimensionsQuantumGraphBuilder(
            Pipeline.from_uri(PIPELINE + subset).to_graph(),
            butler.clone(collections=["made/all"]),
            where=where,
            input_collections=["made/all"],
            output_run="u/run",
        )
        return len(builder.finish(attach_datastore_records=False).quantum_datasets)


def test_listed_values(sky: Survey, service: ButlerService) -> None:
    by = {"dimension": "visit", "values": [9, "1..4", 7], "size": 3}
    groups = plan(service, campaign(sky, group_by=by))
    assert [group.where.rsplit(" AND ", 1)[1] for group in groups] == ["visit IN (1, 2, 9))", "visit IN (3, 4, 7))"]
    assert sum((found(sky, "raw", group.where) for group in groups), Counter()) == found(
        sky, "raw", f"{sky.where} AND visit IN (1..4, 7, 9)"
    )
    bands = plan(service, campaign(sky, group_by={"dimension": "band", "values": ["r", "g"]}))
    assert [group.where.rsplit(" AND ", 1)[1] for group in bands] == ["(band = 'r')", "(band = 'g')"]
    (pixels,) = plan(service, campaign(sky, group_by={"dimension": "healpix9", "values": ["700..900"], "size": 500}))
    assert found(sky, "map", pixels.where).total() == 67


def test_a_listed_patch_is_meant_in_every_tract(sky: Survey, service: ButlerService) -> None:
    groups = plan(service, campaign(sky, group_by={"dimension": "patch", "values": [4, "0..1"], "size": 2}))
    parts = [found(sky, "mosaic", group.where) for group in groups]
    assert sum(parts, Counter()) == found(sky, "mosaic", f"{sky.where} AND patch IN (0, 1, 4)")


def test_listed_values_that_are_not_there_are_named(sky: Survey, service: ButlerService) -> None:
    with pytest.raises(NoInputsError, match="2 of 4 listed values of visit are not there: 31, 77"):
        plan(service, campaign(sky, group_by={"dimension": "visit", "values": ["29..31", 77]}))
    with pytest.raises(PlanError, match="not an integer"):
        plan(service, campaign(sky, group_by={"dimension": "visit", "values": ["r"]}))


def test_a_step_that_is_not_cut_is_one_group_of_all(sky: Survey, service: ButlerService) -> None:
    (group,) = plan(service, campaign(sky, where="visit > 3"))
    assert (group.name, group.where) == ("g0000", f"({sky.where}) AND (visit > 3)")


def test_no_data_is_an_error_that_says_what_was_asked(sky: Survey, service: ButlerService) -> None:
    by = {"dimension": "visit", "dataset": "raw", "size": 5}
    with pytest.raises(NoInputsError) as caught:
        plan(service, campaign(sky, where="visit > 99", group_by=by))
    assert "visit with raw in made/all" in caught.value.cause
    assert "visit > 99" in caught.value.cause
    assert "query-datasets" in caught.value.advice
    with pytest.raises(ButlerError, match="'made/al' \\(nearest: 'made/all'\\)"):
        plan_groups(campaign(sky, group_by=by), "s", service, ["made/al"])


def test_requirements(sky: Survey, service: ButlerService) -> None:
    by = {"dimension": "visit", "dataset": "raw", "size": 5}
    spec = campaign(sky, group_by=by, requirements={"raw": "all", "calexp": "all", "visitSummary": 20, "mosaic": 1000})
    raw, calexp, summary, mosaic = check_requirements(spec, "s", service, ["made/all"])
    assert (raw.wanted, raw.found, raw.missing, raw.met) == (30, 30, (), True)
    assert (calexp.wanted, calexp.found, calexp.met) == (30, 20, False)
    assert calexp.missing[0] == f"instrument {sky.instrument}, visit 21"
    assert str(calexp).startswith("calexp: 20 of 30, none for instrument")
    assert (summary.wanted, summary.found, summary.met) == (20, 20, True)
    assert not mosaic.met
    # What the step is cut by is looked for in all that the predicates select.
    spec = campaign(sky, group_by=by | {"dataset": "calexp"}, requirements={"calexp": "all", "raw": "all"})
    calexp, raw = check_requirements(spec, "s", service, ["made/all"])
    assert (calexp.found, calexp.wanted) == (20, 30)
    assert (raw.found, raw.wanted) == (20, 20)


def test_requirements_of_listed_values_and_of_uncut_steps(sky: Survey, service: ButlerService) -> None:
    spec = campaign(sky, group_by={"dimension": "visit", "values": [19, 22]}, requirements={"calexp": "all"})
    (calexp,) = check_requirements(spec, "s", service, ["made/all"])
    assert (calexp.wanted, calexp.missing) == (2, (f"instrument {sky.instrument}, visit 22",))
    (raw,) = check_requirements(campaign(sky, requirements={"raw": "all"}), "s", service, ["made/all"])
    assert (raw.wanted, raw.found, raw.met) == (1, 120, True)


def test_another_process_makes_the_same_plan(sky: Survey, service: ButlerService) -> None:
    spec = campaign(sky, group_by={"dimension": "group", "dataset": "raw", "count": 4})
    code = (
        "import sys; from cm_dagster.services.butler import ButlerService\n"
        "from cm_dagster.services.planner import plan_groups; from cm_dagster.spec.models import CampaignSpec\n"
        "spec = CampaignSpec.model_validate_json(sys.argv[2])\n"
        "print(plan_groups(spec, 's', ButlerService(sys.argv[1]), spec.butler.input))"
    )
    command = [sys.executable, "-c", code, str(sky.root), spec.model_dump_json()]
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(plan(service, spec))
