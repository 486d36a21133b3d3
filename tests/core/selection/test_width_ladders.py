"""Costs that are kept up to date as groups move, compared with a count of what is left."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import ladders
import nets
from secateur.core.graph import Graph
from secateur.core.selection.costs import Costs, Sizes, Times, TimeTerm
from secateur.core.selection.target_selection import Step
from secateur.core.selection.width_ladders import Ladder, Standing
from secateur.core.trace import trace


def units(graph: Graph, names: list[str]) -> dict[str, Ladder]:
    """Return ladders with one unit for each rung, the last of a group first."""
    return {
        name: Ladder(
            tuple((Step(name, (unit,)),) for unit in reversed(range(graph.group(name).size))),
            np.arange(graph.group(name).size + 1.0),
        )
        for name in names
    }


def kept(graph: Graph, places: dict[str, int]) -> Tensor:
    keep = torch.ones(graph.units, dtype=torch.bool)
    for name, place in places.items():
        end = graph.offsets[name] + graph.group(name).size
        keep[end - place : end] = False
    return keep


@pytest.mark.parametrize("kind", ["macs", "params", "times"])
@pytest.mark.parametrize("network", ["Plain", "CatSelf", "GroupConv", "OptionA"])
def test_costs_are_those_of_a_count_wherever_the_groups_stand(network: str, kind: str) -> None:
    graph = trace(getattr(nets, network)().eval(), torch.randn(1, 3, 8, 8))
    names = [group.name for group in graph.groups]
    sizes = Sizes.of(graph, "params" if kind == "params" else "macs")
    everything = frozenset(names)
    terms = tuple(TimeTerm(everything, lambda keep, each=each: float(each.of(keep))) for each in sizes.terms)
    costs: Costs = Times(terms) if kind == "times" else sizes
    standing = Standing(graph, units(graph, names), costs, torch.ones(graph.units, dtype=torch.bool))
    rng = np.random.default_rng(1)
    for _ in range(12):
        name = names[rng.integers(len(names))]
        standing.move(name, int(rng.integers(graph.group(name).size)))
        assert standing.total == sizes.measure(kept(graph, standing.place))
        other = names[rng.integers(len(names))]
        along = standing.along(other)
        ends = [sizes.measure(kept(graph, {**standing.place, other: place})) for place in range(len(along))]
        assert np.diff(along).tolist() == np.diff(ends).tolist()
    assert standing.lost == sum(standing.place.values())


def test_a_product_is_known_for_all_pairs_of_places() -> None:
    graph = ladders.graph_of(5, 4, 3)
    standing = Standing(graph, units(graph, ["g0", "g1", "g2"]), ladders.chain(graph, [1, 2, 3, 4]), kept(graph, {}))
    standing.move("g1", 1)
    [shared] = standing.shared("g0", "g1")
    assert shared.matrix("g0", "g1", np.array([0, 2]), np.array([0, 1, 3])).tolist() == [[40, 30, 10], [24, 18, 6]]
    assert standing.shared("g0", "g2") == []
    assert standing.partners["g1"] == {"g0", "g2"}


def test_groups_without_a_ladder_stay_as_they_are() -> None:
    graph = ladders.graph_of(4, 6)
    keep = torch.ones(10, dtype=torch.bool)
    keep[4:7] = False  # half of the second group has gone before
    standing = Standing(graph, units(graph, ["g0"]), ladders.chain(graph, [1, 1, 1]), keep)
    assert standing.total == 3 * 4 + 4 * 3 + 3 * 10
    standing.move("g0", 3)
    assert standing.total == 3 * 1 + 1 * 3 + 3 * 10


def test_some_places_of_a_ladder_are_joined() -> None:
    ladder = units(ladders.graph_of(6), ["g0"])["g0"].thinned([0, 2, 5])
    assert ladder.gone == [0, 2, 5]
    assert [[step.units for step in rung] for rung in ladder.rungs] == [[(5,), (4,)], [(3,), (2,), (1,)]]
    assert ladder.lost.tolist() == [0, 2, 5]
