"""``cm site``: downtimes that are declared, those that are found out, and what is shown of them."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cm_dagster.control.health import write_health
from cm_dagster.ledger import sites
from cm_dagster.policy.states import State
from cm_dagster_tests.pulses import beat, tick
from cm_dagster_tests.unit.cli.conftest import Cm, Rig

pytestmark = pytest.mark.usefixtures("rig")
WHY = ("--reason", "new disks")


def test_a_downtime_is_declared_shown_and_ended(cm_run: Cm, rig: Rig) -> None:
    rig.start()
    rig.plan("step1", 2)
    rig.attempt("step1", 0, State.RUNNING)
    assert cm_run("site", "show", "local", "--json").json["stopped"] is None
    ran = cm_run("site", "stop", "local", *WHY)
    assert ran.code == 0
    assert ran.out.startswith("site local is stopped since ")
    assert " by pilot: new disks\n" in ran.out

    document = cm_run("status", "rc2", "--json").json
    (shown,) = document["sites"]
    assert (shown["stopped"]["user"], shown["stopped"]["reason"], shown["stopped"]["until"]) == (
        "pilot", "new disks", None,
    )  # fmt: skip
    assert document["steps"][0]["groups"]["running"] == 1  # what runs goes on, and is known
    assert document["steps"][0]["reason"].startswith("1 group to go: site local is stopped since ")
    why = cm_run("group", "show", "rc2", "step1", "g0001", "--json").json["waits"]
    assert why.endswith(" by pilot: new disks; cm site start local --reason TEXT")
    assert "site local is stopped since" in cm_run("status").out
    assert (cm_run("site", "list", "--json").json[0]["state"], "stopped" in cm_run("site", "list").out) == (
        "stopped", True,
    )  # fmt: skip

    assert cm_run("site", "start", "local", *WHY).out.startswith("site local takes groups again; it was stopped since")
    assert cm_run("site", "start", "local", *WHY).out == "site local was not stopped\n"
    assert cm_run("status", "rc2", "--json").json["steps"][0]["reason"] == ""
    records = rig.instance.fetch_materializations(sites.ASSET, limit=9).records
    made = [record.asset_materialization for record in records]
    assert [str(each.metadata["action"].value) for each in made if each] == ["start", "stop"]


def test_a_downtime_ends_by_itself(cm_run: Cm, monkeypatch: pytest.MonkeyPatch) -> None:
    end = datetime.now(UTC) + timedelta(hours=3)
    ran = cm_run("site", "stop", "local", *WHY, "--until", f"{end:%Y-%m-%d %H:%M}", "--json")
    assert ran.json["stopped"]["until"] == f"{end:%Y-%m-%dT%H:%M}:00Z"
    assert cm_run("site", "show", "local", "--json").json["state"] == "stopped"
    assert f"(until {end:%Y-%m-%d %H:%M} UTC)" in cm_run("site", "show", "local").out.replace("\n", " ")
    later = time.time() + 4 * 3600
    monkeypatch.setattr(time, "time", lambda: later)
    assert cm_run("site", "show", "local", "--json").json["state"] == "up"


def test_a_downtime_and_limits_leave_each_other_alone(cm_run: Cm) -> None:
    cm_run("site", "stop", "local", *WHY)
    assert cm_run("limits", "set", "--site", "local", "in_flight=5", *WHY).code == 0
    assert cm_run("limits", "reset", "--site", "local", *WHY).code == 0
    shown = cm_run("site", "show", "local", "--json").json
    assert (shown["state"], shown["limits"]["in_flight"]) == ("stopped", {"value": 100, "used": 0})


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("stop", "moon", *WHY), 1, "known sites: local"),
        (("stop", "local"), 2, "--reason"),
        (("stop", "local", *WHY, "--until", "soon"), 2, "'soon' is not a time"),
        (("stop", "local", *WHY, "--until", "2020-01-01"), 2, "is over already"),
        (("show", "moon"), 1, "known sites: local"),
        (("doctor", "moon"), 1, "known sites: local"),
    ],
)
def test_what_is_wrong_is_refused(cm_run: Cm, args: tuple[str, ...], code: int, message: str) -> None:
    ran = cm_run("site", *args)
    assert ran.code == code
    assert message in ran.err


def test_groups_of_a_silent_site_are_unknown(cm_run: Cm, rig: Rig) -> None:
    rig.start()
    rig.plan("step1", 3)
    for place, state in enumerate((State.RUNNING, State.ACCEPTED)):
        rig.attempt("step1", place, state)
    beat(rig.instance, 10)
    tick(rig.instance, 20)
    assert cm_run("status", "rc2", "--json").json["steps"][0]["groups"]["running"] == 1
    tick(rig.instance, 3600)
    document = cm_run("status", "rc2", "--json").json
    groups, (shown,) = document["steps"][0]["groups"], document["sites"]
    assert {state: count for state, count in groups.items() if count} == {
        "total": 3, "planned": 1, "unknown": 1, "accepted": 1,
    }  # fmt: skip
    assert "the code server of local has not been heard of since" in document["steps"][0]["reason"]
    assert "the code server of local has not been heard of since" in shown["silent"]["cause"]
    assert "site local is silent for 1 h 0 min" in cm_run("status").out
    listed = cm_run("group", "list", "rc2", "--json").json
    assert [each["state"] for each in listed] == ["unknown", "accepted", "planned"]
    page = cm_run("site", "show", "local", "--json").json
    assert (page["state"], page["groups"]["rc2"]["unknown"], page["sensors"][0]["sensor"]) == (
        "silent", 1, "watch_local",
    )  # fmt: skip


def test_a_daemon_that_is_dead_is_named_in_place_of_the_code_server(cm_run: Cm, rig: Rig) -> None:
    rig.start()
    tick(rig.instance, 3600)
    beat(rig.instance, 3590)
    (shown,) = cm_run("status", "rc2", "--json").json["sites"]
    assert shown["silent"]["cause"].startswith(
        "Dagster's daemon, which has the sensors of all sites tick, has given no"
    )


def test_a_silent_site_and_its_wms(cm_run: Cm, rig: Rig) -> None:
    write_health(rig.instance, "local", answers=False, cause="connection refused")
    assert cm_run("site", "show", "local", "--json").json["state"] == "no WMS"
    assert "its WMS has not answered since" in " ".join(cm_run("site", "show", "local").out.split())


def test_doctor_of_a_site(cm_run: Cm, rig: Rig, home: Path) -> None:
    def found() -> dict[str, tuple[str, str]]:
        ran = cm_run("site", "doctor", "local", "--json")
        assert ran.code == 1
        # Of several findings of a check the first, which is the gravest.
        return {each["check"]: (each["level"], each["message"]) for each in reversed(ran.json["checks"])}

    first = found()
    assert list(reversed(first)) == [
        "butler local", "wms local", "submit area local", "code server local", "daemon", "storage", "sensors local",
        "pool local",
    ]  # fmt: skip
    assert first["code server local"][0] == "warn"
    assert first["sensors local"] == ("fail", "no sensor of a code location local has ever run")
    assert first["pool local"][0] == first["storage"][0] == "warn"
    workspace = home / "workspace.yaml"
    workspace.write_text("load_from: [{grpc_server: {host: 127.0.0.1, port: 9, location_name: local}}]")
    rig.instance.event_log_storage.set_concurrency_slots("bps-submit/local", 2)
    beat(rig.instance, 5)
    tick(rig.instance, 10, error="ValueError")
    second = found()
    assert second["code server local"][0] == "fail"
    assert second["code server local"][1].startswith("127.0.0.1:9 does not answer: ")
    assert second["sensors local"] == ("warn", "the latest tick of watch_local failed: it broke")
    assert second["pool local"] == ("ok", "bps-submit/local: at most 2 at a time")
    tick(rig.instance, 500)
    assert "the code server of local has not been heard of" in found()["sensors local"][1]
    workspace.write_text("load_from: [{grpc_server: {host: 127.0.0.1, port: 9, location_name: usdf}}]")
    assert "has no code location local: usdf" in found()["code server local"][1]
    workspace.write_text("load_from: 3")
    assert "can't be read" in found()["code server local"][1]
