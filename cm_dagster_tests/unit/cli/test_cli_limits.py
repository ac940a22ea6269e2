"""``cm limits``, ``cm campaign pause|resume``, ``cm step pause|resume``."""

from __future__ import annotations

import re
from pathlib import Path

import dagster as dg
import pytest

from cm_dagster.ledger import campaigns
from cm_dagster.policy.states import State
from cm_dagster_tests.unit.cli.conftest import Cm, Rig

pytestmark = pytest.mark.usefixtures("rig")
WHY = ("--reason", "slow database")
SITE = ("--site", "local")


def shown(cm_run: Cm, *args: str) -> dict[str, object]:
    return {line["setting"]: line["value"] for line in cm_run("limits", "show", *args, "--json").json}


def test_limits_are_set_shown_and_reset(cm_run: Cm) -> None:
    ran = cm_run("limits", "set", *SITE, "in_flight=50", "per_hour=200", "windows=sat-sun, 18:00-06:00", *WHY)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        "site local: in_flight is 50 (was 100)",
        "site local: per_hour is 200 (was none)",
        "site local: windows is sat-sun, 18:00-06:00 (was none)",
        "it holds from the next tick on",
    ]
    lines = cm_run("limits", "show", *SITE, "--json").json
    first = lines[0]
    assert (first["site"], first["setting"], first["value"], first["file"], first["used"]) == (
        "local", "in_flight", 50, 100, 0,
    )  # fmt: skip
    assert (first["set"]["user"], first["set"]["reason"]) == ("pilot", "slow database")
    assert shown(cm_run, *SITE)["windows"] == ["sat-sun", "18:00-06:00"]
    text = cm_run("limits", "show").out
    assert re.search(r"site local +in_flight +50 +0 +100 +pilot", text)
    assert "slow database" in text

    assert "in_flight is 100, as in the file" in cm_run("limits", "reset", *SITE, "in_flight", *WHY).out
    assert (shown(cm_run, *SITE)["in_flight"], shown(cm_run, *SITE)["per_hour"]) == (100, 200)
    assert len(cm_run("limits", "reset", *SITE, *WHY, "--json").json) == 2
    assert "nothing was set" in cm_run("limits", "reset", *SITE, *WHY).out


def test_limits_of_a_campaign_and_a_step(cm_run: Cm, instance: dg.DagsterInstance, rig: Rig) -> None:
    assert cm_run("limits", "set", "--campaign", "rc2", "priority=5", "in_flight=9", *WHY).code == 0
    assert cm_run("limits", "set", "--campaign", "rc2", "--step", "step1", "brake.failed=0.25", *WHY).code == 0
    now = campaigns.find(instance, "rc2").now
    assert (now.priority, now.limits.in_flight) == (5, 9)
    assert (now.settings("step1").brake.failed, now.settings("step1").brake.ended) == (0.25, 10)
    assert now.settings("step2").brake.failed == 0.5
    assert shown(cm_run, "--campaign", "rc2", "--step", "step1")["scouts"] == 0
    rig.start()
    rig.plan("step1", 2)
    rig.attempt("step1", 0, State.RUNNING)
    lines = {line["setting"]: line for line in cm_run("limits", "show", "--campaign", "rc2", "--json").json}
    assert (lines["in_flight"]["used"], lines["brake.failed"]["step"]) == (1, "step1")
    history = cm_run("campaign", "show", "rc2", "--json").json["history"]
    assert [entry["action"] for entry in history[1:3]] == [
        "set priority=5 limits.in_flight=9",
        "set steps.step1.brake.failed=0.25",
    ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((*SITE, "per_hor=3"), "per_hor: there is no such setting; expected one of in_flight, per_hour,"),
        ((*SITE, "per_hour=0"), "per_hour: is the number 0; expected a whole number, at least 1"),
        ((*SITE, "per_hour=many"), "per_hour: is the text 'many'"),
        ((*SITE, "in_flight=none"), "in_flight: is empty; expected a whole number, at least 0"),
        ((*SITE, "windows=18-06"), "windows: '18-06' is not a window"),
        ((*SITE, "ramp_up.start=2"), "ramp_up.start: is the number 2; expected a number, at least 0, at most 1"),
        (("--campaign", "rc2", "priority=high"), "priority: is the text 'high'; expected a whole number"),
        (("--campaign", "rc2", "--step", "step1", "brake.failed=7"), "brake.failed: is the number 7"),
    ],
)
def test_what_is_wrong_is_refused_by_the_rules_of_the_files(cm_run: Cm, args: tuple[str, ...], message: str) -> None:
    ran = cm_run("limits", "set", *args, *WHY)
    assert ran.code == 2
    assert message in ran.err
    assert cm_run("limits", "show", *args[:-1], "--json").json[0]["set"] is None


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ((*SITE, "in_flight"), 2, "'in_flight' is not of the form NAME=VALUE"),
        (("in_flight=3",), 2, "name one: --site NAME"),
        ((*SITE, "--campaign", "rc2", "in_flight=3"), 2, "name one: --site NAME"),
        (("--site", "moon", "in_flight=3"), 1, "known sites: local"),
        (("--campaign", "moon", "in_flight=3"), 1, "there is no campaign 'moon'"),
        (("--campaign", "rc2", "--step", "step9", "scouts=3"), 1, "its steps: step1, step2, step3"),
    ],
)
def test_what_is_not_there_is_refused(cm_run: Cm, args: tuple[str, ...], code: int, message: str) -> None:
    ran = cm_run("limits", "set", *args, *WHY)
    assert ran.code == code
    assert message in ran.err


