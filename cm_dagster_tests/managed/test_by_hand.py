"""What a pilot decides about groups, on the real WMS and the real Butler, and what is in the campaign's output then."""

from __future__ import annotations

from contextlib import suppress

import pytest
from lsst.daf.butler import Butler, MissingCollectionError

from cm_dagster_tests.managed.conftest import Managed, at, done, make, wait
from cm_dagster_tests.system.rig import Case

_PARTIAL, _WRONG, _LARGE, _LATER, _GOOD = (f"g{number:04d}" for number in range(5))
_FAULTS = [
    {**at(1, "no stars"), "task": "calibrateImage", "where": "visit=1"},
    at(5, "exceeded its time"),
]
"""The first visit of `_PARTIAL` has no calexp, the first one of `_LARGE` nothing; nobody tries them again."""


@pytest.fixture(scope="module")
def hands(managed: Managed) -> Case:
    """A campaign of which one group was held before it began, while all others have ended."""
    case = make(managed.rig, "hands", _FAULTS, groups=5, retry={"max": 0})
    case.make_groups()
    _do(case, "hold", _LATER)
    case.start()
    wait("an end", lambda: case.count() == {"accepted": 2, "failed": 2, "held": 1})
    return case


def _do(case: Case, verb: str, *words: str, code: int = 0) -> str:
    said = case.rig.program(
        "cm", "group", verb, case.name, "step1", *words, "--reason", "it is better", "--user", "ada", code=code
    )
    return " ".join(said.split())


def _chained(case: Case) -> list[str]:
    """Collections in the chain of the step, which the first accepted group makes."""
    with Butler.from_config(str(case.rig.survey.root)) as butler, suppress(MissingCollectionError):
        return list(butler.collections.get_info(f"u/test/{case.name}/step1/at/local").children)
    return []


def _run(group: str, number: int = 1) -> str:
    return f"u/test/hands/step1/{group}/a{number:02d}/run"


def test_groups_are_dealt_with_by_hand_and_the_output_is_what_was_decided(hands: Case) -> None:
    wait("the good ones", lambda: _chained(hands) == [_run(_WRONG), _run(_GOOD)])
    assert "is accepted" in _do(hands, "accept", _GOOD, code=1)
    _do(hands, "accept", _PARTIAL)
    wait("the accepted one", lambda: _run(_PARTIAL) in _chained(hands))
    _do(hands, "reject", _WRONG)
    wait("the rejected one", lambda: _run(_WRONG) not in _chained(hands))
    assert hands.submitted() == {f"{group}.a01": 1 for group in (_PARTIAL, _WRONG, _LARGE, _GOOD)}
    hands.set_faults([])
    _do(hands, "split", _LARGE)
    _do(hands, "retry", _WRONG)
    _do(hands, "release", _LATER)
    done(hands)
    parts = [f"{_LARGE}a", f"{_LARGE}b"]
    again = {f"{group}.a01": 1 for group in (_LATER, *parts)} | {f"{_WRONG}.a02": 1}
    first = {f"{group}.a01": 1 for group in (_PARTIAL, _WRONG, _LARGE, _GOOD)}
    assert hands.submitted() == {**first, **again}
    wanted = {_run(_PARTIAL), _run(_WRONG, 2), _run(_LATER), _run(_GOOD), *map(_run, parts)}
    with Butler.from_config(str(hands.rig.survey.root)) as butler:
        output = f"u/test/{hands.name}/step1"
        assert set(butler.collections.get_info(output).children) == wanted
        assert len(butler.query_datasets("calexp", output, limit=None)) == 2 * 5 - 1
    assert "ada" in hands.rig.program("cm", "group", "show", hands.name, "step1", _PARTIAL)
