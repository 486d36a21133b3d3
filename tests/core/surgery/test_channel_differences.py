"""Each channel of an output is held against its own size."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from secateur.core.surgery.channel_differences import gap, largest, own_rounding, worst_channel


@pytest.mark.parametrize("dim", [1, 3])
def test_a_small_channel_beside_a_large_one_is_seen(dim: int) -> None:
    expected = torch.ones(2, 3, 4, 5, dtype=torch.float64)
    expected.select(dim, 0).mul_(1000.0)
    found = expected.clone()
    found.select(dim, 2).mul_(1.5)
    assert worst_channel(expected, found, 1e-4) == pytest.approx(0.5)
    assert worst_channel(expected, found, 0.1) == pytest.approx(0.5 / 100)  # of a tenth of the largest
    assert worst_channel(expected, expected, 0.0) == 0.0


def test_what_has_no_channels_or_no_numbers_has_no_difference_and_nan_is_one() -> None:
    assert worst_channel(torch.ones(4), torch.zeros(4), 0.1) == 0.0
    assert worst_channel(torch.ones(0, 3), torch.ones(0, 3), 0.1) == 0.0
    assert worst_channel(torch.zeros(2, 3), torch.full((2, 3), 0.5), 0.5) == 1.0
    assert math.isinf(worst_channel(torch.ones(2, 3), torch.full((2, 3), math.nan), 0.1))


def test_what_a_channel_rounds_by_itself_does_not_count_and_what_is_wrong_does() -> None:
    draw = torch.Generator().manual_seed(0)
    right = torch.randn(2, 40, generator=draw, dtype=torch.float64)
    noise = [1e-5 * torch.randn(2, 40, generator=draw, dtype=torch.float64) for _ in range(2)]
    expected, found = right + noise[0], right + noise[1]
    rounding = torch.full_like(right, 1e-5)
    assert worst_channel(expected, found, 1e-3) > 1e-4
    assert worst_channel(expected, found, 1e-3, rounding) == 0.0
    assert worst_channel(expected, found, 1e-3, rounding[:1]) > 1e-4  # of something else
    found[:, 7] += 1e-3
    assert worst_channel(expected, found, 1e-3, rounding) > 1e-4
    found[:, 7] = math.nan
    assert math.isinf(worst_channel(expected, found, 1e-3, rounding))


def test_a_channel_is_not_excused_by_what_others_round() -> None:
    expected = torch.cat([640 * torch.ones(1, 4, 9), 1e-2 * torch.ones(1, 1, 9)], 1)
    rounding = torch.cat([1e-2 * torch.ones(1, 4, 9), 1e-9 * torch.ones(1, 1, 9)], 1).double()
    found = expected.clone()
    found[:, 4] = 0.0
    assert worst_channel(expected, found, 1e-6, rounding) == 1.0


def test_rounding_is_that_of_the_network_on_several_inputs() -> None:
    x = torch.rand(1, 50, generator=torch.Generator().manual_seed(0))

    def run(roll: Callable[[Tensor], Tensor]) -> list[Tensor]:
        return [(roll(x) + 300.0) - 300.0]

    (found,) = own_rounding(run)
    assert found.shape == x.shape
    assert 1e-6 < found.min() <= found.max() < 1e-4
    assert own_rounding(lambda roll: [torch.rand(3)]) == []  # drawn anew

    def narrow(roll: Callable[[Tensor], Tensor]) -> list[Tensor]:
        raise RuntimeError("expected float")

    assert own_rounding(narrow) == []


def test_imaginary_parts_and_whole_numbers_are_compared() -> None:
    one = torch.tensor([[1.0 + 0j, 2.0]])
    assert gap(one, one + 5j).max() == 5.0
    assert worst_channel(one, one + 5j, 0.1) > 1.0
    index = torch.tensor([[20000, 30000]])
    assert gap(index, index).max() == 0.0
    assert math.isinf(gap(index, index + 1).max())


def test_infinities_are_near_where_both_have_them_and_hide_nothing_else() -> None:
    masked = torch.tensor([[1.0, -math.inf, 2.0], [1.0, -math.inf, 2.0]])
    assert worst_channel(masked, masked.clone(), 0.01) == 0.0
    off = masked.clone()
    off[0, 0] = 1.5
    assert worst_channel(masked, off, 0.01) == 0.5
    assert gap(masked, off).max() == 0.5
    for wrong in (math.inf, math.nan, 0.0):
        assert not worst_channel(masked, torch.where(masked.isinf(), wrong, masked), 0.01) < 1.0
    assert largest(masked) == 2.0
    assert math.isnan(largest(torch.full((2, 3), math.inf)))  # of which nothing can be compared
