"""Parts of tensors: halves stay halves, tables stay tables, and what meets a fixed neighbour stays."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets import Head, conv, images, lived_in
from plans import sizes
from secateur.core.graph import Graph
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, verify
from secateur.core.trace import trace


def assert_exact(net: nn.Module, graph: Graph) -> None:
    """From every group another number of units."""
    edits = [DropUnits(g.name, tuple(range(min(i + 1, g.size - 1)))) for i, g in enumerate(graph.groups)]
    plan = Plan(tuple(edits))
    assert verify(net, graph, plan, apply(net, graph, plan), images(2, seed=5)).exact


class Halves(nn.Module):
    """Cuts in the middle, wherever that is; the halves never meet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right, self.head = conv(3, 16), conv(8, 4), conv(8, 4), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        middle = x.shape[1] // 2
        return self.head(torch.cat([self.left(x[:, :middle]), self.right(x[:, middle:])], 1))


def test_halves_shrink_alike() -> None:
    net = lived_in(Halves())
    graph = trace(net, images(1))
    assert sizes(graph) == {"stem.0": 8, "left.0": 4, "right.0": 4}
    assert_exact(net, graph)


class Table(nn.Module):
    """A vector of 24 seen as a table of 4 by 6, which is all that the code knows of it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.one(x.mean((2, 3))))
        return self.two(x.view(len(x), 4, -1).flip(0).flatten(1))


def test_what_is_left_of_a_table_is_a_table() -> None:
    net = Table()
    graph = trace(net, images(1))
    assert sizes(graph) == {"one": 6}  # columns
    units = {m.tensor: m.unit.tolist() for m in graph.group("one").members}
    assert units["one.weight"] == units["two.weight"] == [*range(6)] * 4
    assert_exact(net, graph)


class BesideTheImage(nn.Module):
    """Features, and the image itself behind them, meet the channels of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.head = conv(3, 8), nn.Conv2d(3, 11, 3, padding=1), Head(11)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.stem(x), x], 1) + self.mid(x))


def test_channels_that_meet_the_input_stay() -> None:
    net = lived_in(BesideTheImage())
    graph = trace(net, images(1))
    assert sizes(graph) == {"stem.0": 8}
    row = next(row for row in graph.explain().rows if row.layer == "mid")
    assert (row.width, row.prunable, row.with_) == (11, 8, ("stem.0",))
    assert row.reason == "joined with channels that cannot be removed"
    assert_exact(net, graph)


class Classifier(nn.Module):
    """Linear layers arrive as a single operator where inference mode is on."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(192, 10, bias), nn.Linear(10, 8, bias), nn.Linear(8, 5, bias)

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return self.three(F.relu(self.two(F.relu(self.one(x.flatten(1))))))


@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_in_inference_mode(bias: bool) -> None:
    net = Classifier(bias)
    graph = trace(net, images(1))
    assert sizes(graph) == {"one": 10, "two": 8}
    assert {m.tensor: m.role for m in graph.group("one").members if m.tensor.endswith("weight")} == {
        "one.weight": "makes",
        "two.weight": "reads",
    }
    assert_exact(net, graph)


class Peeking(nn.Module):
    """Cannot be recorded, names a size, and would run with any other: only its values would be wrong."""

    def forward(self, x: Tensor) -> Tensor:
        if float(x.sum()) > 1e9:
            x = x / 2
        return x * torch.sigmoid(x[:, :3].mean(1, keepdim=True))


def test_a_thinner_network_that_runs_but_differs_is_not_believed() -> None:
    net = lived_in(nn.Sequential(conv(3, 6), conv(6, 8), Peeking(), conv(8, 4), Head(4)))
    graph = trace(net, images(1))
    assert sizes(graph) == {"0.0": 6, "3.0": 4}
    row = next(row for row in graph.explain().rows if row.layer == "1.0")
    assert row.reason == "its size is written into the code (__getitem__ in '2')"
    assert_exact(net, graph)
