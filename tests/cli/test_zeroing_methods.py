"""Methods that choose zeros, from the command line."""

from __future__ import annotations

import pytest

from commands import Call


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (("grain", "--grain", "row", "--keep", "0.7", "--linear"), "4 bits for the index of each row"),
        (("kernel_pattern", "--keep", "0.9", "--patterns", "4"), "in one of at most 4 patterns, which 2 bits name"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_the_plan_says_what_is_left(secateur: Call, words: tuple[str, ...], note: str) -> None:
    done = secateur("plan", "--model", "nets.py:small", "--data", "mnist5k", "--of", "nonzero", "--method", *words)
    assert done.status == 0, done.err
    assert note in done.said
