"""What one size in the code stands for stays; what only runs through the same code may go."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nets import lived_in
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, verify
from secateur.core.trace import trace
from secateur.core.trace.narrowing import culprits

Sizes = Callable[["Flat", list[Tensor]], Tensor | float]


class Flat(nn.Module):
    """All code is that of the network itself, as in many a file of one's own."""

    def __init__(self, factor: Sizes) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 10, 1), nn.Conv2d(10, 8, 1)
        self.head = nn.Linear(8, 5)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        maps = [torch.relu(self.a(x))]
        number, channels = maps[0].shape[:2]
        maps.append(self.b(maps[0] + maps[0].view(number, channels, -1).mean(2).view(number, channels, 1, 1)))
        maps.append(torch.relu(self.c(torch.relu(maps[1]))))
        return self.head(maps[2].mean((2, 3))) * self.factor(self, maps)


def checked(net: Flat, maps: list[Tensor]) -> float:
    assert maps[1].shape[1] == net.c.in_channels == 10
    return 1.0


@pytest.mark.parametrize(
    ("factor", "stays"),
    [
        (lambda net, maps: maps[0].shape[1] ** -0.5, {"a"}),
        (lambda net, maps: 1.0 + (maps[2].shape[1] == 8), {"c"}),
        (checked, {"b"}),
        (lambda net, maps: float(maps[0].shape[1] + maps[2].shape[1]), {"a", "c"}),
        (lambda net, maps: float(maps[1].shape[1]) if net.training else 1.0, {"b"}),  # in training alone
        (lambda net, maps: 1.0, set()),
    ],
)
def test_only_what_a_size_is_of_stays(factor: Sizes, stays: set[str]) -> None:
    torch.manual_seed(0)
    net, image = lived_in(Flat(factor)), torch.randn(2, 3, 6, 6)
    graph = trace(net, image)
    assert {group.name for group in graph.groups} == {"a", "b", "c"} - stays
    assert {pin.tensor for pin in graph.pins if pin.dim == 0 and "not understood" in pin.reason} == {
        f"{name}.{part}" for name in stays for part in ("weight", "bias")
    }
    plan = Plan(tuple(DropUnits(group.name, (0, 3)) for group in graph.groups))
    for mode in (False, True):
        assert verify(net.train(mode), graph, plan, apply(net, graph, plan), image).exact


def plan_of(*names: str) -> Plan:
    return Plan(tuple(DropUnits(name, (0,)) for name in names))


def dropped(plan: Plan) -> set[str]:
    return {edit.group for edit in plan.edits if isinstance(edit, DropUnits)}


def test_groups_are_told_apart_in_few_trials() -> None:
    names, tried = [f"g{number}" for number in range(64)], list[Plan]()

    def breaks(plan: Plan) -> bool:
        tried.append(plan)
        return "g37" in dropped(plan) or {"g4", "g5"} <= dropped(plan)

    assert culprits(plan_of(*names), breaks) == {"g4", "g5", "g37"}  # the two break it together
    assert len(tried) < 30
    assert culprits(plan_of("g4", "g5"), breaks) == set()  # nothing is learned
    assert culprits(plan_of("g37"), breaks) == set()
    assert culprits(plan_of(*names), lambda plan: True) == set()  # all of them, and too many trials
