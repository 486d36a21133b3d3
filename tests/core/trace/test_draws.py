"""Generators of random numbers: found, noticed, driven to their ends, put back."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from secateur.core.trace.draws import Around, undone

DRAWS = {
    "python": lambda: [random.random() for _ in range(100)],
    "numpy": lambda: np.random.rand(100).tolist(),
    "torch": lambda: [float(torch.rand(())) for _ in range(100)],
    "torch, many": lambda: torch.rand(100).tolist(),
    "torch, double": lambda: torch.rand(100, dtype=torch.float64).tolist(),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_extremes_are_near_zero_and_near_one(draw: object) -> None:
    net = nn.Linear(2, 2)
    with undone(net):
        around = Around(net)
        draw()
        (source,) = around.drawn()
        low, high = source.extremes()
        source.put(low)
        assert max(draw()) < 0.001
        source.put(high)
        assert min(draw()) > 0.999


def test_rejection_comes_to_an_end_at_the_extremes() -> None:
    net = nn.Linear(2, 2)
    with undone(net):
        for source in Around(net).sources:
            for state in source.extremes():
                source.put(state)
                numbers = [random.gauss(0, 1), random.normalvariate(0, 1), random.randint(0, 4), *np.random.randn(2)]
                assert np.isfinite([*numbers, *torch.randn(3).tolist(), *torch.randperm(5).tolist()]).all()


def test_what_a_run_has_changed_is_put_back() -> None:
    net = nn.BatchNorm2d(3)
    net.count, net.generator = 0, torch.Generator().manual_seed(1)
    torch.manual_seed(2)
    expected = torch.rand(3, generator=torch.Generator().manual_seed(1)), torch.rand(3)
    torch.manual_seed(2)
    around = Around(net)
    with undone(net):
        net.count += 1
        net(torch.randn(4, 3, 2, 2))
        torch.rand(1, generator=net.generator)
        assert len(around.drawn()) == 2
        assert around.noted()
    assert not around.drawn()
    assert net.count == 0
    assert torch.equal(net.running_mean, torch.zeros(3))
    assert int(net.num_batches_tracked) == 0
    assert torch.equal(torch.rand(3, generator=net.generator), expected[0])
    assert torch.equal(torch.rand(3), expected[1])
