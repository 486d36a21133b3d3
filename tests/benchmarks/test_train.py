"""The benchmark of training tells a loop that has become slower from noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import train

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "train.json"


def numbers(median: float, iqr: float) -> dict[str, Any]:
    return {"ratios": {"fit / bare": {"median": median, "iqr": iqr}}}


@pytest.mark.parametrize(
    ("median", "iqr", "fails"),
    [
        (1.0, 0.0, False),
        (0.89, 0.0, False),
        (0.87, 0.0, True),
        (0.87, 0.04, False),
        (0.5, 0.1, True),
        (1.2, 0.0, False),
    ],
)
def test_a_fall_by_more_than_a_tenth_and_the_noise_fails(median: float, iqr: float, fails: bool):
    fall = train.fallen(numbers(median, iqr), numbers(1.0, 0.04))
    assert bool(fall) == fails
    assert not fails or f"was 1.000 and is {median:.3f}" in fall


def test_what_was_measured_is_no_fall_to_itself_and_half_of_it_is_one():
    earlier = json.loads(RESULTS.read_text("utf-8"))
    assert train.fallen(earlier, earlier) == ""
    ratio = earlier["ratios"]["fit / bare"]
    assert train.fallen(numbers(ratio["median"] / 2, ratio["iqr"]), earlier)
