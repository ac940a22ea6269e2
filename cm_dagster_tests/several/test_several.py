"""A campaign at three sites, each of which goes away for a while: the others go on, it shows, and nothing is redone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from lsst.daf.butler import Butler, DatasetId

from cm_dagster.control import health
from cm_dagster.ledger import campaigns
from cm_dagster_tests.several.conftest import GROUPS
from cm_dagster_tests.several.land import EAST, SHARES, STEPS, WEST, Land, Shared
from cm_dagster_tests.system.rig import SITE, wait_for

type _Outage = Callable[[Land], AbstractContextManager[None]]

_OUTAGES: dict[str, _Outage] = {
    WEST: lambda land: land.without_butler(WEST),
    EAST: lambda land: land.without_code_server(EAST),
    SITE: lambda land: land.wms(SITE).away(),
}
"""What goes away at each site."""
_SAID = {
    WEST: "the connection to the repository's database failed",
    EAST: "the code server of east has not been heard of since",
    SITE: f'"site": "{SITE}", "answers": false',
}
"""What is said of its groups meanwhile."""


@pytest.fixture(scope="module")
def case(land: Land) -> Shared:
    """The campaign, while each site has accepted something and runs more."""
    made = Shared(land.rig, "shared", land, GROUPS, sleep=2.0)
    made.write()
    campaigns.create(land.rig.instance, made.spec(), user="pilot", reason="to be tested")
    made.start()
    wait_for("work at all sites", lambda: all(made.accepted()[site] for site in SHARES), 600.0)
    return made


@pytest.mark.parametrize("site", _OUTAGES)
def test_a_site_goes_away_and_the_others_do_not_wait(
    land: Land, case: Shared, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "QUIET", 20.0)  # 90 s would be long for a test
    before = case.accepted()
    with _OUTAGES[site](land):
        case.wait_for_others(site, before)
        wait_for(f"what is said of {site}", lambda: _SAID[site] in case.said())
        assert case.view().state == "running"
        assert all(not step.failures for step in case.view().steps)
    case.wait_for_progress(site)


def test_the_campaign_ends_complete_and_nothing_was_redone(land: Land, case: Shared) -> None:
    case.wait_until_done()
    found = case.workflows()
    assert {name.rpartition(".")[2] for name in found} == {"a01"}
    assert set(found.values()) == {1}
    by_site = Counter(name.split(".")[2] for name in found if ".step1." in name)
    assert by_site == {site: round(GROUPS * share) for site, share in SHARES.items()}
    assert by_site.total() == GROUPS


def test_all_outputs_are_at_the_home_site(land: Land, case: Shared) -> None:
    with Butler.from_config(str(land.rig.survey.root), writeable=False) as home:
        assert len(home.query_datasets("calexp", f"u/test/{case.name}", limit=None)) == GROUPS
        assert home.collections.get_info(f"u/test/{case.name}").children[:3] == tuple(
            f"u/test/{case.name}/{step}" for step in reversed(STEPS)
        )


@pytest.mark.parametrize("site", [EAST, WEST])
def test_what_a_site_has_made_is_the_same_at_home(land: Land, case: Shared, site: str) -> None:
    """The site's own chain need not be whole when the campaign is done, but soon after."""
    with (
        Butler.from_config(str(land.rig.deployment.folder / "repos" / site), writeable=False) as there,
        Butler.from_config(str(land.rig.survey.root), writeable=False) as home,
    ):

        def chained() -> set[DatasetId]:
            found = there.query_datasets("calexp", f"u/test/{case.name}/step1/at/{site}", limit=None)
            return {ref.id for ref in found}

        wait_for(f"the chain at {site}", lambda: len(chained()) == round(GROUPS * SHARES[site]))
        kept = {ref.id for ref in home.query_datasets("calexp", f"u/test/{case.name}", limit=None)}
        assert chained() <= kept


def test_where_sites_need_nothing_of_each_other_each_goes_on_alone(land: Land) -> None:
    case = Shared(land.rig, "lanes", land, groups=4, sleep=0.0)
    case.write_lanes()
    campaigns.create(land.rig.instance, case.spec(), user="pilot", reason="to be tested")
    case.start()
    with land.without_code_server(WEST):
        wait_for("both steps of east", lambda: case.accepted("step2")[EAST] == 2, 600.0)
        assert case.accepted("step1")[WEST] == 0
        assert "west makes its groups when it has step1 (2 of 2 groups left at west)" in case.said()
        assert case.view().steps[0].state == "running"
    case.wait_until_done()
    names = {name.removeprefix("lanes.") for name in case.workflows()}
    assert names == {
        *(f"step1.{site}.g000{n}.a01" for n, site in enumerate([EAST, WEST, EAST, WEST])),
        *(f"step2.{EAST}.g000{n}.a01" for n in range(2)),
        *(f"step2.{WEST}.g1000{n}.a01" for n in range(2)),
    }
