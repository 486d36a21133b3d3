from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur.core.trace import trace


class Scaled(nn.Module):
    """Takes the width that it reads for a length of something else."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        return self.two(y / y.shape[1]).mean((2, 3))


def test_the_module_whose_code_takes_a_width_is_named() -> None:
    image = torch.rand(1, 3, 8, 8)
    for net, whose in ((Scaled(), "the network"), (nn.Sequential(nn.Sequential(Scaled())), "'0.0'")):
        row = trace(net.eval(), image).explain().rows[0]
        assert row.reason == f"the code of {whose} takes a width from here in a way that was not understood"


class Undefined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.two(self.one(x).relu().mean((2, 3)))
        return y / (y - y)


def test_a_network_that_puts_out_nan_keeps_its_groups() -> None:
    assert [group.name for group in trace(Undefined().eval(), torch.rand(1, 3, 8, 8)).free] == ["one"]
