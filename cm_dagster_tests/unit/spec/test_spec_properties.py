"""Random campaigns and random damage."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cm_dagster.errors import Fault, SpecError
from cm_dagster.spec import CampaignSpec, diff, load_campaign
from cm_dagster.spec.fields import _TAKEN
from cm_dagster.spec.steps import merge

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,8}", fullmatch=True).filter(lambda name: not _TAKEN.fullmatch(name))
TEXT = st.text(max_size=20)
WHERE = st.sampled_from(["", "visit > 3", "instrument='HSC' AND (tract = 1 OR band IN ('g', 'r'))"])
COLLECTIONS = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,6}(/[A-Za-z0-9_]{1,6}){0,2}", fullmatch=True)
BPS = st.fixed_dictionaries(
    {},
    optional={
        "requestMemory": st.integers(1, 10**6),
        "queue": TEXT,
        "saveDot": st.booleans(),
        "environment": st.dictionaries(NAMES, TEXT, max_size=2),
        "pipetask": st.dictionaries(NAMES, st.fixed_dictionaries({"requestCpus": st.integers(1, 9)}), max_size=2),
    },
)
RULES = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["a", "b-c", "d1"]), "action": st.sampled_from(["retry", "accept", "stop-step"])},
        optional={
            "task": NAMES | st.lists(NAMES, max_size=2),
            "exit": st.integers(-9, 255) | st.lists(st.integers(1, 9), max_size=2),
            "text": st.sampled_from(["no stars", "^x|y$"]),
            "min_done": st.floats(0, 1),
            "passive": st.booleans(),
        },
    ),
    max_size=3,
    unique_by=lambda rule: str(rule["name"]),
)
SETTINGS: dict[str, st.SearchStrategy[Any]] = {
    "rules": RULES,
    "accept": st.fixed_dictionaries(
        {},
        optional={
            "quanta": st.floats(0, 1),
            "per_task": st.dictionaries(
                NAMES | st.sampled_from(["*", "calibrate*", "i?r"]), st.floats(0, 1), max_size=2
            ),
        },
    ),
    "retry": st.fixed_dictionaries({}, optional={"max": st.integers(0, 5)}),
    "requirements": st.dictionaries(NAMES, st.just("all") | st.integers(0, 9), max_size=2),
    "scouts": st.integers(0, 3),
    "barrier": st.just("all"),
    "bps": BPS,
}
VALUES = st.lists(st.integers(0, 99) | st.sampled_from(["1..5", "r", "HSC-R", "7 .. 7"]), min_size=1, unique_by=str)
GROUP_BY = st.one_of(
    st.fixed_dictionaries({"dimension": st.just("visit")}, optional={"dataset": NAMES, "size": st.integers(1, 9)}),
    st.fixed_dictionaries({"dimension": st.just("band"), "values": VALUES}, optional={"count": st.integers(1, 9)}),
)


SHARE = st.floats(0.1, 9) | st.fixed_dictionaries({"share": st.floats(0.1, 9)})
SITES = st.dictionaries(NAMES, SHARE | st.just({"where": "visit > 3"}), min_size=1, max_size=3).filter(
    lambda sites: any(isinstance(site, float) or "share" in site for site in sites.values())
)


@st.composite
def contents(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the content of a campaign file."""
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique_by=str.lower))
    steps = {}
    for place, name in enumerate(draw(st.permutations(names))):
        needs = draw(st.lists(st.sampled_from(names[:place]), unique=True)) if place else []
        needs = [other for other in needs if other in steps]
        optional = SETTINGS | {"group_by": GROUP_BY, "where": WHERE.filter(bool), "gate": st.just("sign-off")}
        step = draw(st.fixed_dictionaries({"pipeline": st.sampled_from(["#a", "/p/q.yaml"])}, optional=optional))
        steps[name] = step | {"needs": needs}
    return {
        "campaign": draw(NAMES),
        "description": draw(TEXT),
        "butler": {"input": draw(st.lists(COLLECTIONS, min_size=1, max_size=3, unique=True)), "output": "u/o"},
        "pipeline": "p.yaml",
        "sites": draw(NAMES | SITES),
        "bps": draw(BPS),
        "defaults": draw(st.fixed_dictionaries({}, optional=SETTINGS)),
        "steps": dict(draw(st.permutations(list(steps.items())))),
    }


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spec") / "campaign.yaml"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(content=contents())
def test_a_campaign_survives_file_and_storage(file: Path, content: dict[str, Any]) -> None:
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    loaded = load_campaign(file)
    assert loaded == CampaignSpec.model_validate(content)
    stored = json.loads(json.dumps(loaded.model_dump(mode="json")))
    again = CampaignSpec.model_validate(stored)
    assert again == loaded
    assert list(again.steps) == list(content["steps"])
    assert [again.settings(step) for step in again.steps] == [loaded.settings(step) for step in loaded.steps]
    assert diff(loaded, again) == []


