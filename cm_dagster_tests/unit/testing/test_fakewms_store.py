"""The fake WMS itself: what it keeps, what it does wrong when told to, and that it outlives its users' deaths."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cm_dagster.testing.fakewms import session
from cm_dagster.testing.fakewms.faults import KINDS, REQUESTS
from cm_dagster.testing.fakewms.store import ALWAYS, ENDED, STATES, FakeWms, Fault

NAME = "camp.step1.here.g0000.a01"
OTHER = "camp.step1.here.g0001.a01"


@pytest.fixture
def wms(tmp_path: Path) -> FakeWms:
    return FakeWms(tmp_path / "wms")


def begin(home: Path, code: str) -> subprocess.Popen[bytes]:
    """Begin a process that uses a WMS, with nothing but the standard library."""
    top = str(Path(session.__file__).parents[3])
    head = f"import sys; sys.path.append({top!r}); from cm_dagster.testing.fakewms.store import FakeWms"
    make = f"from pathlib import Path; wms = FakeWms(Path({str(home)!r}))"
    return subprocess.Popen([sys.executable, "-I", "-S", "-c", f"{head}\n{make}\n{code}"])


def log(wms: FakeWms) -> list[tuple[str, str, str]]:
    return [(each.kind, each.wms_id, each.outcome) for each in wms.requests()]


def test_life_of_a_workflow(wms: FakeWms) -> None:
    assert wms.submit(NAME, "/submit", run="u/run", user="me", jobs={"isr": 2}) == "1"
    assert wms.submit(OTHER, "/submit2") == "2"
    (found, _) = wms.list()
    assert (found.wms_id, found.name, found.state) == ("1", NAME, "PENDING")
    assert (found.submit_dir, found.run, found.user, dict(found.jobs)) == ("/submit", "u/run", "me", {"isr": 2})
    wms.set("1", "RUNNING")
    assert wms.cancel("1") == (True, "")
    assert wms.cancel("1") == (False, "run is DELETED")
    assert wms.restart("1") == ("1", NAME, "")
    wms.set("1", "SUCCEEDED")
    assert wms.restart("1") == (None, None, "run is SUCCEEDED")
    one = wms.one("1")
    assert one is not None
    assert one.state == "SUCCEEDED"
    assert one.ended is not None
    assert wms.one("3") is None
    assert wms.cancel("3") == (False, "no such run: 3")
    wms.ping()
    assert FakeWms(wms.home).workflows() == wms.list()
    assert log(wms) == [
        ("submit", "1", "done"),
        ("submit", "2", "done"),
        ("list", "", "2 workflows"),
        ("became", "1", "RUNNING"),
        ("cancel", "1", "done"),
        ("cancel", "1", "refused: run is DELETED"),
        ("restart", "1", "done"),
        ("became", "1", "SUCCEEDED"),
        ("restart", "1", "refused: run is SUCCEEDED"),
        ("one", "1", "SUCCEEDED"),
        ("one", "3", "unknown"),
        ("cancel", "3", "refused: no such run: 3"),
        ("ping", "", "done"),
        ("list", "", "2 workflows"),
    ]


def test_log_is_lines_of_json_with_who_and_when(wms: FakeWms) -> None:
    before = time.time()
    wms.submit(NAME, "/submit")
    (line,) = wms.log.read_text().splitlines()
    found = json.loads(line)
    assert (found["number"], found["pid"], found["name"]) == (1, os.getpid(), NAME)
    assert before <= found["time"] <= time.time()
    assert found["time"] >= wms.workflows()[0].submitted


def test_only_states_and_workflows_that_there_are_can_be_set(wms: FakeWms) -> None:
    wms.submit(NAME, "/submit")
    with pytest.raises(ValueError, match="no state of BPS"):
        wms.set("1", "DONE")
    with pytest.raises(KeyError):
        wms.set("2", "RUNNING")
    assert [each.state for each in wms.workflows()] == ["PENDING"]


@pytest.mark.parametrize(
    ("kind", "error", "made"),
    [
        ("error-before", RuntimeError, 0),
        ("lost-submit", RuntimeError, 0),
        ("done-but-error", RuntimeError, 1),
        ("done-but-timeout", TimeoutError, 1),
    ],
)
def test_submissions_that_fail(wms: FakeWms, kind: str, error: type[Exception], made: int) -> None:
    wms.script(Fault(kind, match="*.g0000.*"))
    wms.submit(OTHER, "/other")
    with pytest.raises(error):
        wms.submit(NAME, "/submit")
    assert [each.name for each in wms.list()] == [OTHER, NAME][: 1 + made]
    wms.submit(NAME, "/again")  # it is used up
    assert len(wms.workflows()) == 2 + made


def test_an_error_before_meets_the_check_alone(wms: FakeWms) -> None:
    wms.script(Fault("error-before", word="ConnectionError"), Fault("done-but-error"))
    with pytest.raises(ConnectionError):
        wms.check(NAME)
    wms.check(NAME)
    assert wms.workflows() == []


def test_a_call_that_hangs(wms: FakeWms, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    wms.script(Fault("done-but-timeout", seconds=30.0), Fault("slow", request="list", seconds=5.0))
    with pytest.raises(TimeoutError):
        wms.submit(NAME, "/submit")
    assert len(wms.list()) == 1
    assert slept == [30.0, 5.0]


@pytest.mark.parametrize("kind", ["late", "late-list"])
def test_a_workflow_that_is_seen_late(wms: FakeWms, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wms.script(Fault(kind, seconds=60.0))
    wms.submit(NAME, "/submit")
    assert wms.list() == []
    assert wms.one("1") is None
    assert wms.cancel("1")[0] is False
    assert [each.state for each in wms.workflows()] == ["PENDING"]
    # The clock of who asks may be ahead; the times in the log stay real.
    monkeypatch.setenv("CM_FAKE_CLOCK_AHEAD", "61")
    assert len(wms.list()) == 1
    assert wms.requests()[-1].time < time.time() + 1


def test_a_wms_that_is_down_still_takes_submissions(wms: FakeWms) -> None:
    wms.submit(NAME, "/submit")
    wms.script(Fault("down", times=5))
    for ask in (wms.list, wms.ping):
        with pytest.raises(ConnectionError):
            ask()
    for about in (wms.one, wms.cancel, wms.restart):
        with pytest.raises(ConnectionError):
            about("1")
    assert wms.submit(OTHER, "/other") == "2"
    assert [each.state for each in wms.list()] == ["PENDING", "PENDING"]


def test_faults_of_one_workflow_leave_the_list_alone(wms: FakeWms) -> None:
    wms.submit(NAME, "/submit")
    wms.submit(OTHER, "/other")
    wms.script(Fault("down", match=NAME, times=ALWAYS))
    assert len(wms.list()) == 2
    assert wms.one("2") is not None
    with pytest.raises(ConnectionError):
        wms.one("1")


def test_a_partial_list(wms: FakeWms) -> None:
    for number in range(200):
        wms.submit(f"camp.step1.here.g{number:04d}.a01", "/x")
    wms.script(Fault("partial", match="*.g00*", times=2, fraction=0.5))
    short = [each.name for each in wms.list()]
    assert 120 < len(short) < 180
    assert all(f"camp.step1.here.g{number:04d}.a01" in short for number in range(100, 200))
    assert wms.one("1") is not None
    assert [each.name for each in wms.list()] == short  # the same are left out
    assert len(wms.list()) == 200


def test_a_forgotten_workflow_stays_so(wms: FakeWms) -> None:
    wms.submit(NAME, "/submit")
    wms.submit(OTHER, "/other")
    wms.script(Fault("forget", match=NAME))
    assert [each.name for each in wms.list()] == [OTHER]
    wms.clear()
    assert wms.one("1") is None
    assert wms.cancel("1")[0] is False
    assert [(each.state, each.forgotten) for each in wms.workflows()] == [("PENDING", True), ("PENDING", False)]


def test_a_wrong_word(wms: FakeWms) -> None:
    wms.submit(NAME, "/submit")
    wms.submit(OTHER, "/other")
    wms.script(Fault("word", match=NAME, word="TRANSFERRING", times=2))
    assert [each.state for each in wms.list()] == ["TRANSFERRING", "PENDING"]
    one = wms.one("1")
    assert one is not None
    assert one.state == "TRANSFERRING"
    assert [each.state for each in wms.list()] == ["PENDING", "PENDING"]


def test_a_twin(wms: FakeWms) -> None:
    wms.script(Fault("twin"))
    assert wms.submit(NAME, "/submit") == "1"
    assert [(each.wms_id, each.name, each.submit_dir) for each in wms.list()] == [
        ("1", NAME, "/submit"),
        ("2", NAME, "/submit"),
    ]


def test_a_lost_cancel(wms: FakeWms) -> None:
    wms.submit(NAME, "/submit")
    wms.script(Fault("lost-cancel"))
    assert wms.cancel("1") == (True, "")
    assert wms.workflows()[0].state == "PENDING"
    assert wms.cancel("1") == (True, "")
    assert wms.workflows()[0].state == "DELETED"
    assert [outcome for kind, _, outcome in log(wms) if kind == "cancel"] == ["lost", "done"]


@pytest.mark.parametrize(("word", "made"), [("before", 0), ("after", 1), ("", 1)])
def test_the_caller_dies(wms: FakeWms, word: str, made: int) -> None:
    wms.script(Fault("die", word=word))
    process = begin(wms.home, f"wms.submit({NAME!r}, '/submit')")
    assert process.wait() == -signal.SIGKILL
    assert len(wms.workflows()) == made
    assert wms.requests()[0].pid == process.pid
    assert wms.requests()[0].wms_id == ("1" if made else "")
    wms.submit(NAME, "/again")
    assert len(wms.workflows()) == made + 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: Fault("dwon"),
        lambda: Fault("twin", request="list"),
        lambda: Fault("die", word="between"),
        lambda: Fault("down", word="NoSuchError"),
        lambda: Fault("error-before", word="print"),
    ],
)
def test_faults_that_make_no_sense_are_refused(make: Callable[[], Fault]) -> None:
    with pytest.raises(ValueError, match=r"\bno\b|\bnot\b"):
        make()


def test_a_line_without_its_effect_is_taken_back(wms: FakeWms) -> None:
    wms.submit(NAME, "/submit")
    with suppress(ZeroDivisionError), session.session(wms.home, wms.log) as work:
        work.write("submit", OTHER, work.insert(OTHER, "/other", "", "", "{}", late=0.0), "done")
        assert len(wms.log.read_text().splitlines()) == 2
        raise ZeroDivisionError
    assert [each.name for each in wms.requests()] == [NAME]
    wms.ping()
    assert [json.loads(line)["kind"] for line in wms.log.read_text().splitlines()] == ["submit", "ping"]


_HAMMER = """
number = 0
while True:
    number += 1
    wms_id = wms.submit(f"w{user}.{number}", "/submit")
    wms.list()
    wms.cancel(wms_id)
