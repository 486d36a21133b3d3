"""Units that nothing reads can go, and nothing else can be told from it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from nets import images, make
from secateur.core.graph import Graph
from secateur.core.plan import DropUnits, Plan, ZeroWeights
from secateur.core.selection.unread import unread_units
from secateur.core.sizes.limits import Limits
from secateur.core.surgery import apply, masked, run
from secateur.core.trace import trace

ANY = Limits(multiple=1)


def without_columns(graph: Graph, name: str, *columns: int) -> dict[str, Tensor]:
    mask = torch.ones(graph.tensors[name][0], dtype=torch.bool)
    mask[:, list(columns)] = False
    return {name: mask}


def dropped(graph: Graph, masks: dict[str, Tensor], limits: Limits = ANY) -> dict[str, tuple[int, ...]]:
    return Plan(unread_units(graph, masks, limits)).dropped()


def test_units_go_that_nobody_reads_and_then_those_that_only_they_read() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1))
    graph = trace(net, images(1)[:, :1])
    masks = without_columns(graph, "4.weight", 1)
    assert dropped(graph, masks) == {"2": (1,)}
    masks |= without_columns(graph, "2.weight", 0)
    masks["2.weight"][[0, 2], 3] = False  # which unit 1 alone still reads
    assert dropped(graph, masks) == {"0": (0, 3), "2": (1,)}
    assert dropped(graph, masks, Limits(multiple=4)) == {}
    assert dropped(graph, masks, Limits(multiple=1, min_units=3)) == {"0": (0,)}


@pytest.mark.parametrize("name", ["squeeze and excite", "option A", "flatten a map"])
def test_nothing_else_changes(name: str) -> None:
    """All units but the first lose all that read them, in one layer after the other."""
    net = make(name)
    graph = trace(net, images(1))
    group = graph.groups[0]
    masks: dict[str, Tensor] = {}
    for member in group.members:
        if member.role == "reads":
            assert dropped(graph, masks) == {}
            mask = torch.ones(graph.tensors[member.tensor][0], dtype=torch.bool)
            mask.movedim(member.dim, 0)[member.unit > 0] = False
            masks[member.tensor] = mask
    drops = unread_units(graph, masks, ANY)
    assert Plan(drops).dropped()[group.name] == tuple(range(1, group.size))
    zeros = tuple(ZeroWeights.of(tensor, mask) for tensor, mask in masks.items())
    with masked(net, graph, Plan(zeros)):
        expected = run(net, images())
    torch.testing.assert_close(run(apply(net, graph, Plan((*drops, *zeros))), images()), expected, rtol=1e-4, atol=1e-5)


def test_units_that_somebody_else_may_see_stay() -> None:
    net = make("channel statistics (CBAM)")
    graph = trace(net, images(1))
    name = next(group.name for group in graph.groups if group.name.startswith("before"))
    masks = {
        tensor: torch.zeros(graph.tensors[tensor][0], dtype=torch.bool)
        for tensor in {member.tensor for member in graph.group(name).members if member.role == "reads"}
    }
    assert name not in dropped(graph, masks)
    plain = trace(make("plain"), images(1))
    masks = without_columns(plain, "2.0.weight", 1)
    assert unread_units(plain, masks, ANY) == (DropUnits("0.0", (1,)),)
    assert unread_units(dataclasses.replace(plain, free_outputs=("1",)), masks, ANY) == ()
    assert unread_units(dataclasses.replace(plain, left=frozenset({"0.0"})), masks, ANY) == ()
