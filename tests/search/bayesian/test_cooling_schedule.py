"""The values of the authors' code for 238 ms to 80 ms in five rounds."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import SettingError
from secateur.search.bayesian.cooling_schedule import Cooling, cooled

GOLDEN: dict[Cooling, list[float]] = {
    "exponential": [162.9, 125.2, 102.3, 88.4, 80.0],
    "linear": [206.4, 174.8, 143.2, 111.6, 80.0],
    "none": [80.0] * 5,
}


@pytest.mark.parametrize("kind", GOLDEN)
def test_published_values(kind: Cooling) -> None:
    assert [round(cooled(238, 80, t, 5, kind), 1) for t in range(5)] == GOLDEN[kind]


@given(st.floats(0.01, 0.99), st.integers(1, 12), st.sampled_from(sorted(GOLDEN)))
def test_it_falls_to_the_end_and_never_below(end: float, rounds: int, kind: Cooling) -> None:
    course = [cooled(1.0, end, t, rounds, kind) for t in range(rounds)]
    assert course[-1] == end
    assert all(1.0 >= a >= b >= end - 1e-12 for a, b in itertools.pairwise(course))


def test_bad_kinds_and_rounds() -> None:
    with pytest.raises(SettingError, match="unknown cooling 'quadratic'"):
        cooled(1, 0.5, 0, 3, "quadratic")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="no round 3 of 3"):
        cooled(1, 0.5, 3, 3)