@settings(max_examples=100, deadline=None)
@given(content=contents())
def test_order_is_topological_and_stable(content: dict[str, Any]) -> None:
    spec = CampaignSpec.model_validate(content)
    order = spec.order()
    assert sorted(order) == sorted(spec.steps)
    place = {step: index for index, step in enumerate(order)}
    in_file = list(spec.steps)
    for step in order:
        assert all(place[need] < place[step] for need in spec.steps[step].needs)
        assert set(spec.ancestors(step)) == _closure(spec, step)
        # A step lets later ones pass only while something that it needs still has to come.
        passed = [other for other in in_file[: in_file.index(step)] if place[other] > place[step]]
        assert all(any(place[need] >= place[step] for need in spec.ancestors(other)) for other in passed)


def _closure(spec: CampaignSpec, step: str) -> set[str]:
    needs = spec.steps[step].needs
    return set(needs).union(*(_closure(spec, need) for need in needs))


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the paths of all values below the top."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, content in inner for found in ((*path, key), *_paths(content, (*path, key)))]


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["'", '"', "visit =", "(", "#", "..", "{x}", "\\", "\n", "../..", "a" * 300]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3) | st.integers(), st.integers(), max_size=2),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(content=contents(), data=st.data())
def test_damage_gives_a_spec_error_or_nothing(file: Path, content: dict[str, Any], data: st.DataObject) -> None:
    damaged = copy.deepcopy(content)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(_paths(damaged) or [()]))
        holder: Any = damaged
        for part in path[:-1]:
            holder = holder[part]
        if not path:
            break
        match data.draw(st.sampled_from(["delete", "rename", "retype"])):
            case "delete":
                del holder[path[-1]]
            case "rename" if isinstance(holder, dict):
                holder[data.draw(st.text(max_size=8))] = holder.pop(path[-1])
            case _:
                holder[path[-1]] = data.draw(JUNK)
    file.write_text(yaml.safe_dump(damaged, sort_keys=False, allow_unicode=True))
    faults = _faults(file)
    assert faults is None or (faults and all(fault.message and fault.line for fault in faults))


def _faults(file: Path) -> list[Fault] | None:
    """Load a file and give its faults; None if it is right."""
    try:
        load_campaign(file)
    except SpecError as error:
        return error.faults
    return None


@settings(max_examples=150, deadline=None)
@given(text=st.text(alphabet=st.sampled_from("ab: -#{}[]&*!|>'\"%@`,?\n\t0.~<"), max_size=60))
def test_any_text_gives_a_spec_error(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(SpecError):
        load_campaign(file)


TREES = st.recursive(
    st.integers(0, 3), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8
).filter(lambda tree: isinstance(tree, dict))


@given(below=TREES, above=TREES)
def test_merging_keeps_the_upper_layer_whole(below: Any, above: Any) -> None:
    merged = merge(below, above)
    assert merge(merged, above) == merged
    assert merged.keys() == below.keys() | above.keys()
    assert merge(below) == below
    assert all(merged[key] == value for key, value in above.items() if not isinstance(value, dict))
