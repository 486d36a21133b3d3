from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import nets
from ladders import graph_of
from secateur.core.graph import Graph, Group
from secateur.core.method import Paper, ScoreMethod
from secateur.core.plan import DropUnits, Plan
from secateur.core.problem import Problem
from secateur.core.selection.costs import Times, TimeTerm
from secateur.core.selection.latency_knapsack import RUNGS, by_latency, kept_importance
from secateur.core.selection.target_selection import Scope, Step, family, fit
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, size
from secateur.core.trace import trace
from secateur.errors import SettingError, TargetError


def width(graph: Graph, name: str, keep: Tensor) -> int:
    first = graph.offsets[name]
    return int(keep[first : first + graph.group(name).size].sum())


def separable(graph: Graph, tables: dict[str, list[float]]) -> Times:
    """Return times that add up over groups: each takes what its table says of its width."""

    def term(name: str) -> TimeTerm:
        return TimeTerm(frozenset([name]), lambda keep: tables[name][width(graph, name, keep)])

    return Times(tuple(term(name) for name in tables))


def chain(graph: Graph, block: int = 1) -> Times:
    """Return the times of layers that each read one group and make the next, in whole blocks of channels."""
    names = [group.name for group in graph.groups]

    def blocks(name: str, keep: Tensor) -> int:
        return math.ceil(width(graph, name, keep) / block)

    def term(a: str, b: str) -> TimeTerm:
        return TimeTerm(frozenset([a, b]), lambda keep: float(blocks(a, keep) * blocks(b, keep)))

    return Times(tuple(term(a, b) for a, b in itertools.pairwise(names)))


def prefixes(graph: Graph, ordered: list[Step]) -> list[Tensor]:
    """Return what is kept after each number of steps, none first."""
    keep = torch.ones(graph.units, dtype=torch.bool)
    found = [keep.clone()]
    for step in ordered:
        keep[graph.offsets[step.group] + torch.tensor(step.units)] = False
        found.append(keep.clone())
    return found


def lost(graph: Graph, scores: dict[str, Tensor], scope: Scope, widths: tuple[int, ...]) -> float:
    """Return by hand what is lost when each group keeps so many of its best units."""
    total = 0.0
    for group, wide in zip(graph.groups, widths, strict=True):
        best = scores[group.name].double().sort(descending=True).values
        kept, everything = float(best[:wide].sum()), float(best.sum())
        total += everything - kept if scope == "global" else -math.log(kept / everything)
    return total


def choices(graph: Graph, scores: dict[str, Tensor], scope: Scope, times: Times) -> list[tuple[float, float]]:
    """Return time and loss of every combination of widths."""
    found: list[tuple[float, float]] = []
    for widths in itertools.product(*(range(1, group.size + 1) for group in graph.groups)):
        keep = torch.cat([torch.arange(g.size) < w for g, w in zip(graph.groups, widths, strict=True)])
        found.append((times.milliseconds(keep), lost(graph, scores, scope, widths)))
    return found


def widths_of(graph: Graph, keep: Tensor) -> tuple[int, ...]:
    return tuple(width(graph, group.name, keep) for group in graph.groups)


def drawn(graph: Graph, seed: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {group.name: torch.rand(group.size, generator=rng) + 0.01 for group in graph.groups}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), scope=st.sampled_from(["uniform", "global"]))
def test_no_choice_of_widths_keeps_more_where_the_order_stops(seed: int, scope: Scope) -> None:
    graph = graph_of(4, 6, 5)
    scores = drawn(graph, seed)
    rng = torch.Generator().manual_seed(seed + 1)
    # times that rise with the width in steps of any size, some of them none at all
    rises = [torch.rand(g.size, generator=rng) * (torch.rand(g.size, generator=rng) > 0.4) for g in graph.groups]
    tables = {g.name: [0.0, *r.cumsum(0).tolist()] for g, r in zip(graph.groups, rises, strict=True)}
    times = separable(graph, tables)
    everything = choices(graph, scores, scope, times)
    stops = prefixes(graph, by_latency(graph, scores, scope, Limits(), times))
    before = math.inf
    for keep in stops:
        time, loss = times.milliseconds(keep), lost(graph, scores, scope, widths_of(graph, keep))
        if time >= before - 1e-9:
            continue  # the end of the order, which saves nothing
        least = min(other for taken, other in everything if taken <= time + 1e-9)
        assert loss == pytest.approx(least, abs=1e-6)
        before = time


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.2, 0.95))
def test_any_limit_of_time_is_met_within_one_step_of_the_best(seed: int, share: float) -> None:
    graph = graph_of(5, 6, 4)
    scores = drawn(graph, seed)
    rng = torch.Generator().manual_seed(seed + 1)
    tables = {g.name: [0.0, *torch.rand(g.size, generator=rng).cumsum(0).tolist()] for g in graph.groups}
    times = separable(graph, tables)
    stops = prefixes(graph, by_latency(graph, scores, "global", Limits(), times))
    limit = share * times.milliseconds(stops[0])
    first = next((n for n, keep in enumerate(stops) if times.milliseconds(keep) <= limit), None)
    feasible = [loss for time, loss in choices(graph, scores, "global", times) if time <= limit]
    assert (first is None) == (not feasible)
    if first is not None:
        one_less = lost(graph, scores, "global", widths_of(graph, stops[first - 1]))
        assert one_less <= min(feasible) + 1e-6


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_layers_that_share_groups_come_near_the_best(seed: int, scope: Scope) -> None:
    graph = graph_of(6, 7, 5, 6)
    scores, times = drawn(graph, seed), chain(graph)
    everything = choices(graph, scores, scope, times)
    for keep in prefixes(graph, by_latency(graph, scores, scope, Limits(), times))[1:-6]:
        time, loss = times.milliseconds(keep), lost(graph, scores, scope, widths_of(graph, keep))
        least = min(other for taken, other in everything if taken <= time)
        assert loss <= 1.15 * least


