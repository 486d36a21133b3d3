"""That weights on grids of few bits are found, and others are not taken for such."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from secateur.core.zeros.number_grids import lies_on_grid, rounded
from secateur.encoding.on_grids import Grid, grid_of, grids_in, multiples

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def found(weight: Tensor, axis: int = 0) -> Grid:
    grid = grid_of(weight, axis)
    assert grid is not None
    assert torch.equal(multiples(grid.levels(weight), grid.steps, grid.axis, weight.dtype), weight)
    return grid


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bits", [2, 4, 6])
def test_the_grid_of_a_rounded_weight_makes_it_in_every_bit(bits: int, dtype: torch.dtype) -> None:
    for seed in range(5):
        weight = rounded(drawn(seed, 40, 7, 3, 3) * drawn(seed + 9, 40, 1, 1, 1).exp(), bits).to(dtype)
        assert found(weight).bits == bits
        assert lies_on_grid(weight, bits)
    assert found(rounded(drawn(0, 7, 40), bits, 1).to(dtype), 1).bits == bits


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_weight_that_was_never_rounded_lies_on_no_grid(dtype: torch.dtype) -> None:
    for shape in ((64, 3, 3, 3), (64, 1, 3, 3), (10, 200)):
        assert grid_of(drawn(1, *shape).to(dtype), 0) is None


def test_a_channel_of_small_numbers_is_looked_at_by_its_own_size() -> None:
    weight = rounded(drawn(2, 4, 30), 2)
    weight[3] = 1e-6 * drawn(3, 30)
    assert not lies_on_grid(weight, 2)
    assert grid_of(weight, 0) is None
    weight[3] = rounded(weight[3:], 7)[0]
    assert not lies_on_grid(weight, 2)
    assert found(weight).bits == 7  # of which the ternary numbers are the largest and zero


def test_a_weight_that_layers_share_is_called_by_its_first_name() -> None:
    embedding, linear = nn.Embedding(12, 6), nn.Linear(6, 12)
    linear.weight = embedding.weight
    with torch.no_grad():
        embedding.weight.copy_(rounded(embedding.weight, 4))
    assert list(grids_in(nn.ModuleDict({"words": embedding, "scores": linear}))) == ["words.weight"]
