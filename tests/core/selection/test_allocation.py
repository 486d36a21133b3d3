"""From a few numbers to what stays of each layer, and exact sizes on the way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from secateur.checks.networks import networks
from secateur.core.graph import Graph, tensor_of
from secateur.core.selection.allocation import Allocation, plan_of, present
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import size
from secateur.core.trace import trace
from secateur.errors import TargetError

MODEL = networks()["chain"]
GRAPH = trace(MODEL, torch.ones(1, 3, 8, 8))


def weight(name: str) -> Tensor:
    return tensor_of(MODEL, name)


def allocation(granularity: Any = "units", by: Any = "keep", limits: Limits = Limits(multiple=1)) -> Allocation:  # noqa: B008
    return Allocation.of(GRAPH, granularity, "layer", by, limits)


@settings(max_examples=30, deadline=None)
@given(st.data(), st.sampled_from(["units", "weights"]), st.sampled_from(["keep", "deviation"]))
def test_sizes_on_the_way_are_those_of_the_plan(data: st.DataObject, granularity: str, by: str) -> None:
    ranking = allocation(granularity, by).rank(weight)
    point = [data.draw(st.floats(low, high)) for low, high in ranking.allocation.box]
    counts = ranking.counts(point)
    plan = ranking.plan(counts)
    for of in ranking.allocation.measures:
        assert ranking.size(counts, of) == size(GRAPH, plan).of(of)
    assert plan_of(ranking.allocation, ranking.keep(counts)) == plan


@settings(max_examples=30, deadline=None)
@given(st.data(), st.sampled_from([("units", "macs"), ("weights", "nonzero")]), st.sampled_from(["keep", "deviation"]))
def test_fitted_points_are_just_small_enough(data: st.DataObject, kind: tuple[str, Any], by: str) -> None:
    ranking = allocation(kind[0], by).rank(weight)
    point = tuple(data.draw(st.floats(low, high)) for low, high in ranking.allocation.box)
    share = data.draw(st.floats(0.3, 1.0))
    fitted = ranking.within(point, kind[1], share)
    whole = ranking.whole(kind[1])
    assert ranking.size(ranking.counts(fitted), kind[1]) <= share * whole * (1 + 1e-9)
    more = tuple(min(1.0, x * 1.02 + 1e-6) for x in fitted) if by == "keep" else tuple(x - 0.05 for x in fitted)
    if kind[0] == "weights" and share < 0.95:
        assert ranking.size(ranking.counts(more), kind[1]) > (share - 0.02) * whole
    if by == "keep" and max(fitted) < 1.0:  # one factor for all
        factors = [a / b for a, b in zip(fitted, point, strict=True)]
        assert max(factors) == pytest.approx(min(factors))


def test_fractions_and_deviations_count_as_they_say() -> None:
    ranking = allocation("weights").rank(weight)
    part = next(iter(ranking.values))
    total = len(ranking.values[part])
    assert ranking.counts([0.5] * len(ranking.values))[part] == int(total * 0.5 + 0.5)
    by = allocation("weights", "deviation").rank(weight)
    own = by.values[part]
    expected = int((own > own.double().mean() + 0.5 * own.double().std(correction=0)).sum())
    assert by.counts([0.5] * len(by.values))[part] == expected


def test_units_count_by_what_makes_and_what_reads_them() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1))  # type: ignore[operator, union-attr]
        net[3].weight.copy_(torch.tensor([[4.0, -4.0, 1.0], [4.0, 4.0, 1.0]]))  # type: ignore[operator, union-attr]
    graph = trace(net, torch.ones(1, 1, 2, 2))
    of = Allocation.of(graph, "units", "layer", "keep", Limits())
    values = of.values(of.parts[0], lambda name: tensor_of(net, name))
    assert values.tolist() == pytest.approx([1 / 2 + 4 / 3, 2 / 2 + 4 / 3, 3 / 2 + 1 / 3])


def test_what_is_there_is_seen() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    graph = trace(net, torch.ones(1, 3, 2, 2))
    with torch.no_grad():
        net[3].weight[:, 2] = 0  # type: ignore[index, union-attr]
        net[0].weight[0, 1] = 0  # type: ignore[index, union-attr]
    units = Allocation.of(graph, "units", "layer", "keep", Limits())
    assert [m.tolist() for m in present(units, lambda n: tensor_of(net, n)).values()] == [[True, True, False, True]]
    weights = Allocation.of(graph, "weights", "layer", "keep", Limits())
    found = present(weights, lambda n: tensor_of(net, n))
    assert {name: int((~mask).sum()) for name, mask in found.items()} == {"0.weight": 1, "3.weight": 2}


def test_what_cannot_be_is_refused_with_what_can() -> None:
    ranking = allocation(limits=Limits(min_units=4)).rank(weight)
    with pytest.raises(TargetError, match="ask for at least that") as caught:
        ranking.within((1.0,) * len(ranking.allocation.stages), "macs", 0.01)
    least = caught.value.reachable
    assert least is not None
    ranking.within((1.0,) * len(ranking.allocation.stages), "macs", least)
    nothing: Graph = GRAPH.without("*")
    with pytest.raises(TargetError, match="no units of this network can go"):
        Allocation.of(nothing, "units", "auto", "keep", Limits())
