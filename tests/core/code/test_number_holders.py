from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from secateur.core.code.number_holders import held_by, renewed


class Pair(NamedTuple):
    one: int
    two: int


def total(*numbers: int, more: int = 0) -> int:
    return sum(numbers) + more


def adding(number: int) -> Any:
    def add(other: int = 1, *, times: int = 1) -> int:
        """Add."""
        return (number + other) * times

    add.mark = "kept"  # pyright: ignore
    return add


@pytest.mark.parametrize(
    ("value", "path", "expected"),
    [
        ([1, (2, 3)], (1, 0), [1, (9, 3)]),
        ({"a": {"b": 1}}, ("a", "b"), {"a": {"b": 9}}),
        (Pair(1, 2), (1,), Pair(1, 9)),
        (SimpleNamespace(a=[1]), ("a", 0), SimpleNamespace(a=[9])),
    ],
)
def test_containers_are_made_anew(value: Any, path: Any, expected: Any) -> None:
    before = repr(value)
    found = renewed(value, path, 9)
    assert found == expected
    assert type(found) is type(value)
    assert repr(value) == before


def test_partial_functions_are_made_anew() -> None:
    given = functools.partial(total, 1, 2, more=3)
    assert renewed(given, ("args", 1), 9)() == 13
    assert renewed(given, ("keywords", "more"), 9)() == 12
    assert given() == 6


def test_closures_are_made_anew_with_all_that_belongs_to_them() -> None:
    given = adding(5)
    found = renewed(given, (0,), 9)
    assert (found(), found(2, times=2), given()) == (10, 22, 6)
    assert (found.__qualname__, found.__doc__, found.mark) == (given.__qualname__, "Add.", "kept")


def test_nothing_else_holds_anything() -> None:
    assert [list(held_by(value)) for value in (1, "text", object(), total)] == [[], [], [], []]
