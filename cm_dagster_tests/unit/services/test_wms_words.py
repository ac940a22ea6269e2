"""What a BPS plugin says, in our words; its faults told apart from its answers."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

import pytest
from lsst.ctrl.bps import BaseWmsService, WmsRunReport, WmsStates

from cm_dagster.errors import WmsError
from cm_dagster.services.wms import WmsClient, WmsState

ME = "cm_dagster_tests.unit.services.test_wms_words"


class Plugin(BaseWmsService):  # type: ignore[misc]
    """Answers what a test lays down: a value, or an exception to raise."""

    answers: ClassVar[dict[str, Any]] = {}
    asked: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def _answer(self, what: str, **kwargs: Any) -> Any:
        self.asked.append((what, kwargs))
        answer = self.answers[what]
        if isinstance(answer, BaseException):
            raise answer
        return answer() if callable(answer) else answer

    def report(self, **kwargs: Any) -> Any:
        return self._answer("report", **kwargs)

    def cancel(self, wms_id: str) -> Any:
        return self._answer("cancel", wms_id=wms_id)

    def restart(self, wms_workflow_id: str) -> Any:
        return self._answer("restart", wms_id=wms_workflow_id)

    def ping(self, _: str | None) -> Any:
        return self._answer("ping")


class Mute(BaseWmsService):  # type: ignore[misc]
    """Can do nothing but submit, like Parsl's."""


@pytest.fixture(autouse=True)
def _clean() -> None:
    Plugin.answers = {}
    Plugin.asked = []


def client(**more: Any) -> WmsClient:
    return WmsClient(f"{ME}.Plugin", **more)


def run(wms_id: str, name: str, state: WmsStates | None, **jobs: int) -> WmsRunReport:
    counts = {WmsStates[word]: number for word, number in jobs.items()}
    return WmsRunReport(wms_id=wms_id, run=name, state=state, job_state_counts=counts, job_summary={"isr": counts})


def test_one_query_for_all() -> None:
    Plugin.answers["report"] = ([run("1", "a", WmsStates.RUNNING, RUNNING=2, UNREADY=3, READY=1, FAILED=0)], "")
    reports = client(user="ann").report_all(history=2.5)
    assert Plugin.asked == [("report", {"user": "ann", "hist": 2.5})]
    assert reports["1"].state is WmsState.RUNNING
    assert reports["1"].jobs == {WmsState.RUNNING: 2, WmsState.PENDING: 4}
    assert reports["1"].tasks == {"isr": {WmsState.RUNNING: 2, WmsState.PENDING: 4}}


@pytest.mark.parametrize(
    ("said", "jobs", "meant"),
    [
        (WmsStates.UNKNOWN, {}, WmsState.UNKNOWN),
        (WmsStates.MISFIT, {}, WmsState.UNKNOWN),
        (None, {}, WmsState.UNKNOWN),
        (WmsStates.UNREADY, {}, WmsState.PENDING),
        (WmsStates.DELETED, {"DELETED": 1}, WmsState.CANCELLED),
        (WmsStates.HELD, {}, WmsState.HELD),
        (WmsStates.PRUNED, {}, WmsState.FAILED),
        (WmsStates.SUCCEEDED, {"SUCCEEDED": 3}, WmsState.SUCCEEDED),
        (WmsStates.SUCCEEDED, {"SUCCEEDED": 3, "FAILED": 1}, WmsState.FAILED),
    ],
)
def test_states(said: WmsStates | None, jobs: dict[str, int], meant: WmsState) -> None:
    Plugin.answers["report"] = ([run("1", "a", said, **jobs)], "")
    assert client().report_all(1)["1"].state is meant


def test_empty_fields_of_a_report() -> None:
    Plugin.answers["report"] = ([WmsRunReport(wms_id="7"), WmsRunReport()], "")
    reports = client().report_all(1)
    assert list(reports) == ["7"]
    assert (reports["7"].name, reports["7"].path, reports["7"].exit_codes) == ("", None, {})


