from __future__ import annotations

import math

import pytest

from secateur.measure.confidence_interval import differs, median_interval


def test_the_interval_of_eleven_values_is_from_the_second_to_the_tenth() -> None:
    # 2 * P(at most 1 of 11 below the median) = 2 * (1 + 11) / 2**11 = 0.012, and 2 * (1 + 11 + 55) / 2**11 = 0.065
    values = [1.9, 2.0, 2.1, 2.2, 2.3, 2.4, 2.5, 2.6, 2.7, 2.8, 90.0]
    assert median_interval(values[::-1]) == (2.0, 2.8)
    assert median_interval(values, 0.99) == (1.9, 90.0)
    assert median_interval(values, 0.9) == (2.1, 2.7)


@pytest.mark.parametrize(("count", "known"), [(0, False), (1, False), (5, False), (6, True)])
def test_few_values_say_nothing(count: int, known: bool) -> None:
    # of 5, all lie on one side of the median with a probability of 2 / 2**5 = 6 %
    values = [float(number) for number in range(1, count + 1)]
    assert median_interval(values) == ((1.0, 6.0) if known else (0.0, math.inf))


@pytest.mark.parametrize(
    ("ratio", "low", "high", "expected"),
    [
        (1.5, 1.4, 1.6, True),
        (0.5, 0.4, 0.6, True),
        (1.5, 0.9, 1.6, False),
        (1.0, 1.0, 1.0, False),
        (1.005, 1.004, 1.006, False),  # where a network lies in memory makes as much
        (0.995, 0.994, 0.996, False),
        (2.0, 0.0, math.inf, False),
    ],
)
def test_a_difference_is_one_only_outside_the_noise(ratio: float, low: float, high: float, expected: bool) -> None:
    assert differs(ratio, low, high) is expected