def test_widths_that_save_no_time_are_jumped_over() -> None:
    graph = graph_of(16, 16, 16)
    times = chain(graph, block=4)
    ordered = by_latency(graph, drawn(graph, 3), "uniform", Limits(), times)
    stops = prefixes(graph, ordered)
    saving = [keep for last, keep in itertools.pairwise(stops) if times.milliseconds(keep) < times.milliseconds(last)]
    assert len(saving) == 9
    assert all(wide % 4 == 0 for keep in saving for wide in widths_of(graph, keep))
    # what is left saves nothing, and is there all the same: other targets may need it
    assert widths_of(graph, stops[len(saving)]) == (4, 4, 4)
    assert widths_of(graph, stops[-1]) == (1, 1, 1)


def test_a_slow_group_goes_before_a_fast_one_by_a_hand_count() -> None:
    graph = graph_of(4, 4)
    times = separable(graph, {"g0": [0, 1, 2, 3, 4], "g1": [0, 10, 20, 30, 40]})
    scores = {"g0": torch.tensor([1.0, 2.0, 3.0, 4.0]), "g1": torch.tensor([5.0, 15.0, 25.0, 45.0])}
    # lost for each millisecond: 1, 2, 3 in the first group and 0.5, 1.5, 2.5 in the second
    order = [(step.group, step.units) for step in by_latency(graph, scores, "global", Limits(), times)]
    assert order == [("g1", (0,)), ("g0", (0,)), ("g1", (1,)), ("g0", (1,)), ("g1", (2,)), ("g0", (2,))]


def test_what_a_step_saves_is_looked_up_when_its_turn_comes() -> None:
    # a layer between both groups takes as long as their product; alone, the first would be emptied first
    graph = graph_of(8, 8)
    scores = {"g0": torch.full((8,), 1.0), "g1": torch.full((8,), 1.01)}
    ordered = by_latency(graph, scores, "global", Limits(), chain(graph))
    assert ordered[0].group == "g0"
    assert {step.group for step in ordered[:3]} == {"g0"}  # which makes a unit of it cheaper, and of the other dearer
    assert widths_of(graph, prefixes(graph, ordered)[-1]) == (1, 1)


def test_units_that_never_go_stay_and_limits_hold() -> None:
    graph = graph_of(32, 8)
    scores = drawn(graph, 5)
    scores["g1"][2:] = math.inf
    ordered = by_latency(graph, scores, "uniform", Limits(multiple=8, min_units=8), chain(graph))
    for keep in prefixes(graph, ordered):
        assert width(graph, "g0", keep) in (32, 24, 16, 8)
        assert width(graph, "g1", keep) == 8  # of two units that could go no multiple of 8 is left
    assert len(ordered) == 3


def test_scores_of_any_sign_and_none_at_all() -> None:
    graph = graph_of(4, 4, 4)
    scores = {"g0": torch.zeros(4), "g1": torch.tensor([-1.0, 0.0, 1.0, 2.0]), "g2": torch.full((4,), math.inf)}
    for scope in ("uniform", "global"):
        ordered = by_latency(graph, scores, scope, Limits(), chain(graph))
        assert {step.group for step in ordered} == {"g0", "g1"}
        assert widths_of(graph, prefixes(graph, ordered)[-1]) == (1, 1, 4)
    assert by_latency(graph, {}, "uniform", Limits(), chain(graph)) == []


