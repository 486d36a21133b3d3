"""Coarse units: what is kept comes as near to the target as steps that are swapped across groups allow."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.selection.stopping import CLOSE, FAR, finest
from secateur.core.selection.target_selection import Scope, family, fit, meet
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Measure, Target, size
from secateur.core.trace import trace


class Coarse(nn.Module):
    """A stream of few units, each of them 16 channels with one scale, and branches of many units that cost little."""

    def __init__(self, units: int, branches: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(1 + torch.rand(units, 1, 1, 1))
        self.stem, self.mix = nn.Conv2d(3, 16 * units, 1), nn.Conv2d(16 * units, 16 * units, 1)
        self.downs = nn.ModuleList(nn.Conv2d(16 * units, 12, 1) for _ in range(branches))
        self.ups = nn.ModuleList(nn.Conv2d(12, 16 * units, 3, padding=1) for _ in range(branches))
        self.head = nn.Linear(16 * units, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.mix(torch.relu(x))
        x = (x.unflatten(1, (-1, 16)) * self.scale).flatten(1, 2)
        for down, up in zip(self.downs, self.ups, strict=True):
            x = x + up(torch.relu(down(x)))
        return self.head(torch.relu(x).mean((2, 3)))


def read(net: nn.Module) -> Graph:
    torch.manual_seed(0)
    return trace(net.eval(), torch.randn(1, 3, 8, 8))


def scores(graph: Graph) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(3)
    return {group.name: torch.rand(group.size, generator=rng) for group in graph.groups}


def share(graph: Graph, plan: Plan, of: Measure) -> float:
    return size(graph, plan).of(of) / size(graph).of(of)


NETS = [Coarse(3, 2), Coarse(4, 3), Coarse(2, 1)]


@pytest.mark.parametrize("scope", ["uniform", "global"])
@pytest.mark.parametrize("net", NETS, ids=["3x2", "4x3", "2x1"])
@pytest.mark.parametrize("of", ["macs", "params"])
def test_nearer_than_the_order_alone_and_never_above(net: nn.Module, of: Measure, scope: Scope) -> None:
    graph = read(net)
    order, better = partial(family, graph, scores(graph), scope), 0
    for keep in (0.9, 0.8, 0.7, 0.6, 0.5):
        for limits in (Limits(multiple=1), Limits()):
            target = Target(keep, of)
            plain = share(graph, fit(graph, order(limits), target, limits=limits if limits.auto else None), of)
            found = share(graph, meet(graph, order, target, limits), of)
            assert plain <= found <= keep
            better += found > plain
            if plain >= FAR * keep:
                assert found == plain
    assert better


def test_a_step_that_takes_too_much_is_swapped_for_others() -> None:
    graph = read(Coarse(3, 2))
    order = partial(family, graph, scores(graph), "uniform")
    assert "stem" in fit(graph, order(Limits(multiple=1)), Target(0.7)).dropped()
    plan = meet(graph, order, Target(0.7), Limits(multiple=1))
    assert "stem" not in plan.dropped()
    assert share(graph, plan, "macs") >= CLOSE * 0.7


def test_units_of_a_group_come_back_in_the_order_of_the_method() -> None:
    graph = read(Coarse(4, 3))
    given = scores(graph)
    for keep in (0.85, 0.7, 0.55, 0.45):
        plan = meet(graph, partial(family, graph, given, "uniform"), Target(keep, "macs"), Limits(multiple=1))
        for name, units in plan.dropped().items():
            kept = [value for unit, value in enumerate(given[name].tolist()) if unit not in units]
            assert max(given[name][list(units)].tolist()) <= min(kept)


def test_a_network_of_coarse_units_alone_is_left_as_near_as_it_can_be() -> None:
    graph = read(Coarse(4, 0))
    order = partial(family, graph, scores(graph), "uniform")
    plan = meet(graph, order, Target(0.9), Limits())
    assert [len(units) for units in plan.dropped().values()] == [1]
    assert share(graph, plan, "macs") < 0.7


def test_what_was_gone_before_does_not_come_back() -> None:
    graph = read(Coarse(3, 2))
    given = scores(graph)
    coarse = next(group.name for group in graph.groups if group.size == 3)
    before = fit(graph, family(graph, {coarse: given[coarse]}, "uniform", Limits(multiple=1)), Target(0.9))
    rest = {name: values for name, values in given.items() if name != coarse}
    plan = meet(graph, partial(family, graph, rest, "uniform"), Target(0.5), Limits(multiple=1), before)
    assert plan.dropped()[coarse] == before.dropped()[coarse]


def test_finest_widths() -> None:
    assert [finest(multiple) for multiple in (1, 2, 4, 8, 16, 12)] == [1, 1, 1, 4, 4, 4]
    assert all(a <= b for a, b in pairwise(map(finest, range(1, 40))))
