"""Norms that have no tensors: their numbers follow what enters them."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, verify
from secateur.core.trace import trace


class Around(nn.Module):
    """A step between two convolutions, to which channels come first or last."""

    def __init__(self, norm: nn.Module, *, last: bool = False) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.last = nn.Conv2d(3, 12, 3), norm, nn.Conv2d(12, 4, 3), last

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if self.last else self.norm(x)
        return self.b(x)


@pytest.mark.parametrize(
    ("norm", "last", "left"),
    [
        (nn.InstanceNorm2d(12), False, {"num_features": 8}),
        (nn.BatchNorm2d(12, affine=False, track_running_stats=False), False, {"num_features": 8}),
        (nn.GroupNorm(2, 12, affine=False), False, {"num_groups": 2, "num_channels": 8}),
        (nn.GroupNorm(4, 12, affine=False), False, {"num_groups": 3, "num_channels": 9}),
        (nn.GroupNorm(12, 12, affine=False), False, {"num_groups": 8, "num_channels": 8}),
        (nn.LayerNorm(12, elementwise_affine=False), True, {"normalized_shape": (8,)}),
        (nn.RMSNorm(12, elementwise_affine=False), True, {"normalized_shape": (8,)}),
    ],
    ids=str,
)
def test_a_norm_without_tensors_has_the_width_of_what_enters_it(norm: Any, last: bool, left: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net, x = Around(norm, last=last).eval(), torch.randn(2, 3, 10, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = trace(net, x)
        plan = Plan(tuple(DropUnits(group.name, tuple(range(group.size // 3))) for group in graph.groups))
        thin = apply(net, graph, plan)
        assert verify(net, graph, plan, thin, x).exact
        thin(x)
    assert {name: getattr(thin.norm, name) for name in left} == left


def test_one_norm_for_two_widths_keeps_its_number() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)
            self.norm = nn.BatchNorm2d(8, affine=False, track_running_stats=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.norm(self.b(self.norm(self.a(x)).relu())).relu())

    net, x = Twice().eval(), torch.randn(2, 3, 6, 6)
    graph = trace(net, x)
    assert [group.name for group in graph.groups] == ["a", "b"]
    plan = Plan((DropUnits("a", (0,)), DropUnits("b", (0, 1))))
    thin = apply(net, graph, plan)
    assert thin.norm.num_features == 8
    assert verify(net, graph, plan, thin, x).exact