def test_workflows_are_found_by_name_with_their_twins() -> None:
    Plugin.answers["report"] = ([run("1", "a", None), run("2", "b", None), run("3", "a", None)], "")
    assert client().find(["a", "c"], history=1) == {"a": ["1", "3"], "c": []}


def test_failed_look_up_is_not_an_empty_one() -> None:
    Plugin.answers["report"] = RuntimeError("relay down")
    with pytest.raises(WmsError, match="RuntimeError: relay down") as caught:
        client().find(["a"], history=1)
    assert caught.value.transient


def test_a_plugin_that_cannot_list_is_not_one_with_an_empty_list() -> None:
    Plugin.answers["report"] = ([], "Run summary not implemented yet")
    with pytest.raises(WmsError, match="lists no workflows: Run summary not implemented yet"):
        client().find(["a"], history=1)
    Plugin.answers["report"] = ([], "")
    assert client().find(["a"], history=1) == {"a": []}


def test_unknown_workflow_has_no_report() -> None:
    Plugin.answers["report"] = ([], "No records found")
    assert client().report_one("9", history=1) is None
    assert Plugin.asked == [("report", {"wms_workflow_id": "9", "hist": 1, "return_exit_codes": True})]


def test_commands_are_believed_only_when_done() -> None:
    Plugin.answers = {"cancel": (True, ""), "restart": ("12.0", "a", "")}
    client().cancel("1")
    assert client().restart("1") == "12.0"
    Plugin.answers = {"cancel": (False, "run already SUCCEEDED"), "restart": (None, None, "nothing to restart")}
    for command, why in (("cancel", "run already SUCCEEDED"), ("restart", "nothing to restart")):
        with pytest.raises(WmsError, match=why) as caught:
            getattr(client(), command)("1")
        assert not caught.value.transient


def test_refusal_inside_a_success_of_panda() -> None:
    Plugin.answers["cancel"] = (True, '[[-1, {"message": "No match requests", "status": -1}]]')
    with pytest.raises(WmsError, match="No match requests"):
        client().cancel("1")
    Plugin.answers["cancel"] = (True, '[[0, {"message": "Command registered successfully", "status": 0}]]')
    client().cancel("1")


def test_ping() -> None:
    Plugin.answers["ping"] = (0, "")
    client().ping()
    Plugin.answers["ping"] = (1, "Could not locate Schedd service.")
    with pytest.raises(WmsError, match="Schedd") as caught:
        client().ping()
    assert caught.value.transient


def test_hanging_call_is_left_behind() -> None:
    free = threading.Event()
    Plugin.answers["report"] = lambda: (free.wait(30), ([], ""))[1]
    slow = client(deadline=0.2)
    with pytest.raises(WmsError, match="no answer within") as caught:
        slow.report_all(1)
    assert caught.value.transient
    with pytest.raises(WmsError, match="an earlier call still hangs"):
        slow.report_all(1)
    assert len(Plugin.asked) == 1
    free.set()
    assert slow._hanging is not None
    slow._hanging.join(10)
    assert slow.report_all(1) == {}


def test_plugin_that_cannot_report_is_permanent() -> None:
    with pytest.raises(WmsError, match="cannot report") as caught:
        WmsClient(f"{ME}.Mute").report_all(1)
    assert not caught.value.transient


def test_plugin_that_is_absent_is_permanent() -> None:
    for name in ("no.such.Service", f"{ME}.NoSuch"):
        with pytest.raises(WmsError, match="cannot be imported") as caught:
            WmsClient(name).ping()
        assert not caught.value.transient


def test_environment_is_there_before_the_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CM_TEST_ROOT", "/somewhere")
    monkeypatch.setenv("CM_TEST_HOME", "")
    Plugin.answers["ping"] = lambda: (0 if __import__("os").environ["CM_TEST_HOME"] == "/somewhere/wms" else 1, "")
    client(env={"CM_TEST_HOME": "$CM_TEST_ROOT/wms"}).ping()
