"""In what an attempt differs from a plain one travels with its number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm_dagster.plan.recipe import Recipe

RECIPES = st.builds(
    Recipe,
    st.lists(st.integers(1, 99), max_size=5).map(tuple),
    st.integers(0, 10**6),
    st.dictionaries(st.sampled_from(["pipetask/isr", "cluster/visit", "finalJob"]), st.integers(1, 10**6)),
)


@given(recipe=RECIPES, number=st.integers(1, 99))
def test_it_is_read_back_for_its_own_attempt_alone(recipe: Recipe, number: int) -> None:
    text = recipe.dump(number)
    assert Recipe.load(text, number) == recipe
    assert Recipe.load(text, number + 1) == Recipe()
    assert len(text) < 2700  # of a tag PostgreSQL indexes no more


def test_a_plain_attempt_needs_no_tag() -> None:
    assert Recipe().dump(1) == ""
    assert Recipe.load("", 1) == Recipe()


def test_too_much_is_refused() -> None:
    with pytest.raises(ValueError, match="too much"):
        Recipe(memory={f"pipetask/{'x' * 40}{number}": 4096 for number in range(60)}).dump(1)


def test_more_memory_is_added_to_what_was_asked_for() -> None:
    recipe = Recipe((1,), 7, {"pipetask/isr": 1, "pipetask/x": 2}).with_memory({"pipetask/isr": 4})
    assert recipe == Recipe((1,), 7, {"pipetask/isr": 4, "pipetask/x": 2})
