"""Exact sizes as a sum of products, compared with the ruler."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

import nets
from secateur.core.selection.costs import Sizes
from secateur.core.sizes.size import Measure, ruler
from secateur.core.trace import trace


@pytest.mark.parametrize("measure", get_args(Measure))
@pytest.mark.parametrize("network", ["Plain", "CatSelf", "GroupConv", "DepthMultiplier", "Tied", "OptionA"])
def test_the_terms_add_up_to_what_the_ruler_says(network: str, measure: Measure) -> None:
    graph = trace(getattr(nets, network)().eval(), torch.randn(1, 3, 8, 8))
    rng = torch.Generator().manual_seed(0)
    sizes = Sizes.of(graph, measure)
    for keep in (torch.ones(graph.units, dtype=torch.bool), *(torch.rand(3, graph.units, generator=rng) > 0.5)):
        assert sizes.measure(keep) == ruler(graph).measure(measure, keep)