def test_few_widths_of_a_wide_group_are_timed_and_all_are_walked() -> None:
    graph, asked = graph_of(1000), set[int]()

    def time(keep: Tensor) -> float:
        asked.add(int(keep.sum()))
        return float(keep.sum())

    times = Times((TimeTerm(frozenset(["g0"]), time),))
    ordered = by_latency(graph, drawn(graph, 0), "uniform", Limits(multiple=8), times)
    assert len(asked) <= RUNGS + 2
    assert all(wide % 8 == 0 for wide in asked)
    assert all(len(step.units) == 8 for step in ordered)
    assert len(ordered) == 1000 // 8 - 1


def test_an_order_is_made_once() -> None:
    graph, calls = graph_of(6, 6), list[int]()
    inner = chain(graph)

    def time(keep: Tensor) -> float:
        calls.append(1)
        return inner.milliseconds(keep)

    times = Times((TimeTerm(frozenset(["g0", "g1"]), time),))
    scores = drawn(graph, 1)
    first = by_latency(graph, scores, "uniform", Limits(), times)
    asked = len(calls)
    assert by_latency(graph, scores, "uniform", Limits(), times) == first
    assert len(calls) == asked
    assert by_latency(graph, drawn(graph, 2), "uniform", Limits(), times) != first
    assert len(calls) > asked


def test_kept_importance_is_a_share_by_a_hand_count() -> None:
    graph = graph_of(4, 2)
    scores = {"g0": torch.tensor([1.0, 2.0, 3.0, 4.0]), "g1": torch.tensor([10.0, 30.0])}
    plan = Plan((DropUnits("g0", (0, 1)), DropUnits("g1", (0,))))
    assert kept_importance(graph, scores, "global", plan) == pytest.approx(37 / 50)
    assert kept_importance(graph, scores, "uniform", plan) == pytest.approx(math.sqrt(0.7 * 0.75))
    assert kept_importance(graph, scores, "uniform", Plan()) == 1.0


def test_a_channel_of_a_residual_stream_counts_once_for_each_of_its_layers() -> None:
    model = nn.Sequential(nets.conv(3, 8), nets.Bottleneck(8), nets.Head(8))
    graph = trace(model, torch.randn(1, 3, 8, 8))
    stream, inner = (next(g for g in graph.free if len(g.layers) == n) for n in (2, 1))
    scores = {group.name: torch.ones(group.size) for group in graph.free}
    half = {g.name: Plan((DropUnits(g.name, tuple(range(4))),)) for g in (stream, inner)}
    # three layers make units, two of them those of the stream
    assert kept_importance(graph, scores, "uniform", half[stream.name]) == pytest.approx(0.5 ** (2 / 3))
    assert kept_importance(graph, scores, "uniform", half[inner.name]) == pytest.approx(0.5 ** (1 / 3))
    assert kept_importance(graph, scores, "global", half[stream.name]) == pytest.approx(1 - 8 / 24)


@dataclass(frozen=True)
class Numbered(ScoreMethod):
    """Units go in the order of their numbers."""

    paper: ClassVar[Paper] = Paper("t", "a", "v", 2000)

    def score(self, group: Group, problem: Problem) -> Tensor:
        return torch.arange(group.size).float() + 1


@pytest.mark.parametrize("network", ["Plain", "CatSelf", "GroupConv", "DepthMultiplier", "Tied", "OptionA"])
def test_a_method_meets_any_target_on_any_network(network: str) -> None:
    model = getattr(nets, network)().eval()
    graph = trace(model, torch.randn(1, 3, 8, 8))
    times = chain(graph, block=2)

    def problem(**options: Any) -> Problem:
        return Problem(model, graph, time=lambda: times, **options)

    for target in (Target(0.6), Target(0.5, "params"), Target(0.7, "units")):
        plan = Numbered(allocate="latency").plan(problem(target=target))
        assert size(graph, plan).of(target.of) <= target.keep * size(graph).of(target.of)
    scores = Numbered().scores(problem())
    usual = family(graph, scores, "uniform", Limits())
    ordered = by_latency(graph, scores, "uniform", Limits(), times)
    assert sorted(u for s in ordered for u in s.units) == sorted(u for s in usual for u in s.units)
    with pytest.raises(TargetError) as aware:
        fit(graph, ordered, Target(0.001))
    with pytest.raises(TargetError) as even:
        fit(graph, usual, Target(0.001))
    assert aware.value.args == even.value.args  # the smallest network is the same


def test_it_needs_times() -> None:
    model = nets.Plain().eval()
    graph = trace(model, torch.randn(1, 3, 8, 8))
    with pytest.raises(SettingError, match="needs the times of layers, and this problem has none"):
        Numbered(allocate="latency").plan(Problem(model, graph, Target(0.5)))
