from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nets import Plain
from plans import Numbered
from secateur.core.graph import Graph, Group
from secateur.core.metric import Metric
from secateur.core.plan import Plan
from secateur.core.problem import Problem
from secateur.core.selection.sensitivity_curves import Curve, by_damage, points
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, size
from secateur.core.trace import trace
from secateur.errors import DataError, SettingError, TargetError


@pytest.fixture(scope="module")
def graph() -> Graph:
    """Return the graph of a network with two groups, of 8 and 16 units."""
    return trace(Plain(), torch.randn(1, 3, 8, 8))


def curve(group: Group, *losses: float) -> Curve:
    """Return a curve with equal distances between its points, from the whole group to one unit."""
    steps = len(losses) - 1
    kept = tuple(round(group.size - (group.size - 1) * i / steps) for i in range(steps + 1))
    return Curve(group.name, tuple(group.layers), group.size, kept, losses)


def ascending(graph: Graph) -> dict[str, Tensor]:
    return {group.name: torch.arange(group.size).float() for group in graph.free}


def test_damage_is_read_between_points_and_never_falls() -> None:
    found = Curve("g", ("g",), 8, (8, 6, 4, 2), (1.0, 0.5, 3.0, 2.0))
    assert [found.damage(gone) for gone in (0, 1, 2, 3, 4, 5, 6, 7)] == [0, 0, 0, 1.0, 2.0, 2.0, 2.0, 2.0]


def test_a_loss_that_is_not_finite_is_the_worst_damage_and_survives_json() -> None:
    found = Curve("g", ("a", "b"), 4, (4, 2, 1), (1.0, 1.5, math.inf), (0.9, 0.8, 0.1))
    assert found.damage(2) == 0.5
    assert found.damage(3) > 1e29
    assert found.to_dict()["loss"] == [1.0, 1.5, None]
    assert Curve.from_dict(found.to_dict()) == found


def test_the_curve_of_an_earlier_version_is_read() -> None:
    found = Curve("g", ("a",), 4, (4, 2), (1.0, 1.5), (0.9, 0.8))
    old = {**found.to_dict(), "accuracy": [0.9, 0.8]}
    del old["values"], old["metric"]
    assert Curve.from_dict(old) == found
    del old["accuracy"]
    assert Curve.from_dict(old).values == ()
    other = replace(found, metric=Metric("RMSE", "m", higher_is_better=False))
    assert Curve.from_dict(json.loads(json.dumps(other.to_dict()))) == other


def test_accuracy_is_read_off_the_curve_and_not_beyond_it() -> None:
    found = Curve("g", (), 8, (8, 4, 2), (0.0, 0.0, 0.0), (0.9, 0.7, 0.1))
    values = [found.value_at(keep) for keep in (1.0, 0.75, 0.5, 0.25)]
    assert values == [pytest.approx(v) for v in (0.9, 0.8, 0.7, 0.1)]
    assert found.value_at(0.2) is None
    assert Curve("g", (), 8, (8,), (0.0,)).value_at(0.5) is None


def test_points_are_evenly_spaced_and_drop_the_lowest(graph: Graph) -> None:
    small = graph.free[0]
    assert small.size == 8
    scores = torch.tensor([5.0, 1.0, 7.0, 2.0, 6.0, 0.0, 4.0, 3.0])
    found = points(small, scores, Limits(min_units=2, multiple=1), 3)
    assert [(kept, plan.dropped()[small.name]) for kept, plan in found] == [
        (6, (1, 5)),
        (4, (1, 3, 5, 7)),
        (2, (0, 1, 3, 5, 6, 7)),
    ]
    assert [kept for kept, _ in points(small, scores, Limits(multiple=4), 8)] == [4]
    assert points(small, torch.full((8,), torch.inf), Limits(multiple=1), 8) == []


def test_the_group_that_suffers_less_goes_first(graph: Graph) -> None:
    first, second = graph.free
    curves = [curve(first, 0.0, 7.0), curve(second, 0.0, 30.0)]  # 1 and 2 for each unit that goes
    ordered = by_damage(graph, ascending(graph), curves, Limits(multiple=1))
    taken = [step.group for step in ordered[:9]]
    assert taken.count(first.name) == 6
    assert taken.count(second.name) == 3
    assert [unit for step in ordered if step.group == first.name for unit in step.units] == list(range(7))


