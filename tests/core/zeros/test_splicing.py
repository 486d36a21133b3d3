"""The rule of dynamic network surgery, step by step, and weights that are kept aside."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from secateur.core.zeros.splicing import Overlay, by_count, by_deviation, chance, splice


def test_masks_follow_the_hand_computed_example() -> None:
    """Threshold 1, so pruned at 0.9 or less, and back above 1.1."""
    keep = torch.ones(6, dtype=torch.bool)
    course = [
        # values                              who is in play afterwards
        ([0.90, 0.91, 1.00, 1.10, 1.11, 0.0], [0, 1, 1, 1, 1, 0]),  # 0.9 goes, what is in the band stays
        ([1.10, 0.89, 1.00, 0.95, 1.11, 1.0], [0, 0, 1, 1, 1, 0]),  # in the band nobody comes back either
        ([1.11, 1.11, 0.90, 1.09, 0.50, 2.0], [1, 1, 0, 1, 0, 1]),  # above it they do
        ([1.00, 1.00, 1.00, 1.00, 1.00, 1.0], [1, 1, 0, 1, 0, 1]),  # the same values, but not the same past
    ]
    for values, expected in course:
        keep = splice(keep, torch.tensor(values, dtype=torch.float64), 1.0)
        assert keep.int().tolist() == expected


def test_chance_of_an_update_falls_as_published() -> None:
    assert chance(0, 1e-4, 1.0) == 1.0
    assert chance(10_000, 1e-4, 1.0) == 0.5
    assert chance(30_000, 1e-4, 1.0) == 0.25
    assert chance(3, 1.0, 2.0) == 1 / 16
    assert chance(5, 0.0, 1.0) == 1.0


def test_threshold_by_deviation_is_that_of_what_is_in_play() -> None:
    values = torch.tensor([1.0, 3.0, 100.0])
    keep = torch.tensor([True, True, False])
    assert by_deviation(values, keep, 0.0) == 2.0
    assert by_deviation(values, keep, 1.5) == 3.5  # deviation 1, not sqrt(2)
    assert by_deviation(values, keep, -4.0) == 0.0  # never below
    assert by_deviation(values, torch.zeros(3, dtype=torch.bool), 1.0) == 0.0


@given(st.lists(st.floats(0.125, 10, width=32), min_size=1, max_size=30, unique=True), st.data())
def test_so_many_values_lie_above_a_threshold_by_count(numbers: list[float], data: st.DataObject) -> None:
    values = torch.tensor(numbers)
    count = data.draw(st.integers(0, len(numbers)))
    assert int((values > by_count(values, count)).sum()) == count


def test_what_is_out_of_play_learns_and_comes_back_whole() -> None:
    """One weight out of two, plain gradient descent: the network computes with zero, the weight moves on."""
    net = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[2.0, 0.5]]))
    overlay = Overlay([("weight", net.weight)])
    overlay.show("weight", torch.tensor([[True, False]]))
    assert net.weight.tolist() == [[2.0, 0.0]]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loss = (net(torch.tensor([[1.0, 3.0]])) - 5.0).square().sum() / 2
    loss.backward()  # output 2, error -3: gradient (-3, -9)
    optimizer.step()
    assert overlay.whole("weight").tolist() == [[pytest.approx(2.3), pytest.approx(1.4)]]
    overlay.show("weight", torch.tensor([[True, False]]))
    assert net.weight[0, 1] == 0.0
    overlay.show("weight", torch.tensor([[False, True]]))
    assert net.weight.tolist() == [[0.0, pytest.approx(1.4)]]
    assert overlay.whole("weight").tolist() == [[pytest.approx(2.3), pytest.approx(1.4)]]


def test_what_is_aside_survives_a_kill() -> None:
    first, second = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, 3.0])
    one, two = Overlay([("w", first)]), Overlay([("w", second)])
    one.show("w", torch.tensor([True, False, True]))
    assert math.isclose(float(first.sum()), 4.0)
    two.load_state_dict(one.state_dict())
    assert two.whole("w").tolist() == [1.0, 2.0, 3.0]
