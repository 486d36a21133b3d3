"""Pieces of a layer: which weights they hold, which go, and what is stored of the rest."""

from __future__ import annotations

import pytest
import torch

from secateur.core.zeros import grains
from secateur.errors import PlanError, SettingError

WEIGHT = torch.arange(36.0).reshape(2, 2, 3, 3) * torch.tensor([1.0, -1.0]).reshape(1, 2, 1, 1)


@pytest.mark.parametrize(
    ("grain", "expected"),
    [
        ("weight", list(map(float, range(36)))),
        ("row", [3.0 * (3 * row + 1) for row in range(12)]),
        ("column", [27 * kernel + 9.0 + 3 * column for kernel in range(4) for column in range(3)]),
        ("kernel", [9 * (9 * kernel + 4.0) for kernel in range(4)]),
    ],
)
def test_sums_of_the_pieces(grain: grains.Grain, expected: list[float]) -> None:
    found = grains.sums(WEIGHT, grain)
    assert found.dtype == torch.float64
    assert found.flatten().tolist() == expected
    assert grains.weights_in((2, 2, 3, 3), grain) * found.numel() == 36


def test_small_kernels_and_linear_layers_are_single_weights() -> None:
    for shape in ((4, 3, 1, 1), (4, 3), (4, 3, 1)):
        assert [grains.weights_in(shape, grain) for grain in ("weight", "row", "column", "kernel")] == [1, 1, 1, 1]
    assert [grains.weights_in((4, 3, 5), grain) for grain in ("row", "column", "kernel")] == [5, 1, 5]
    assert [grains.weights_in((4, 3, 1, 7), grain) for grain in ("row", "column", "kernel")] == [7, 1, 7]


def test_the_smallest_go_and_of_equal_ones_the_first() -> None:
    keep = grains.lowest_dropped(grains.sums(WEIGHT, "row"), 4, (2, 2, 3, 3))
    assert keep.flatten().tolist() == [False] * 12 + [True] * 24
    even = grains.lowest_dropped(grains.sums(torch.ones(2, 2, 3, 3), "kernel"), 1, (2, 2, 3, 3))
    assert even.flatten(2).all(2).tolist() == [[False, True], [True, True]]
    with pytest.raises(PlanError, match="5 grains cannot go from a layer of 4"):
        grains.lowest_dropped(grains.sums(WEIGHT, "kernel"), 5, (2, 2, 3, 3))


def test_storage_at_a_density_of_three_tenths() -> None:
    assert [round(grains.storage(0.3, grain), 3) for grain in (1, 3, 9)] == [0.450, 0.350, 0.317]
    # as much as single weights at 0.3
    assert grains.storage(0.386, 3) == pytest.approx(0.45, abs=5e-4)
    assert grains.storage(0.426, 9) == pytest.approx(0.45, abs=5e-4)


@pytest.mark.parametrize(
    ("density", "grain", "table"),
    # densities and storage of AlexNet and VGG-16 at the accuracy of the dense network; the first has larger kernels too
    [(0.221, 1, 0.330), (0.378, 9, 0.397), (0.270, 1, 0.406), (0.307, 3, 0.358), (0.444, 9, 0.469)],
)
def test_storage_is_that_of_the_papers_table(density: float, grain: int, table: float) -> None:
    assert grains.storage(density, grain) == pytest.approx(table, abs=0.003)


def test_storage_without_indices_and_of_other_bits() -> None:
    assert grains.storage(0.4, 100, index_bits=0) == pytest.approx(0.4)
    assert grains.storage(0.1, 1, weight_bits=32, index_bits=16) == pytest.approx(0.15)
    for wrong in ((1.1, 1, 8, 4), (0.5, 0, 8, 4), (0.5, 1, 0, 4), (0.5, 1, 8, -1)):
        with pytest.raises(SettingError, match="are no storage; the density lies in"):
            grains.storage(*wrong)