def test_without_damage_every_group_loses_the_same_share(graph: Graph) -> None:
    first, second = graph.free
    ordered = by_damage(graph, ascending(graph), [curve(first, 1.0, 0.5), curve(second, 1.0, 1.0)], Limits(multiple=1))
    taken = [step.group for step in ordered[:12]]
    assert (taken.count(first.name), taken.count(second.name)) == (4, 8)


@given(
    losses=st.tuples(*[st.lists(st.floats(0, 10), min_size=2, max_size=6) for _ in range(2)]),
    least=st.integers(1, 6),
    multiple=st.integers(1, 5),
    cut=st.integers(0, 30),
)
def test_any_prefix_does_equal_damage_within_limits(
    graph: Graph, losses: tuple[list[float], list[float]], least: int, multiple: int, cut: int
) -> None:
    limits = Limits(least, multiple)
    curves = [curve(group, *values) for group, values in zip(graph.free, losses, strict=True)]
    ordered = by_damage(graph, ascending(graph), curves, limits)
    gone: dict[str, int] = {group.name: 0 for group in graph.free}
    for step in ordered[:cut]:
        gone[step.group] += len(step.units)
    coming = {step.group: len(step.units) for step in reversed(ordered[cut:])}  # the next of each group
    for group, found in zip(graph.free, curves, strict=True):
        assert group.size - gone[group.name] >= min(least, group.size)
        assert not gone[group.name] or (group.size - gone[group.name]) % multiple == 0
        for other in curves:
            if other.group in coming:
                assert found.damage(gone[group.name]) <= other.damage(gone[other.group] + coming[other.group])


def problem(graph: Graph, keep: float, per_unit: tuple[float, float]) -> Problem:
    """Return a problem in which each unit that a group has lost costs a fixed loss."""
    model = Plain().eval()

    def loss(network: nn.Module) -> float:
        readers = [network.get_submodule(name).weight.flatten(2) for name in ("2.0",)]
        readers.append(network.get_submodule("3.fc").weight[:, :, None])
        gone = [int((weight.abs().sum((0, 2)) == 0).sum()) for weight in readers]
        return sum(cost * count for cost, count in zip(per_unit, gone, strict=True))

    return Problem(model, graph, Target(keep, "units"), loss=loss, limits=Limits(multiple=1))


def test_the_target_is_met_with_equal_damage_and_not_a_unit_more(graph: Graph) -> None:
    made = problem(graph, 0.5, (4.0, 1.0))
    plan = Numbered(allocate="sensitivity").plan(made)
    gone = {name: len(units) for name, units in plan.dropped().items()}
    # of 24 units 12 go; the unit cost of the first group is fourfold
    assert gone == {graph.free[0].name: 2, graph.free[1].name: 10}
    assert size(graph, plan).units == 12
    assert Numbered(allocate="sensitivity").plan(made) == plan
    assert {n: len(u) for n, u in Numbered().plan(made).dropped().items()} == {
        graph.free[0].name: 4,
        graph.free[1].name: 8,
    }


def test_curves_may_come_from_a_faster_measurement(graph: Graph) -> None:
    asked: list[set[str]] = []

    def measured(scores: object) -> list[Curve]:
        asked.append(set(scores))  # type: ignore[call-overload]
        return [curve(graph.free[0], 0.0, 0.0), curve(graph.free[1], 0.0, 1.0)]

    model = Plain().eval()
    made = Problem(model, graph, Target(0.75, "units"), sensitivity=measured, limits=Limits(multiple=1))
    plan = Numbered(allocate="sensitivity").plan(made)
    assert {name: len(units) for name, units in plan.dropped().items()} == {graph.free[0].name: 6}
    assert asked == [{group.name for group in graph.free}]


def test_it_needs_data_and_a_target_that_can_be_reached(graph: Graph) -> None:
    with pytest.raises(DataError, match="give data="):
        Numbered(allocate="sensitivity").plan(Problem(Plain().eval(), graph, Target(0.5)))
    with pytest.raises(TargetError, match="cannot keep only"):
        Numbered(allocate="sensitivity").plan(problem(graph, 0.01, (1.0, 1.0)))
    with pytest.raises(
        SettingError, match="'allocate' must be one of scope, sensitivity, latency, reconstruction, not 'both'"
    ):
        Numbered(allocate="both")  # type: ignore[arg-type]


def test_an_empty_plan_drops_nothing(graph: Graph) -> None:
    assert by_damage(graph, {}, [], Limits()) == []
    assert Plan().dropped() == {}