def test_a_reason_must_be_given(cm_run: Cm) -> None:
    for args in (("limits", "set", *SITE, "in_flight=3"), ("campaign", "pause", "rc2"), ("step", "pause", "rc2", "s")):
        assert cm_run(*args).code == 2
        assert cm_run(*args, "--reason", "  ").code == 2


def test_sites_must_be_known(cm_run: Cm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CM_SITES")
    assert "give --sites FILE, or set CM_SITES" in cm_run("limits", "set", *SITE, "in_flight=3", *WHY).err
    assert shown(cm_run, "--campaign", "rc2")["priority"] == 0


def test_a_campaign_is_paused_and_goes_on(cm_run: Cm, instance: dg.DagsterInstance) -> None:
    assert cm_run("campaign", "pause", "rc2", *WHY).out == "campaign rc2 is paused\n"
    assert cm_run("campaign", "pause", "rc2", *WHY, "--json").json["changed"] is False
    found = campaigns.find(instance, "rc2").pause("step1")
    assert found is not None
    assert (found[0], found[1].user, found[1].reason) == ("", "pilot", "slow database")
    assert cm_run("step", "resume", "rc2", "step1", *WHY).out == "campaign rc2 itself is still paused\n"
    assert cm_run("campaign", "resume", "rc2", *WHY).out == "campaign rc2 goes on\n"
    assert cm_run("campaign", "resume", "rc2", *WHY).out == "campaign rc2 was not paused\n"
    assert campaigns.find(instance, "rc2").pause("step1") is None


def test_a_step_is_paused_and_goes_on(cm_run: Cm, instance: dg.DagsterInstance) -> None:
    assert cm_run("step", "pause", "rc2", "step1", *WHY).out == "step step1 of rc2 is paused\n"
    assert cm_run("step", "pause", "rc2", "step1", *WHY).out == "step step1 of rc2 was paused before\n"
    assert campaigns.find(instance, "rc2").pause("step2") is None
    assert cm_run("step", "resume", "rc2", "step1", *WHY, "--json").json == {
        "campaign": "rc2", "step": "step1", "paused": False,
    }  # fmt: skip
    assert campaigns.find(instance, "rc2").resumed("step1") > 0
    history = cm_run("campaign", "show", "rc2", "--json").json["history"]
    assert [(entry["action"], entry["reason"]) for entry in history[1:]] == [
        ("pause step1", "slow database"),
        ("resume step1", "slow database"),
    ]
    assert "its steps: step1, step2, step3" in cm_run("step", "pause", "rc2", "step9", *WHY).err


def test_the_specification_stays_as_it_was(cm_run: Cm, file: Path) -> None:
    cm_run("limits", "set", "--campaign", "rc2", "in_flight=9", *WHY)
    cm_run("step", "pause", "rc2", "step1", *WHY)
    assert cm_run("campaign", "create", file, "--json").json == {"campaign": "rc2", "created": False}
