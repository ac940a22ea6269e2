"""Why a group waits: what would have to change first comes first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cm_dagster.policy.holds import Hold, HoldKind
from cm_dagster.policy.why import Turn, why_waiting

ALL = Turn(
    group="g0005",
    not_started="the campaign is not started",
    waits="waits: the disk is full",
    holds=[Hold(HoldKind.SCOUTS, "waits for its scouts g0000 (running)", frozenset({"g0000"}))],
    site_full="site local: 5 of at most 5 groups are in flight",
    campaign_full="campaign rc2: 2 of at most 2 groups are in flight",
    ahead=12,
)


@pytest.mark.parametrize(
    ("gone", "reason"),
    [
        ((), "the campaign is not started"),
        (("not_started",), "waits for its scouts g0000 (running)"),
        (("not_started", "holds"), "waits: the disk is full"),
        (("not_started", "holds", "waits"), "site local: 5 of at most 5 groups are in flight"),
        (("not_started", "holds", "waits", "site_full"), "campaign rc2: 2 of at most 2 groups are in flight"),
    ],
)
def test_what_matters_first_is_said(gone: tuple[str, ...], reason: str) -> None:
    assert why_waiting(replace(ALL, **dict.fromkeys(gone, ""))) == reason  # type: ignore[arg-type]


def test_a_turn_that_comes() -> None:
    free = Turn("g0005")
    assert why_waiting(replace(free, goes=True)) == "it goes with the next ticks"
    assert why_waiting(replace(free, ahead=2)) == ("there is not room for all: 2 groups of its campaign go before it")
    assert why_waiting(replace(free, ahead=1)).endswith("1 group of its campaign goes before it")
    assert why_waiting(free) == "other campaigns come before it"


def test_scouts_and_what_a_person_launches_singly_are_not_held() -> None:
    held = Turn("g0000", holds=ALL.holds, goes=True)
    assert why_waiting(held) == "it goes with the next ticks"
    assert why_waiting(replace(held, group="g0005", singly=True)) == "it goes with the next ticks"
