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


class Looked(nn.Module):
    """Looks maps up where other channels say, or has them read by a layer that it hides."""

    def __init__(self, hidden: bool) -> None:
        super().__init__()
        self.hidden = [nn.Conv2d(8, 8, 1)] if hidden else []
        self.one, self.where, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        if self.hidden:
            return self.two(self.hidden[0](y)).mean((2, 3))
        grid = self.where(y).permute(0, 2, 3, 1)
        return self.two(nn.functional.grid_sample(y, grid, align_corners=False)).mean((2, 3))


def test_coordinates_stay_and_what_they_are_made_from_may_go() -> None:
    rows = {row.layer: row for row in trace(Looked(False).eval(), torch.rand(1, 3, 8, 8)).explain().rows}
    assert (rows["one"].prunable, rows["where"].prunable) == (8, 0)
    assert rows["where"].reason == "coordinates at which maps are looked up"


def test_what_is_read_by_a_hidden_layer_is_said_to_be() -> None:
    row = trace(Looked(True).eval(), torch.rand(1, 3, 8, 8)).explain().rows[0]
    assert (row.layer, row.prunable) == ("one", 0)
    assert row.reason == "read by weights that are no parameters of the network"
