"""What units cost to make, by hand and against the totals that are counted elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nets import images, make
from secateur.core.sizes.unit_work import making_flops
from secateur.core.trace import trace

VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)
MILLIONS = (2.81, 57.9, 14.5, 28.9, 7.23, 14.5, 14.5, 3.61, 7.23, 7.23, 1.81, 1.81, 1.81)


def test_a_map_of_vgg16() -> None:
    """2 H W (9 C + 1) at 224 x 224, which are 49 times as many positions as at 32 x 32 in every layer."""
    layers, width = list[nn.Module](), 3
    for wide in VGG16:
        layers += [nn.Conv2d(width, wide, 3, padding=1), nn.ReLU()] if wide else [nn.MaxPool2d(2)]
        width = wide or width
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))
    graph = trace(net, torch.zeros(1, 3, 32, 32))
    found = 49 * making_flops(graph)
    for group, expected in zip(graph.groups, MILLIONS, strict=True):
        assert (found[graph.offsets[group.name]] / 1e6).item() == pytest.approx(expected, rel=5e-3)


def test_units_of_several_layers_channels_and_calls() -> None:
    graph = trace(make("called twice"), images(1))
    assert making_flops(graph).tolist() == [2 * 64 * (27 + 1) + 2 * 2 * 64 * (72 + 1)] * 8
    graph = trace(make("grouped conv"), images(1))
    assert making_flops(graph).tolist() == [4 * 2 * 64 * (27 + 1)] * 4 + [4 * 2 * 64 * (36 + 1)] * 6
