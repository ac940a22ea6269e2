"""Names are the same for everybody, sort as places do, and are never shared."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm_dagster.plan.names import (
    NAME,
    AttemptId,
    StepId,
    group_folder,
    group_name,
    lane_name,
    part_names,
    site_output,
    step_input,
    step_output,
)

AREA = Path("/area")
OUTPUT = "u/camp"
NAMES = st.from_regex(NAME, fullmatch=True).filter(lambda name: "__" not in name)
# Few and alike, so that what is put together differently would meet.
ALIKE = st.sampled_from(["a", "b", "a_b", "b_a", "a1", "ab", "A", "g1"])
STEPS = st.builds(StepId, ALIKE, ALIKE, ALIKE)
WHOLE = st.builds(group_name, st.integers(0, 20_000), st.sampled_from([1, 9_999, 20_001]))
GROUPS = st.builds(lambda whole, letters: whole + letters, WHOLE, st.sampled_from(["", "a", "b", "ab"]))
ATTEMPTS = st.builds(AttemptId, st.builds(StepId, ALIKE, ALIKE, st.just("x")), GROUPS, st.integers(1, 120))


@given(ATTEMPTS)
def test_an_attempt_is_read_back_from_the_name_of_its_workflow(attempt: AttemptId) -> None:
    assert AttemptId.from_workflow(attempt.workflow) == attempt


@pytest.mark.parametrize(
    "name", ["", "a.b.c.g0001", "u_smith_20261123T000000Z", "a.b.c.x0001.a01", "a.b.c.g0001.a01.x"]
)
def test_the_name_of_a_workflow_of_others_is_none(name: str) -> None:
    with pytest.raises(ValueError, match=r"CAMPAIGN\.STEP"):
        AttemptId.from_workflow(name)


@given(ATTEMPTS, st.sampled_from([OUTPUT, "u", "HSC/runs/RC2/w.43"]))
def test_an_attempt_is_read_back_from_the_name_of_its_run(attempt: AttemptId, output: str) -> None:
    campaign, site = attempt.step.campaign, attempt.step.site
    assert AttemptId.from_run(attempt.run(output), campaign=campaign, output=output, site=site) == attempt


@pytest.mark.parametrize(
    "name",
    [
        "u/camp/step1/g0001/a01",
        "u/camp/step1/g0001/a00/run",
        "u/camp/step1/g0001/a01/run/x",
        "u/camp/x/step1/g0001/a01/run",
        "u/camp2/step1/g0001/a01/run",
        "u/campstep1/g0001/a01/run",
        "step1/g0001/a01/run",
    ],
)
def test_the_name_of_a_collection_of_others_is_none(name: str) -> None:
    with pytest.raises(ValueError, match=r"/STEP/GROUP|not a group"):
        AttemptId.from_run(name, campaign="camp", output=OUTPUT, site="here")


@given(st.builds(StepId, NAMES, NAMES, NAMES))
def test_a_step_is_read_back_from_its_tag(step: StepId) -> None:
    assert StepId.from_tag(step.tag) == step
    assert step.asset == tuple(step.tag.split("/"))
    assert re.fullmatch(r"[A-Za-z0-9_]+", step.job)


@pytest.mark.parametrize(
    "tag", ["", "a/b", "a/b/c/d", "a//c", "/b/c", "a/b/c ", "a/b/c\n", "1a/b/c", "a/b.c/d", "ä/b/c", "a/b/" + "c" * 61]
)
def test_what_is_no_tag_of_a_step(tag: str) -> None:
    with pytest.raises(ValueError, match="is not campaign/step/site"):
        StepId.from_tag(tag)


@given(total=st.integers(1, 1_000_000), data=st.data())
def test_names_of_groups_sort_as_places(total: int, data: st.DataObject) -> None:
    places = sorted(data.draw(st.sets(st.integers(0, total - 1), min_size=1, max_size=20)))
    names = [group_name(place, total) for place in places]
    assert sorted(names) == names
    assert len(set(names)) == len(places)
    assert [int(name[1:]) for name in names] == places
    assert len({len(name) for name in names}) == 1


def test_names_of_groups() -> None:
    assert group_name(7, 10) == "g0007"
    assert group_name(9_999, 10_000) == "g9999"
    assert group_name(7, 10_001) == "g00007"


LANES = st.tuples(st.integers(0, 30), st.sampled_from([1, 9_999, 10_000, 10_001, 99_999, 100_001, 10**7]))


@given(one=LANES, other=LANES, data=st.data())
def test_lanes_share_no_name_however_large_they_are(
    one: tuple[int, int], other: tuple[int, int], data: st.DataObject
) -> None:
    names = []
    for lane, total in (one, other):
        place = data.draw(st.integers(0, total - 1))
        names.append((lane_name(place, total, lane), lane, place, total))
        assert AttemptId(StepId("c", "s", "x"), names[-1][0], 1)
        assert names[-1][0][1:].isdecimal()  # letters are of parts of a group
    (first, *its), (second, *theirs) = names
    assert first != second or its[:2] == theirs[:2]


def test_all_names_of_some_lanes_differ() -> None:
    sizes = {0: 10_001, 1: 10_000, 2: 10, 3: 100_001, 9: 10_000, 10: 500, 19: 10}
    names = [lane_name(place, size, lane) for lane, size in sizes.items() for place in range(size)]
    assert len(set(names)) == len(names)


@given(lane=st.integers(0, 30), total=st.integers(1, 1_000_000), data=st.data())
def test_names_of_a_lane_sort_as_places(lane: int, total: int, data: st.DataObject) -> None:
    places = sorted(data.draw(st.sets(st.integers(0, total - 1), min_size=1, max_size=20)))
    names = [lane_name(place, total, lane) for place in places]
    assert sorted(names) == names
    assert len(set(names)) == len(places)


def test_names_of_lanes() -> None:
    assert [lane_name(7, 10_000, lane) for lane in (0, 1, 8, 9, 10, 18)] == [
        "g0007",
        "g10007",
        "g80007",
        "g900007",
        "g910007",
        "g9900007",
    ]
    assert lane_name(7, 10_001, 0) == "g000007"


@given(places=st.sets(st.integers(0, 99), min_size=2, max_size=6), data=st.data())
def test_parts_of_a_group_sort_in_its_place(places: set[int], data: st.DataObject) -> None:
    names = [group_name(place, 100) for place in sorted(places)]
    for _ in range(3):
        name = data.draw(st.sampled_from(names))
        place = names.index(name)
        names[place : place + 1] = part_names(name, data.draw(st.integers(2, 26)))
    assert sorted(names) == names
    assert len(set(names)) == len(names)
    assert all(AttemptId(StepId("c", "s", "x"), name, 1) for name in names)


@pytest.mark.parametrize(
    "group", ["", "g1", "g001", "0007", "g0007 ", "g0007/a", "x0007", "G0007", "g\u0660\u0660\u0660\u0667"]
)
def test_what_is_no_group(group: str) -> None:
    with pytest.raises(ValueError, match="not a group"):
        AttemptId(StepId("c", "s", "x"), group, 1)


@pytest.mark.parametrize("number", [0, -1])
def test_what_is_no_number(number: int) -> None:
    with pytest.raises(ValueError, match="attempt number"):
        AttemptId(StepId("c", "s", "x"), "g0000", number)


@given(one=ATTEMPTS, other=ATTEMPTS)
def test_two_attempts_share_no_name(one: AttemptId, other: AttemptId) -> None:
    same_group = (one.step, one.group) == (other.step, other.group)
    assert (one.workflow == other.workflow) == (one == other)
    assert (one.folder(AREA) == other.folder(AREA)) == (one == other)
    assert (group_folder(AREA, one.step, one.group) == group_folder(AREA, other.step, other.group)) == same_group
    # Each campaign has an output of its own.
    outputs = [f"u/{each.step.campaign}" for each in (one, other)]
    assert (one.run(outputs[0]) == other.run(outputs[1])) == (one == other)
    assert (one.output(outputs[0]) == other.output(outputs[1])) == (one == other)


@given(one=STEPS, other=STEPS)
def test_two_steps_share_no_name(one: StepId, other: StepId) -> None:
    assert (one.tag == other.tag) == (one.job == other.job) == (one.asset == other.asset) == (one == other)


@given(attempt=ATTEMPTS)
def test_collections_of_steps_and_attempts_do_not_meet(attempt: AttemptId) -> None:
    step = attempt.step
    chains = [
        OUTPUT,
        step_output(OUTPUT, step.step),
        step_input(OUTPUT, step.step),
        site_output(OUTPUT, step),
        attempt.output(OUTPUT),
        attempt.run(OUTPUT),
    ]
    assert len(set(chains)) == len(chains)
    assert all(name.startswith(OUTPUT) for name in chains)


@given(attempts=st.lists(ATTEMPTS.filter(lambda a: a.number < 100), max_size=6))
def test_workflows_of_a_group_sort_by_attempt(attempts: list[AttemptId]) -> None:
    one = StepId("c", "s", "x")
    mine = [AttemptId(one, "g0001", attempt.number) for attempt in attempts]
    assert sorted(mine) == sorted(mine, key=lambda attempt: attempt.workflow)


@given(campaign=NAMES, step=NAMES, site=NAMES, number=st.integers(1, 999))
def test_names_are_bounded_and_plain(campaign: str, step: str, site: str, number: int) -> None:
    attempt = AttemptId(StepId(campaign, step, site), "g0000000", number)
    assert len(attempt.workflow) <= 200  # file names of the submit directory end on it, and get at most 255 bytes
    assert re.fullmatch(r"[A-Za-z0-9_.]+", attempt.workflow)
    assert re.fullmatch(r"[A-Za-z0-9_/]+", attempt.run(OUTPUT))
    assert len(attempt.step.job) <= 200
    assert AREA in attempt.folder(AREA).parents
