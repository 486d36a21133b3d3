"""Operations on bits as the paper counts them."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from secateur.core.zeros.number_grids import rounded
from secateur.errors import SettingError
from secateur.measure.bit_operations import bit_operations, grids_of, layer_operations

X = torch.randn(3, 16)


def jet() -> nn.Sequential:
    """Return the paper's network."""
    sizes = (16, 64, 32, 32, 5)
    layers = [each for a, b in itertools.pairwise(sizes) for each in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def test_the_network_of_the_paper() -> None:
    net = jet()
    assert bit_operations(net, X) == 4_652_832
    assert bit_operations(net, X, 6, 6) == 412_960
    shapes = [tuple(layer.weight.shape) for layer in net if isinstance(layer, nn.Linear)]
    fifth = sum(layer_operations(m, n, 0.2, 6, 6 if number else 32) for number, (m, n) in enumerate(shapes))
    assert fifth == pytest.approx(162_592)
    assert 4_652_832 / fifth == pytest.approx(28.6, abs=0.05)


def test_zeros_are_counted_and_bits_may_differ() -> None:
    net = jet()
    with torch.no_grad():
        net[2].weight[:16] = 0.0
    saved = 64 * 32 * 0.5 * 8 * 8
    assert bit_operations(net, X, {"0": 8, "2": 8, "4": 8, "6": 8}, 8) == bit_operations(jet(), X, 8, 8) - saved
    with pytest.raises(SettingError, match="there is no convolution or linear layer '7'"):
        bit_operations(net, X, {"7": 8})


def test_a_convolution_counts_at_each_place() -> None:
    net = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(6, 4, 2, stride=2))
    first, second = 16 * layer_operations(6, 18, 1.0, 4, 32), 16 * layer_operations(4, 24, 1.0, 4, 4)
    assert bit_operations(net, torch.randn(2, 4, 6, 6), 4, 4) == pytest.approx(first + second)


def test_what_lies_on_a_grid() -> None:
    net = jet()
    with torch.no_grad():
        net[2].weight.copy_(rounded(net[2].weight, 4))
        net[6].weight.copy_(rounded(net[6].weight, 8))
    assert grids_of(net, (4, 8)) == {"2": 4, "6": 8}
    assert grids_of(net, ()) == {}