"""


def test_log_and_state_agree_though_users_are_killed_at_any_moment(tmp_path: Path) -> None:
    home = tmp_path / "wms"
    file = home / "requests.jsonl"
    chance = random.Random(4)
    for wave in range(8):
        users = [begin(home, f"user = {10 * wave + n}\n{_HAMMER}") for n in range(3)]
        lines = wave * 9  # of the first wave, all are killed at once: perhaps while the state is being made
        while wave and (not file.exists() or file.read_bytes().count(b"\n") < lines):
            assert users[0].poll() is None
            time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 0.1))
        for user in users:
            user.kill()
            user.wait()
    wms = FakeWms(home)
    wms.ping()
    requests, workflows = wms.requests(), wms.workflows()
    assert len(workflows) > 10
    assert [each.number for each in requests] == list(range(1, len(requests) + 1))
    assert [each.wms_id for each in requests if each.kind == "submit"] == [each.wms_id for each in workflows]
    done = {each.wms_id for each in requests if (each.kind, each.outcome) == ("cancel", "done")}
    assert done == {each.wms_id for each in workflows if each.state == "DELETED"}
    assert max(Counter(each.name for each in workflows).values()) == 1
    assert len(wms.log.read_text().splitlines()) == len(requests)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.builds(
            Fault,
            kind=st.sampled_from(sorted(set(KINDS) - {"die", "slow", "done-but-timeout", "word"})),
            times=st.integers(1, 3),
            match=st.sampled_from(["*", NAME, OTHER]),
        ),
        max_size=6,
    ),
    st.lists(st.sampled_from(["submit", "list", "one", "cancel", "restart", "ping"]), max_size=12),
)
def test_whatever_goes_wrong_log_and_truth_agree(
    tmp_path_factory: pytest.TempPathFactory, faults: list[Fault], requests: list[str]
) -> None:
    wms = FakeWms(tmp_path_factory.mktemp("wms"))
    wms.script(*faults)
    for request in requests:
        act = getattr(wms, request)
        words = {"submit": (NAME, "/submit"), "list": (), "ping": ()}.get(request, ("1",))
        with suppress(RuntimeError, ConnectionError):
            act(*words)
    submitted = [each.wms_id for each in wms.requests() if each.kind == "submit" and each.wms_id]
    assert submitted == [each.wms_id for each in wms.workflows()]
    assert len([each for each in wms.requests() if each.outcome != "done, as a twin"]) == len(requests)
    wms.clear()
    assert wms.submit(NAME, "/last") in [each.wms_id for each in wms.list()]


def test_it_needs_the_standard_library_alone(tmp_path: Path) -> None:
    assert begin(tmp_path, "wms.ping()").wait() == 0


def test_words_are_those_of_bps() -> None:
    from lsst.ctrl.bps import WmsStates

    assert set(STATES) == set(WmsStates.__members__)
    assert set(ENDED) < set(STATES)
    assert {request for requests in KINDS.values() for request in requests} == set(REQUESTS)
