from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur.core.trace import trace


class Undefined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.two(self.one(x).relu().mean((2, 3)))
        return y / (y - y)


def test_a_network_that_puts_out_nan_keeps_its_groups() -> None:
    assert [group.name for group in trace(Undefined().eval(), torch.rand(1, 3, 8, 8)).free] == ["one"]
