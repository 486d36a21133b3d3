"""Each channel of an output is held against its own size."""

from __future__ import annotations

import math

import pytest
import torch

from secateur.core.surgery.channel_differences import worst_channel


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
    precise = torch.randn(2, 40, generator=draw, dtype=torch.float64)
    noise = [1e-5 * torch.randn(2, 40, generator=draw, dtype=torch.float64) for _ in range(2)]
    expected, found = precise + noise[0], precise + noise[1]
    assert worst_channel(expected, found, 1e-3) > 1e-4
    assert worst_channel(expected, found, 1e-3, precise) == 0.0
    found[:, 7] += 1e-3
    assert worst_channel(expected, found, 1e-3, precise) > 1e-4
    found[:, 7] = math.nan
    assert math.isinf(worst_channel(expected, found, 1e-3, precise))
    for other in (-precise, precise[:1], torch.full_like(precise, math.nan)):
        assert worst_channel(expected, precise + noise[1], 1e-3, other) > 1e-4
