"""Fault rules of the mini pipeline: which quanta they are about, and how often they strike."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lsst.pipe.base import NoWorkFound
from pydantic import ValidationError

from cm_dagster.local.minidrp.faults import FAULTS, STATE, Fault, load_faults, strike

ID = {"instrument": "HSC", "visit": 903334, "detector": 16}


@pytest.mark.parametrize(
    ("where", "matches"),
    [
        ("", True),
        ("visit=903334", True),
        ("visit = 903334 AND detector = 16", True),
        ("instrument='HSC' AND visit=903334", True),
        ("visit=903334 AND detector=17", False),
        ("visit=90333", False),
        ("patch=16", False),
    ],
)
def test_where(where: str, matches: bool) -> None:
    assert Fault(action="exit", where=where).matches("isr", ID) is matches


def test_task() -> None:
    assert Fault(action="exit", task="isr").matches("isr", ID)
    assert not Fault(action="exit", task="isr").matches("makeWarp", ID)


@given(st.dictionaries(st.from_regex(r"\A[a-z]{1,8}\Z"), st.integers(), min_size=1))
def test_a_quantum_matches_its_own_data_id_and_no_other(data_id: dict[str, int]) -> None:
    where = " AND ".join(f"{name}={value}" for name, value in data_id.items())
    fault = Fault(action="exit", where=where)
    assert fault.matches("isr", data_id)
    name = next(iter(data_id))
    assert not fault.matches("isr", data_id | {name: data_id[name] + 1})


@pytest.mark.parametrize(
    "rule", [{"action": "rais"}, {"action": "exit", "wher": ""}, {"action": "exit", "where": "a>1"}]
)
def test_bad_rules(rule: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Fault.model_validate(rule)


def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *rules: dict[str, object]) -> None:
    path, draft = tmp_path / "faults.json", tmp_path / "draft"
    draft.write_text(json.dumps(rules))
    draft.replace(path)  # whole, whoever reads it meanwhile
    monkeypatch.setenv(FAULTS, str(path))


def test_times_are_counted_per_quantum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STATE, str(tmp_path / "state"))
    rule = {"action": "raise", "exception": "builtins.KeyError", "message": "m", "times": 2, "where": "visit=1"}
    write(tmp_path, monkeypatch, rule)
    struck = []
    for data_id in ({"visit": 1, "detector": 0}, {"visit": 1, "detector": 1}, {"visit": 2, "detector": 0}):
        struck.append(0)
        for _ in range(4):
            try:
                strike("isr", data_id)
            except KeyError:
                struck[-1] += 1
    assert struck == [2, 2, 0]


def test_nowork_and_partial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, monkeypatch, {"action": "nowork", "task": "a"}, {"action": "partial", "keep": ["x"], "task": "b"})
    with pytest.raises(NoWorkFound):
        strike("a", ID)
    assert strike("b", ID) == frozenset({"x"})
    assert strike("c", ID) is None


def test_wait_ends_when_its_rule_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, monkeypatch, {"action": "wait", "where": "visit=1"})
    quantum = threading.Thread(target=strike, args=("isr", {"visit": 1}))
    quantum.start()
    quantum.join(0.5)
    assert quantum.is_alive()
    write(tmp_path, monkeypatch, {"action": "wait", "where": "visit=2"})
    quantum.join(60)
    assert not quantum.is_alive()


def test_no_file_no_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FAULTS, raising=False)
    assert load_faults() == []
    monkeypatch.setenv(FAULTS, str(tmp_path / "absent.json"))
    assert load_faults() == []
