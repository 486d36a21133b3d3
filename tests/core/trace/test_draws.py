"""Generators of random numbers, and what modules note down: found, noticed, driven to their ends, put back."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur.core.surgery.untouched import untouched
from secateur.core.trace.draws import Around

OF_THIS_FILE = random.Random(0)
WITHOUT_A_STATE = random.SystemRandom()

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
    with untouched(net):
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
    with untouched(net):
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
    with untouched(net):
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


class Tosses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dice = random.SystemRandom()

    def forward(self, x: Tensor) -> Tensor:
        return x + OF_THIS_FILE.random() + WITHOUT_A_STATE.random() + self.dice.random()


def test_generators_of_the_file_are_put_back_and_those_without_a_state_left_out() -> None:
    net = Tosses()
    state = OF_THIS_FILE.getstate()
    around = Around(net)
    with untouched(net):
        net(torch.zeros(2))
        assert len(around.drawn()) == 1
    assert OF_THIS_FILE.getstate() == state


@pytest.mark.parametrize(
    "write",
    [
        lambda net: net.running_mean.add_(1),
        lambda net: setattr(net, "running_mean", net.running_mean + 1),
        lambda net: setattr(net, "running_mean", torch.zeros(4)),
        lambda net: delattr(net, "running_mean"),
    ],
)
def test_every_way_to_change_a_buffer_is_noted_and_put_back(write: Callable[[nn.Module], object]) -> None:
    net = nn.BatchNorm2d(3)
    mean, around = net.running_mean, Around(net)
    with untouched(net):
        write(net)
        assert around.noted()
    assert not around.noted()
    assert net.running_mean is mean


def test_buffers_made_in_inference_mode_are_watched_too() -> None:
    with torch.inference_mode():
        net = nn.BatchNorm2d(3)
    around = Around(net)
    assert not around.noted()
    with torch.inference_mode():
        net.running_mean.add_(1)
    assert around.noted()
