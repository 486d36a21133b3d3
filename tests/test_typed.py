"""Annotations become rules, and what says the same in another type becomes plain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import pytest

from secateur.rules import LARGEST
from secateur.typed import of_type

HUGE = 10**400


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (int, [0, -3, LARGEST], [0.5, True, "1", math.nan, [], None, LARGEST + 1, HUGE]),
        (float, [0, 0.5], [math.nan, math.inf, True, "1", None]),
        (str, ["", "a"], [1, ["a"], None]),
        (bool, [True, False], [1, "false", None]),
        (Literal["a", 1], ["a", 1], [True, 1.0, "b", ["a"], None]),
        (float | None, [None, 1], ["1", []]),
        (int | str, [1, "a"], [0.5, None]),
        (Sequence[str], ["a", (), ["a", "b"], ("a",)], [1, [1], {"a": 1}, None]),
        (tuple[int, ...], [(), [1]], ["12", [0.5]]),
        (Sequence[tuple[str, float]], [(), [["a", 0.5]], (("a", 1),), {"a": 1}], ["ab", ["ab"], [["a"]], {"a": "b"}]),
        (Mapping[str, int], [{}, {"a": 1}], [{"a": 0.5}, {1: 1}, 3]),
        (object, [None, 1, "a"], []),
    ],
)
def test_types_become_rules(hint: object, good: list[object], bad: list[object]) -> None:
    rule = of_type(hint)
    assert all(rule.accepts(rule.plain(value)) for value in good)
    assert not any(rule.accepts(rule.plain(value)) for value in bad)
