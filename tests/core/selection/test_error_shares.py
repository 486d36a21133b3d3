"""Widths from error curves: the order of steps, and methods that share their cut out by it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ladders
import nets
from plans import Numbered
from secateur.checks.curves import error_curves
from secateur.core.graph import Graph
from secateur.core.plan import DropUnits, Plan
from secateur.core.problem import Problem
from secateur.core.selection.costs import Product, Sizes, Times, TimeTerm
from secateur.core.selection.error_curves import ErrorCurve
from secateur.core.selection.error_shares import by_error, note, predicted, toward
from secateur.core.selection.target_selection import Step, family, fit, meet
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Measure, Target, size
from secateur.core.trace import trace
from secateur.errors import DataError, TargetError

MEASURES: tuple[Measure, ...] = ("macs", "params", "nonzero", "units")
NETWORKS = ["Plain", "CatSelf", "GroupConv", "DepthMultiplier", "Tied", "OptionA"]


def read(network: str) -> tuple[torch.nn.Module, Graph]:
    model = getattr(nets, network)().eval()
    return model, trace(model, torch.randn(1, 3, 8, 8))


def drawn(graph: Graph, seed: int = 0) -> list[ErrorCurve]:
    rng = np.random.default_rng(seed)
    return [ladders.curve(rng, group, str(rng.choice(ladders.SHAPES))) for group in graph.free]


def widths(graph: Graph, ordered: Sequence[Step]) -> list[dict[str, int]]:
    """Return the widths after each number of steps, none first."""
    found = [{group.name: group.size for group in graph.groups}]
    for step in ordered:
        found.append({**found[-1], step.group: found[-1][step.group] - len(step.units)})
    return found


def units_of(graph: Graph, price: Mapping[str, int]) -> Sizes:
    """Return sizes in which each unit of a group has a price."""
    return Sizes(tuple(Product(count, (ladders.axis(graph, name),)) for name, count in price.items()))


def test_weights_decide_the_shares_and_are_no_errors() -> None:
    layers = (torch.nn.Conv2d(3, 4, 1), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 1), torch.nn.ReLU())
    model = torch.nn.Sequential(*layers, torch.nn.Conv2d(4, 2, 1))
    graph = trace(model, torch.randn(1, 3, 4, 4))
    limits, target = Limits(multiple=1), Target(0.75, "units")
    alike = (0.0, 0.1, 0.2, 0.4)
    for heavy in ("0", "2"):
        curves = [ErrorCurve(name, (0, 1, 2), alike, weight=3.0 if name == heavy else 1.0) for name in ("0", "2")]
        plan = meet(graph, toward(graph, curves, target), target, limits)
        light = {"0": "2", "2": "0"}[heavy]
        assert plan.dropped() == {light: (0, 1)}
        assert predicted(curves, plan) == {heavy: 0.0, light: 0.2}


def test_the_least_error_for_what_is_saved_goes_first_by_a_hand_count() -> None:
    graph = ladders.graph_of(4, 4)
    curves = [
        ErrorCurve("g0", (2, 0, 3, 1), (0.0, 0.1, 0.3, 0.6)),
        ErrorCurve("g1", (3, 2, 1, 0), (0.0, 0.5, 2.0, 4.5)),
    ]
    # for each unit of cost: 0.1, 0.2, 0.3 in the first group and 0.05, 0.15, 0.25 in the second
    ordered = by_error(graph, curves, Limits(multiple=1), units_of(graph, {"g0": 1, "g1": 10}))
    assert [(step.group, step.units) for step in ordered] == [
        ("g1", (3,)), ("g0", (2,)), ("g1", (2,)), ("g0", (0,)), ("g1", (1,)), ("g0", (3,)),
    ]  # fmt: skip


def test_with_a_goal_the_order_leads_through_the_best_widths_within_it() -> None:
    graph = ladders.graph_of(4, 4)
    curves = [
        ErrorCurve("g0", (0, 1, 2, 3), (0.0, 0.1, 0.3, 0.6)),
        ErrorCurve("g1", (0, 1, 2, 3), (0.0, 0.5, 2.0, 4.5)),
    ]
    costs = units_of(graph, {"g0": 1, "g1": 10})
    for goal, best in ((43, (3, 4)), (34, (4, 3)), (33, (3, 3)), (23, (3, 2)), (11, (1, 1))):
        ordered = by_error(graph, curves, Limits(multiple=1), costs, goal=goal)
        after = [found for found in widths(graph, ordered) if found["g0"] + 10 * found["g1"] <= goal]
        assert tuple(after[0].values()) == best
        assert tuple(after[-1].values()) == (1, 1)  # and then on to the end
    assert by_error(graph, curves, Limits(multiple=1), costs, goal=10)  # out of reach: an order all the same


@pytest.mark.parametrize("network", NETWORKS)
def test_any_prefix_is_a_plan_within_the_limits_and_sizes_fall(network: str) -> None:
    _, graph = read(network)
    curves = drawn(graph)
    for limits in (Limits(multiple=1), Limits(multiple=2, min_units=3), Limits()):
        for order in (
            by_error(graph, curves, limits, Sizes.of(graph, "macs")),
            toward(graph, curves, Target(0.6, "params"))(limits),
        ):
            sizes = [math.inf]
            for count, found in enumerate(widths(graph, order)):
                gone: dict[str, list[int]] = {}
                for step in order[:count]:
                    gone.setdefault(step.group, []).extend(step.units)
                for curve in curves:  # in the order of the curve, and none twice
                    mine = gone.get(curve.group, [])
                    assert mine == list(curve.order[: len(mine)])
                for group in graph.groups:
                    assert found[group.name] == group.size or limits.allow(group, found[group.name])
                sizes.append(size(graph, Plan(tuple(DropUnits(n, tuple(sorted(u))) for n, u in gone.items()))).macs)
            assert all(a >= b for a, b in itertools.pairwise(sizes))
        usual = family(graph, {g.name: torch.zeros(g.size) for g in graph.free}, "uniform", limits)
        assert widths(graph, order)[-1] == widths(graph, usual)[-1]


@pytest.mark.parametrize("network", ["Plain", "CatSelf", "OptionA"])
def test_a_goal_is_met_with_no_more_error_than_without_one(network: str) -> None:
    _, graph = read(network)
    won = 0
    for seed, keep in itertools.product(range(3), (0.75, 0.5, 0.3)):
        curves = drawn(graph, seed)
        aimed = fit(graph, toward(graph, curves, Target(keep))(Limits(multiple=1)), Target(keep))
        plain = fit(graph, by_error(graph, curves, Limits(multiple=1), Sizes.of(graph, "macs")), Target(keep))
        evenly = fit(graph, family(graph, {g.name: torch.zeros(g.size) for g in graph.free}, "uniform", Limits(1, 1)),
                     Target(keep))  # fmt: skip
        errors = [sum(predicted(curves, plan).values()) for plan in (aimed, plain, evenly)]
        assert errors[0] <= errors[1] + 1e-12
        assert errors[0] <= errors[2] + 1e-12
        won += errors[0] < errors[2]
    assert won >= 5  # of nine


def test_units_that_may_not_go_stay_and_what_is_not_known_goes_last() -> None:
    graph = ladders.graph_of(6, 6, 6)
    curves = [
        ErrorCurve("g0", (5, 4), (0.0, 0.9, 0.95)),  # the other four never go
        ErrorCurve("g1", (0, 1, 2, 3, 4, 5), (0.0, 0.1)),  # ends early
        ErrorCurve("g2", (0, 1, 2, 3, 4, 5), (0.0, 0.1, 0.2, math.inf)),
    ]
    for goal in (None, 13):
        ordered = by_error(graph, curves, Limits(multiple=1), Sizes.of(graph, "units"), goal=goal)
        found = widths(graph, ordered)
        assert (4, 5, 4) in [tuple(each.values()) for each in found]
        assert (4, 3, 3) in [tuple(each.values()) for each in found]  # neither is emptied before the other
        assert tuple(found[-1].values()) == (4, 1, 1)
    plan = fit(graph, ordered, Target(11 / 18, "units"))
    assert [error for error in predicted(curves, plan).values() if math.isinf(error)]
    assert note(curves, plan).endswith("more are cut further than was measured")


def test_what_has_gone_before_counts() -> None:
    # a layer between both groups: the fewer the units of the second, the less a unit of the first costs
    graph = ladders.graph_of(4, 4, 4)
    costs = Sizes(
        (
            Product(1, (ladders.axis(graph, "g0"), ladders.axis(graph, "g2"))),
            Product(2, (ladders.axis(graph, "g1"),)),
        )
    )
    curves = [ErrorCurve(name, (0, 1, 2, 3), (0.0, 0.1, 0.2, 0.3)) for name in ("g0", "g1")]
    gone = Plan((DropUnits("g2", (1, 2, 3)),))
    assert by_error(graph, curves, Limits(multiple=1), costs)[0].group == "g0"
    assert by_error(graph, curves, Limits(multiple=1), costs, start=gone)[0].group == "g1"


def test_errors_are_lost_for_the_milliseconds_that_are_saved() -> None:
    graph = ladders.graph_of(8, 8)
    asked: list[int] = []

    def time(name: str, each: float) -> TimeTerm:
        def milliseconds(keep: Tensor) -> float:
            asked.append(1)
            first = graph.offsets[name]
            return each * math.ceil(int(keep[first : first + 8].sum()) / 4)  # in whole blocks

        return TimeTerm(frozenset([name]), milliseconds)

    curves = [ErrorCurve(name, tuple(range(8)), tuple(0.1 * n for n in range(8))) for name in ("g0", "g1")]
    times = Times((time("g0", 1.0), time("g1", 5.0)))
    ordered = by_error(graph, curves, Limits(multiple=1), times)
    assert [(step.group, len(step.units)) for step in ordered[:2]] == [
        ("g1", 4),
        ("g0", 4),
    ]  # what is between is jumped
    assert widths(graph, ordered)[-1] == {"g0": 1, "g1": 1}
    assert len(asked) <= 2 * 9


@pytest.mark.timeout(120)
@pytest.mark.slow
def test_fine_grids_of_many_wide_groups_are_done_in_time() -> None:
    graph = ladders.graph_of(*[2048, 512] * 18)
    rng = np.random.default_rng(0)
    curves = [ladders.curve(rng, group, "rising") for group in graph.groups]
    costs = ladders.chain(graph, [1] * 37)
    goal = costs.measure(torch.ones(graph.units, dtype=torch.bool)) // 2
    ordered = by_error(graph, curves, Limits(multiple=1), costs, goal=goal)
    assert sum(len(step.units) for step in ordered) == graph.units - 36


def test_a_prediction_is_put_in_words() -> None:
    curves = [ErrorCurve("a", (0, 1), (0.0, 0.25, 0.5)), ErrorCurve("b", (0, 1), (0.0, 0.125, 0.5))]
    assert note(curves, Plan((DropUnits("a", (0,)), DropUnits("b", (0,))))) == (
        "layers are predicted to lose 0.375 of the variance of what they put out once they are fitted anew, "
        "and more without a fit, "
        "added up over 2 groups: "
        "0.25 in a, 0.125 in b"
    )
    assert note(curves, Plan()).endswith(
        "lose 0 of the variance of what they put out once they are fitted anew, and more without a fit, "
        "added up over 2 groups"
    )


# methods


@pytest.mark.parametrize("network", NETWORKS)
def test_a_method_meets_any_target_on_any_network(network: str) -> None:
    model, graph = read(network)

    def problem(**options: Any) -> Problem:
        return Problem(model, graph, errors=lambda scores: error_curves(graph, scores), **options)

    for of in MEASURES:
        plan = Numbered(allocate="reconstruction").plan(problem(target=Target(0.6, of)))
        assert size(graph, plan).of(of) <= 0.6 * size(graph).of(of)
        assert "predicted to lose" in plan.notes[0]
        assert all(units == tuple(range(len(units))) for units in plan.dropped().values())
    with pytest.raises(TargetError) as aware:
        Numbered(allocate="reconstruction").plan(problem(target=Target(0.001)))
    with pytest.raises(TargetError) as even:
        Numbered().plan(problem(target=Target(0.001)))
    assert aware.value.args == even.value.args  # the smallest network is the same


def test_a_group_whose_readers_are_hard_to_fit_keeps_more_and_rates_of_its_own_stay() -> None:
    model, graph = read("Plain")
    first, second = (group.name for group in graph.free)
    asked: list[set[str] | None] = []

    def errors(scores: Mapping[str, Tensor] | None) -> list[ErrorCurve]:
        asked.append(None if scores is None else set(scores))
        worth = {first: 1.0, second: 0.01}
        return [
            ErrorCurve(c.group, c.order, tuple(worth[c.group] * error for error in c.error))
            for c in error_curves(graph, scores)
        ]

    made = Problem(model, graph, Target(0.6, "units"), errors=errors, limits=Limits(multiple=1))
    gone = {name: len(units) for name, units in Numbered(allocate="reconstruction").plan(made).dropped().items()}
    assert gone == {second: 10}  # of 24 units, until they are worth more than the first of the other
    settled = Numbered(allocate="reconstruction", keeps=((second, 0.75),)).plan(made)
    gone = {name: len(units) for name, units in settled.dropped().items()}
    assert gone == {second: 4, first: 6}
    assert asked == [{first, second}, {first}]
    assert size(graph, settled).units <= 0.6 * 24


def test_it_needs_images() -> None:
    model, graph = read("Plain")
    with pytest.raises(DataError, match="on a few hundred images, labelled or not, and there are none; give some"):
        Numbered(allocate="reconstruction").plan(Problem(model, graph, Target(0.5)))


def test_multiples_that_cannot_meet_a_target_are_refined() -> None:
    _, graph = read("Plain")
    curves = error_curves(graph, None)
    target = Target(0.1, "macs")
    plan = meet(graph, toward(graph, curves, target), target, Limits())
    assert size(graph, plan).macs <= 0.1 * size(graph).macs


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (1000, " (from 1,000 images), added up"),
        (3, " (from 3 images, too few to go by: it looks the better the fewer they are below 64), added up"),
        (1, " (from 1 image, too few"),
    ],
)
def test_a_prediction_says_from_how_many_images(images: int, words: str) -> None:
    assert words in note([ErrorCurve("a", (0, 1), (0.0, 0.25, 0.5))], Plan((DropUnits("a", (0,)),)), images)
