"""Trial plans in which no width passes for another, and plans that say the same of other groups."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from nets import Bottleneck, CatSelf, Plain, lived_in
from secateur.core.graph import Graph
from secateur.core.plan import DropUnits, Plan
from secateur.core.trace import trace
from secateur.core.trace.uneven_plans import MOST, gone_in, plan_for, uneven


def graph_of(*sizes: int) -> Graph:
    from torch import nn

    layers: list[nn.Module] = []
    for before, size in zip((3, *sizes), sizes, strict=False):
        layers += [nn.Conv2d(before, size, 1), nn.ReLU()]
    return trace(nn.Sequential(*layers, nn.Conv2d(sizes[-1], 4, 1)).eval(), torch.randn(1, 3, 4, 4))


def shares(graph: Graph, plan: Plan) -> dict[str, Fraction]:
    gone = plan.dropped()
    return {g.name: Fraction(g.size - len(gone.get(g.name, ())), g.size) for g in graph.groups}


@pytest.mark.parametrize("sizes", [(16, 2), (2, 2), (12, 8, 2, 4), (16, 16, 16), (128, 2, 64, 3, 8, 4), (3, 3)])
def test_each_two_groups_keep_other_shares_in_one_of_the_plans(sizes: tuple[int, ...]) -> None:
    graph = graph_of(*sizes)
    names = [group.name for group in graph.groups]
    plans = uneven(graph, [names])
    assert 1 <= len(plans) <= MOST
    for i, one in enumerate(names):
        for other in names[:i]:
            assert any(shares(graph, plan)[one] != shares(graph, plan)[other] for plan in plans), (one, other)


def test_groups_that_never_meet_need_one_plan_that_touches_all() -> None:
    graph = graph_of(2, 2, 2)
    (plan,) = uneven(graph, [[group.name] for group in graph.groups])
    assert len(plan.dropped()) == 3
    assert all(units[0] == 0 for units in plan.dropped().values())
    assert uneven(graph, []) == [plan]


def test_a_plan_is_the_same_for_groups_of_which_some_stay() -> None:
    net = lived_in(Plain())
    graph = trace(net, torch.randn(1, 3, 8, 8))
    first, second = graph.groups
    plan = Plan((DropUnits(first.name, (1, 2)), DropUnits(second.name, tuple(range(second.size - 1)))))
    assert plan_for(graph, gone_in(graph, plan)) == plan
    fewer = graph.without(second.name)
    assert plan_for(fewer, gone_in(graph, plan)) == plan  # where it may go is not asked here
    everything = {key: torch.ones_like(gone) for key, gone in gone_in(graph, plan).items()}
    assert all(
        len(units) == graph.group(name).size - 1 for name, units in plan_for(graph, everything).dropped().items()
    )


@pytest.mark.parametrize("net", [CatSelf(), torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), Bottleneck(8))])
def test_units_of_several_positions_go_whole(net: torch.nn.Module) -> None:
    graph = trace(lived_in(net), torch.randn(1, 3, 8, 8))
    plan = Plan(tuple(DropUnits(group.name, (0, group.size - 1)) for group in graph.groups))
    assert plan_for(graph, gone_in(graph, plan)) == plan
