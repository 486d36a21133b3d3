"""Buffers that pick channels by number: their entries go with what they pick, and the rest is renumbered."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nets import lived_in
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, verify
from secateur.core.trace import trace
from secateur.errors import PlanError

PICKS: dict[str, tuple[Any, int]] = {
    "learned index": ([5, 0, 0, 3], 4),
    "shuffle": ([3, 0, 4, 1, 5, 2], 6),
    "from the end": ([-1, 2, 3, -6], 4),
    "mask": ([True, False, True, True, False, True], 4),
}


class Net(nn.Module):
    def __init__(self, picked: Any, width: int, how: str = "select") -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(width, 5, 3), nn.Linear(5, 2)
        self.how = how
        if how == "attribute":
            self.numbers = torch.tensor(picked)
        else:
            self.register_buffer("numbers", torch.tensor(picked))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if self.how == "twice":
            x = x + x.index_select(1, self.numbers)
        elif self.how == "shared":
            x = x.index_select(1, self.numbers) + x[:, :4].index_select(1, self.numbers)
        else:
            x = x.index_select(1, self.numbers) if self.how == "select" else x[:, self.numbers]
        return self.head(self.b(x).relu().mean((2, 3)))


def images() -> Tensor:
    return torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(0))


def read(net: nn.Module) -> tuple[nn.Module, Any, dict[str, list[int]]]:
    net = lived_in(net)
    graph = trace(net, images())
    return net, graph, {group.name: list(range(group.size)) for group in graph.groups}


@pytest.mark.parametrize(
    ("kind", "how"), [("learned index", "select"), ("shuffle", "select"), *((kind, "brackets") for kind in PICKS)]
)
def test_what_is_picked_goes(kind: str, how: str) -> None:
    picked, width = PICKS[kind]
    net, graph, _ = read(Net(picked, width, how))
    makers = [group for group in graph.groups if group.name.startswith("a")]
    assert sum(group.size for group in makers) >= 5
    for group in makers:
        for unit in range(group.size):
            plan = Plan((DropUnits(group.name, (unit,)),))
            thin = apply(net, graph, plan)
            assert thin.a.out_channels == 5
            assert verify(net, graph, plan, thin, images()).difference < 1e-5
    plan = Plan((DropUnits(makers[0].name, (0,)),))
    thin = apply(net, graph, plan)
    assert "numbers" in trace(thin, images()).tensors


def test_numbers_are_those_of_what_is_left() -> None:
    net, graph, _ = read(Net([5, 0, 0, 3], 4))
    group = next(group for group in graph.groups if any(member.tensor == "numbers" for member in group.members))
    unit = int(next(member.unit for member in group.members if member.tensor == "a.weight")[3])
    thin = apply(net, graph, Plan((DropUnits(group.name, (unit,)),)))
    assert thin.numbers.tolist() == [4, 0, 0]
    assert thin.numbers.dtype == torch.int64
    assert net.numbers.tolist() == [5, 0, 0, 3]


def test_a_shuffle_that_is_added_keeps_whole_orbits_together() -> None:
    net, graph, groups = read(Net([1, 0, 3, 4, 2, 5], 6, "twice"))
    assert groups["a"] == [0, 1, 2]
    plan = Plan((DropUnits("a", (1,)),))
    thin = apply(net, graph, plan)
    assert thin.numbers.tolist() == [1, 0, 2]
    assert verify(net, graph, plan, thin, images()).difference < 1e-5


@pytest.mark.parametrize("how", ["attribute", "shared"])
def test_what_cannot_be_renumbered_stays(how: str) -> None:
    _, graph, groups = read(Net([2, 0, 3, 1], 4, how))
    assert list(groups) == ["b"]
    assert any("number" in pin.reason for pin in graph.pins if pin.tensor == "a.weight")


def test_another_network_with_other_numbers_is_refused() -> None:
    _, graph, _ = read(Net([3, 0, 4, 1, 5, 2], 6))
    other = lived_in(Net([0, 1, 2, 3, 4, 5], 6))
    with pytest.raises(PlanError, match="'numbers' picks other channels"):
        apply(other, graph, Plan((DropUnits("a", (1,)),)))
