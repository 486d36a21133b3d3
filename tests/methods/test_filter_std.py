"""The standard deviation of a filter, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.core.trace import trace
from secateur.methods.filter_std import FilterStd
from secateur.methods.magnitude import Magnitude

IMAGE = torch.arange(9.0).reshape(1, 1, 3, 3)
KERNELS = [[5.0, 5.0, 5.0, 5.0], [0.0, 2.0, 0.0, 2.0], [3.0, 3.0, 3.0, 7.0], [-1.0, 1.0, -1.0, 1.0]]
DEVIATIONS = [0.0, 1.0, 3**0.5, 1.0]


def net(kernels: list[list[float]] = KERNELS) -> nn.Sequential:
    made = nn.Sequential(nn.Conv2d(1, len(kernels), 2), nn.ReLU(), nn.Conv2d(len(kernels), 2, 1))
    with torch.no_grad():
        made[0].weight.copy_(torch.tensor(kernels).reshape(-1, 1, 2, 2))
    return made


def asked(model: nn.Module, keep: float = 0.75) -> Problem:
    return Problem(model, trace(model, IMAGE), Target(keep, "units"), limits=Limits(multiple=1))


def test_the_deviation_is_that_of_all_weights_over_their_number() -> None:
    problem = asked(net())
    assert FilterStd().score(problem.graph.group("0"), problem).tolist() == pytest.approx(DEVIATIONS)


def test_a_strong_but_constant_filter_goes_first_unlike_by_magnitude() -> None:
    assert FilterStd().plan(asked(net())).dropped() == {"0": (0,)}
    assert Magnitude().plan(asked(net())).dropped() == {"0": (1,)}


def test_a_constant_added_to_a_filter_changes_nothing() -> None:
    shifted = net([[weight + 10 * row for weight in kernel] for row, kernel in enumerate(KERNELS)])
    problem = asked(shifted)
    assert FilterStd().score(problem.graph.group("0"), problem).tolist() == pytest.approx(DEVIATIONS, abs=1e-5)


def test_the_kernels_of_a_filter_are_one_sample() -> None:
    """Two constant kernels, 1 and 3: no deviation within either, but 1 over both."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 2), nn.ReLU(), nn.Conv2d(2, 1, 1))
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1).expand(2, 2, 2, 2))
    problem = asked(model)
    assert FilterStd().score(problem.graph.group("2"), problem).tolist() == [1.0, 1.0]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1), nn.Conv2d(2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(torch.relu(x + self.branch(x)))


def test_several_makers_are_one_sample() -> None:
    model = Residual()
    with torch.no_grad():
        model.stem.weight.copy_(torch.tensor([4.0, 1.0]).reshape(2, 1, 1, 1))
        model.branch.weight.copy_(torch.tensor([[1.0, 1.0], [1.0, 1.0]]).reshape(2, 2, 1, 1))
    problem = asked(model)
    # 4, 1, 1: mean 2, squares 4 + 1 + 1
    assert FilterStd().score(problem.graph.group("stem"), problem).tolist() == pytest.approx([2**0.5, 0.0])
