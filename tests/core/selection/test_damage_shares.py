"""Shares of layers by the damage that each would do alone."""

from __future__ import annotations

import pytest

from secateur.core.selection import damage_shares
from secateur.core.selection.sensitivity_curves import Curve

INF = float("inf")


def curve(name: str, size: int, gone: list[int], loss: list[float]) -> Curve:
    return Curve(name, (name,), size, tuple(size - each for each in gone), tuple(loss))


def shares(goal: int, *curves: Curve, window: int = 1) -> list[int]:
    totals = {each.group: each.size for each in curves}
    return list(
        damage_shares.counts(goal, {c.group: c for c in curves}, totals, dict.fromkeys(totals, window)).values()
    )


STEEP, FLAT = curve("a", 101, [0, 50, 100], [1.0, 2.0, 4.0]), curve("b", 101, [0, 50, 100], [1.0, 1.5, 2.0])


def test_the_most_that_may_go_is_where_the_damage_is_reached() -> None:
    assert [STEEP.most_gone(damage) for damage in (-0.1, 0.0, 0.5, 1.0, 2.0, 3.0, 9.0)] == [0, 0, 25, 50, 75, 100, 100]
    for gone in range(101):
        assert STEEP.most_gone(STEEP.damage(gone)) == gone
    bumpy = curve("c", 11, [0, 5, 10], [1.0, 3.0, 2.0])  # a rise that falls again counts on
    assert [bumpy.most_gone(damage) for damage in (1.0, 2.0, 2.5)] == [2, 10, 10]


def test_layers_lose_as_much_as_does_the_same_damage() -> None:
    assert shares(75, STEEP, FLAT) == [25, 50]
    assert shares(150, STEEP, FLAT) == [50, 100]
    assert shares(175, STEEP, FLAT) == [75, 100]
    assert shares(675, STEEP, FLAT, window=9) == [25, 50]


@pytest.mark.parametrize("goal", [1, 13, 74, 99, 151, 180, 199, 200])
def test_the_goal_is_met_by_hardly_more_than_is_asked_for(goal: int) -> None:
    assert goal <= sum(shares(goal, STEEP, FLAT)) <= goal + 1


def test_what_can_go_for_nothing_goes_in_equal_shares() -> None:
    free, other = curve("a", 41, [0, 40], [1.0, 1.0]), curve("b", 81, [0, 80], [2.0, 1.0])
    assert shares(60, free, other) == [20, 40]
    costly = curve("c", 41, [0, 40], [1.0, 2.0])
    assert shares(40, free, costly) == [40, 0]
    assert shares(44, free, costly) == [40, 4]


def test_a_layer_that_breaks_down_goes_last_and_the_others_exactly() -> None:
    broken = curve("a", 41, [0, 20, 40], [1.0, 1.1, INF])
    assert shares(20 + 10, broken, curve("b", 101, [0, 100], [1.0, 2.0])) == [20, 10]
    assert shares(140, broken, curve("b", 101, [0, 100], [1.0, 2.0])) == [40, 100]
