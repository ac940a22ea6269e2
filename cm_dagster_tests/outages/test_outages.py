"""Each service is taken away from a campaign in its middle, and given back; then the campaign is left to end."""

from __future__ import annotations

import signal
import time

import pytest
from lsst.daf.butler import Butler

from cm_dagster.local.wms.process import born, send
from cm_dagster.testing.graphql import GraphqlError
from cm_dagster_tests.outages.stage import TICK, Long, wait
from cm_dagster_tests.system.rig import CODE

_AWAY = 20.0
"""Seconds for which a database is away, at least."""
_JUMP = 7200.0
"""Seconds by which the clock jumps."""


def test_database_of_dagster(campaign: Long) -> None:
    """It dies while a submission is under way; no server is started again."""
    stage, rig = campaign.stage, campaign.rig
    servers = dict(rig.servers.running)
    first, second = campaign.release(), campaign.release()
    campaign.wait_for_submission()
    stage.database.stop("immediate")
    since = time.monotonic()
    said = rig.program("cm", "status", campaign.name, code=1)
    assert said.count("error:") == 1
    assert "Dagster's storage cannot be used" in said
    assert "Traceback" not in said
    with pytest.raises(GraphqlError):
        campaign.partitions()
    wait("workflows that end meanwhile", lambda: campaign.has_ended(first, second))
    time.sleep(max(0.0, since + _AWAY - time.monotonic()))
    stage.bring_back(stage.database)
    away = time.monotonic() - since
    campaign.recover("PostgreSQL of Dagster", away, lambda: campaign.is_accepted(first, second))
    assert all(process.poll() is None for process in servers.values())
    assert rig.servers.running == servers


def test_registry_of_the_butler(campaign: Long) -> None:
    """A workflow's final job fails, and a group is due for submission: the one is run again, the other waits."""
    stage = campaign.stage
    first = campaign.release()
    due = campaign.next_planned()
    wait("a group to be chained, and a free slot", lambda: campaign.is_accepted(first), every=0.2)
    stage.registry.stop("immediate")
    since = time.monotonic()
    second = campaign.release()
    wait("the end of a workflow without its final job", lambda: campaign.has_ended(second))
    assert campaign.at_wms()[second] == ["FAILED"]
    campaign.wait_until_waiting(second, "refused")  # to be judged
    campaign.wait_until_waiting(due, "refused")  # to be submitted
    campaign.assert_truth()
    time.sleep(max(0.0, since + _AWAY - time.monotonic()))
    stage.bring_back(stage.registry)
    away = time.monotonic() - since
    campaign.recover("PostgreSQL of the Butler", away, lambda: campaign.is_accepted(first, second))
    (attempt,) = campaign.attempts(second)
    assert attempt.tags["cm/finalized"] == "1"


def test_wms(campaign: Long) -> None:
    """Its server is killed and its state is gone while a submission is under way; its workflows go on."""
    wms = campaign.stage.wms
    first = campaign.release()
    campaign.wait_for_submission()
    second = campaign.release()
    since = time.monotonic()
    with wms.away():
        for pid in wms.servers():
            send(pid, born(pid), signal.SIGKILL)
        wait("the unknown groups", lambda: campaign.shown()["groups"]["unknown"] > 0)
        wait("a workflow that ends meanwhile", lambda: campaign.has_ended(second))
        step = campaign.assert_truth()
        assert "the WMS of local has not answered since" in step["reason"]
        assert not step["groups"]["running"] + step["groups"]["submitted"]
    away = time.monotonic() - since
    campaign.recover("WMS", away, lambda: campaign.is_accepted(first, second))


def test_code_server(campaign: Long) -> None:
    """It is killed with its workers while one of them submits."""
    rig = campaign.rig
    first = campaign.release()
    campaign.wait_for_submission()
    rig.kill(CODE)
    since = time.monotonic()
    second = campaign.release()
    wait("a workflow that ends meanwhile", lambda: campaign.has_ended(second))
    wait("the UI that says so", lambda: "Could not reach user code server" in campaign.location_error())
    campaign.assert_truth(loaded=False)
    time.sleep(TICK)
    away = time.monotonic() - since
    rig.revive(CODE)
    campaign.recover("code server", away, lambda: campaign.is_accepted(first, second))


def test_disk_full(campaign: Long) -> None:
    """No byte can be written in the submit area when a group is due."""
    disk = campaign.stage.disk
    first, due = campaign.release(), campaign.next_planned()
    wait("a workflow that has just ended", lambda: campaign.has_ended(first), every=0.05)
    disk.fill()
    since = time.monotonic()
    campaign.wait_until_waiting(due, "No space left on device")
    campaign.assert_truth()
    disk.free()
    campaign.recover("disk of the submit area", time.monotonic() - since, lambda: campaign.is_accepted(first))


def test_clock_jumps_forward(campaign: Long) -> None:
    """All processes of the servers' host are two hours ahead; the databases, on other hosts, are not."""
    first = campaign.release()
    campaign.wait_for_submission()
    campaign.stage.clock.advance(_JUMP)
    second = campaign.release()
    campaign.recover("clock set forward by 2 h", 0.0, lambda: campaign.is_accepted(first, second))


def test_clock_jumps_back(campaign: Long) -> None:
    """And back; then whoever set it starts Dagster's daemon again: some of its loops wait until the clock was there.

    Its sensors would too, by what the database says of them; restarting it does not help that.
    """
    rig = campaign.rig
    first = campaign.release()
    campaign.wait_for_submission()
    campaign.stage.clock.advance(-_JUMP)
    second = campaign.release()
    rig.servers.stop("daemon")
    rig.revive("daemon")
    campaign.recover("clock set back by 2 h", 0.0, lambda: campaign.is_accepted(first, second))


def test_campaign_ends_well(begun: Long) -> None:
    """Whatever was taken away: each group was processed once, and all of them before the next step."""
    campaign = begun
    campaign.set_faults([])
    wait("the end of the campaign", lambda: campaign.view().state == "done")
    campaign.assert_nothing_is_done_twice()
    # It tells what came first by the clock, which was changed: that is looked at apart.
    assert "lost 0 twins 0 redone 0 " in campaign.ask_oracle()
    campaign.assert_steps_in_order()
    assert campaign.count() == {"accepted": campaign.groups}
    assert {group: len(states) for group, states in campaign.at_wms().items()} == dict.fromkeys(campaign.names(), 1)
    assert campaign.at_wms("step2") == {"g0000": ["SUCCEEDED"]}
    with Butler.from_config(str(campaign.rig.survey.root)) as butler:
        found = butler.query_datasets("visitSummary", collections=f"u/test/{campaign.name}")
    assert sorted(int(ref.dataId["visit"]) for ref in found) == list(range(1, campaign.groups + 1))
