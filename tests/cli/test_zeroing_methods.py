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


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("grain",), "--stem and --linear would"),
        (("grain", "--linear"), "--stem would"),
        (("kernel_pattern",), "--stem would"),
        (("random_masks",), "--stem and --linear would"),
        (("gradual",), "--stem would"),
        (("weight_magnitude", "--no-last"), "--last would"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_out_of_reach_names_what_lets_a_method_prune_more(secateur: Call, words: tuple[str, ...], names: str) -> None:
    done = secateur(
        "plan",
        "--model",
        "nets.py:small",
        "--data",
        "mnist5k",
        "--of",
        "nonzero",
        "--keep",
        "0.001",
        "--method",
        *words,
    )
    assert done.status == 1
    assert names in done.said + done.err
