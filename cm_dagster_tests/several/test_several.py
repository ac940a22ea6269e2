"""A campaign at three sites, each of which goes away for a while: the others go on as before, and nothing is redone."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

import pytest
from lsst.daf.butler import Butler

from cm_dagster.ledger import campaigns
from cm_dagster_tests.several.land import EAST, GROUPS, SHARES, STEPS, WEST, Land, Shared, Window
from cm_dagster_tests.system.rig import SITE, wait_for

WINDOW = float(os.environ.get("CM_TEST_WINDOW") or 40.0)
"""Seconds for which a site is away, and for which it is counted what the others get done."""


@pytest.fixture(scope="module")
def case(land: Land) -> Shared:
    """The campaign, while each site has accepted something and runs more."""
    made = Shared(land.rig, "shared", land)
    made.write()
    campaigns.create(land.rig.instance, made.spec(), user="pilot", reason="to be tested")
    made.start()
    wait_for("work at all sites", lambda: all(made.accepted()[site] for site in SHARES))
    return made


def outage(land: Land, site: str) -> AbstractContextManager[None]:
    """Take something else away at each site."""
    ways = {
        WEST: lambda: land.without_butler(WEST),
        EAST: lambda: land.without_code_server(EAST),
        SITE: lambda: land.wms(SITE).away(),
    }
    return ways[site]()


def tell(land: Land, what: str, window: Window, quiet: Window, others: list[str]) -> None:
    """Write down what the others got done beside what they did undisturbed."""
    rate, before = window.rate(*others), quiet.rate(*others)
    figures = ", ".join(f"{site} {window.accepted[site]} (undisturbed {quiet.accepted[site]})" for site in others)
    land.figures.append(f"{what:<34} {figures} groups in {window.seconds:.0f} s: {rate / before:.2f} of undisturbed")


def test_each_site_goes_away_and_the_others_do_not_wait(land: Land, case: Shared) -> None:
    quiet = case.window(WINDOW)
    assert all(quiet.accepted.values())
    names = {WEST: "Butler of west", EAST: "code server of east", SITE: "WMS of the home site"}
    for site, what in names.items():
        others = [other for other in SHARES if other != site]
        with outage(land, site):
            window = case.window(WINDOW)
            assert all(window.accepted[other] for other in others), (site, window)
            assert case.view().state == "running"
            assert case.count().get("failed", 0) == 0
        back = case.wait_for_progress(site)
        tell(land, f"{what} away, back after {back:.0f} s", window, quiet, others)


def test_the_campaign_ends_complete_and_nothing_was_redone(land: Land, case: Shared) -> None:
    case.wait_until_done()
    found = case.workflows()
    assert {name.rpartition(".")[2] for name in found} == {"a01"}
    assert set(found.values()) == {1}
    assert len([name for name in found if ".step1." in name]) == GROUPS
    by_site = {site: sum(f".step1.{site}." in name for name in found) for site in SHARES}
    assert by_site == {site: round(GROUPS * share) for site, share in SHARES.items()}


def test_all_outputs_are_at_the_home_site(land: Land, case: Shared) -> None:
    with Butler.from_config(str(land.rig.survey.root), writeable=False) as home:
        assert len(home.query_datasets("calexp", f"u/test/{case.name}", limit=None)) == GROUPS
        assert home.collections.get_info(f"u/test/{case.name}").children[:3] == tuple(
            f"u/test/{case.name}/{step}" for step in reversed(STEPS)
        )


@pytest.mark.parametrize("site", [EAST, WEST])
def test_what_a_site_has_made_is_the_same_at_home(land: Land, case: Shared, site: str) -> None:
    sites = case.spec().sites
    assert site in sites
    with (
        Butler.from_config(str(land.rig.deployment.folder / "repos" / site), writeable=False) as there,
        Butler.from_config(str(land.rig.survey.root), writeable=False) as home,
    ):
        own = there.query_datasets("calexp", f"u/test/{case.name}/step1/at/{site}", limit=None)
        assert len(own) == round(GROUPS * SHARES[site])
        kept = {ref.id for ref in home.query_datasets("calexp", f"u/test/{case.name}", limit=None)}
        assert {ref.id for ref in own} <= kept
