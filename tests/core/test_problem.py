from __future__ import annotations

import torch
from torch import nn

from secateur.core.problem import Problem
from secateur.core.trace import trace


def test_images_are_counted_in_tensors_and_in_lists() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3))
    graph = trace(model, torch.rand(1, 3, 8, 8))
    assert Problem(model, graph).image_count() is None
    assert Problem(model, graph, images=[torch.rand(5, 3, 8, 8), torch.rand(2, 3, 8, 8)]).image_count() == 7
    lists = [([torch.rand(3, 8, 8)] * 5,), ([torch.rand(3, 8, 6)] * 2,)]  # as detectors take them
    assert Problem(model, graph, images=lists).image_count() == 7
