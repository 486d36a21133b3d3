"""Shares by latency in a run, with clocks made up."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from secateur.budget import Budget
from secateur.core.problem import Problem
from secateur.core.selection.latency_knapsack import kept_importance
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, size
from secateur.core.trace import trace
from secateur.data import Data
from secateur.errors import SettingError
from secateur.events import Event
from secateur.measure import Latency, SideBySide
from secateur.measure.layer_table import LayerShape, LayerTable
from secateur.methods.filter_std import FilterStd
from secateur.methods.magnitude import Magnitude
from secateur.outcome import Step
from secateur.report.limits import kept
from secateur.run import headline_speed, latency_search, layer_times, prune
from secateur.run.job import Job
from secateur.run.pipeline import Pipeline

X = torch.randn(1, 3, 8, 8)


def net() -> nn.Sequential:
    """Return a network whose first hidden layer costs much and whose last costs little for each of its units."""
    torch.manual_seed(0)
    layers = [
        layer
        for i, o in ((3, 32), (32, 32))
        for layer in (nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
    ]
    end = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 5))
    return nn.Sequential(*layers, *end).eval()


def cost(weight: tuple[int, ...], space: int) -> float:
    """Return the milliseconds of a layer on a machine that computes channels in blocks of 4."""
    return math.ceil(weight[0] / 4) * math.ceil(weight[1] / 4) * math.prod(weight[2:]) * space / 100


@pytest.fixture(autouse=True)
def clocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Make up times; return a list that grows with each layer that is timed."""
    timed: list[int] = []

    def layer(self: LayerTable, shape: LayerShape) -> float:
        timed.append(1)
        return cost(shape.weight, math.prod(shape.output[2:]))

    def whole(networks: dict[str, nn.Module], inputs: Any, runtime: Any, **options: Any) -> SideBySide:
        times = {
            name: sum(
                cost(tuple(m.weight.shape), 64 if isinstance(m, nn.Conv2d) else 1)
                for m in model.modules()
                if isinstance(m, nn.Conv2d | nn.Linear)
            )
            for name, model in networks.items()
        }
        latencies = {name: Latency(time, 0.0, 1, 1, 1, "cpu", runtime) for name, time in times.items()}
        return SideBySide(runtime, latencies, {n: (t,) * 11 for n, t in times.items()}, dict.fromkeys(times, 0.0))

    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(LayerTable, "_measure", layer)
    for module in (layer_times, latency_search, headline_speed):
        monkeypatch.setattr(module, "side_by_side", whole)
    return timed


def milliseconds(model: nn.Module) -> float:
    return latency_search.side_by_side({"it": model}, X, "eager").latencies["it"].milliseconds


def pruned(method: Any, **options: Any) -> Any:
    options = {"latency": False, "limits": Limits(multiple=1), **options}
    return prune(net(), X, method, **options)


@pytest.mark.slow
def test_shares_by_latency_keep_more_importance_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pipeline, "foretell", lambda self, graph: None)
    aware = pruned(Magnitude(allocate="latency"), target=0.4, latency=True)
    assert aware.after.counts.macs <= 0.4 * aware.before.counts.macs
    even = pruned(Magnitude(), target=0.5)
    while milliseconds(even.model) > milliseconds(aware.model):
        even = pruned(Magnitude(), target=even.target.keep - 0.04)
    graph = trace(net(), X)
    scores = Magnitude().scores(Problem(net(), graph))
    kept_by = [kept_importance(graph, scores, "uniform", each.plans[0]) for each in (aware, even)]
    assert kept_by[0] > kept_by[1]
    assert all(each.after % 4 == 0 for each in aware.widths[:2])  # where the steps of this machine are
    again = pruned(Magnitude(allocate="latency"), target=0.4, latency=True)
    assert again.plans == aware.plans


def test_rounds_time_the_network_that_each_begins_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pipeline, "foretell", lambda self, graph: None)
    graphs: list[int] = []
    forecast = layer_times._forecast

    def noted(job: Job, model: nn.Module, graph: Any) -> Any:
        graphs.append(graph.units)
        return forecast(job, model, graph)

    monkeypatch.setattr(layer_times, "_forecast", noted)
    result = pruned(Magnitude(allocate="latency"), target=0.3, rounds=2, latency=True)
    assert result.after.counts.macs <= 0.3 * result.before.counts.macs
    assert len(graphs) == 2
    assert graphs[0] > graphs[1]


def test_nothing_is_timed_where_nothing_may_be(clocks: list[int]) -> None:
    with pytest.raises(SettingError, match="nothing may be timed"):
        pruned(Magnitude(allocate="latency"), target=0.5)
    step = Step(Magnitude(allocate="latency"), Target(0.5))
    with pytest.raises(SettingError, match="nothing may be timed"):
        pruned(FilterStd(), target=0.5, then=[step])
    pruned(Magnitude(), target=0.5)
    pruned(Magnitude(), budget=Budget(max_macs=0.5))
    assert clocks == []


def test_a_limit_of_latency_takes_the_shares_that_keep_more() -> None:
    heard: list[Event] = []
    result = pruned("magnitude", budget=Budget(max_latency=0.5), tell=heard.append)
    latency = result.budget["latency"]
    shares = latency["shares"]
    assert shares["by"] == "kept importance"
    assert shares["taken"] == "latency"
    assert shares["worth"]["latency"] > shares["worth"]["scope"]
    assert latency["measured"] <= 0.5 * 1.05
    # what was settled is what was made
    assert milliseconds(result.model) / milliseconds(net()) == pytest.approx(latency["measured"])
    assert result.method == Magnitude(allocate="latency")
    [_, sentence] = kept({"budget": result.budget})
    assert sentence.startswith("Shares: latency-aware, with ")
    assert "kept importance; the method's own have" in sentence


def test_the_shares_of_the_method_stay_where_they_are_worth_more(data: Data) -> None:
    graph = trace(net(), X)
    calls: list[str] = []

    def decide(target: Any, limits: Any) -> Any:
        return Magnitude().plan(Problem(net(), graph, target, limits=limits))

    def aware(forecast: Any) -> Any:
        return lambda target, limits: Magnitude(allocate="latency").plan(
            Problem(net(), graph, target, limits=limits, time=lambda: forecast.times)
        )

    def worth(plan: Any) -> float:
        calls.append("asked")
        return 1.0 / len(calls)

    bargain = latency_search.Bargain(
        net(), graph, X, decide, alternative=latency_search.Alternative(aware, worth, "luck")
    )
    settled = latency_search.WithinLatency(bargain, Budget(max_latency=0.5)).settle()
    assert settled.allocate is None
    assert settled.method(Magnitude()) == Magnitude()
    assert settled.found["latency"]["shares"]["worth"] == {"scope": 1.0, "latency": 0.5}
    [_, sentence] = kept({"budget": settled.found})
    assert (
        sentence == "Shares: the method's own, with 100.0 % luck; latency-aware ones have 50.0 % within the same limit."
    )


def test_with_data_the_accuracy_decides(data: Data) -> None:
    budget = Budget(max_latency=0.5)
    shares = pruned("magnitude", budget=budget, data=data, repair=()).budget["latency"]["shares"]
    assert shares["by"] == "accuracy on the validation images"
    assert (shares["taken"] == "latency") == (shares["worth"]["latency"] > shares["worth"]["scope"])
    shares = pruned("magnitude", budget=budget, data=data).budget["latency"]["shares"]
    assert shares["by"] == "accuracy on the validation images after reconstruct"


@pytest.mark.slow
def test_shares_that_were_chosen_are_not_questioned() -> None:
    for method in (Magnitude(allocate="latency"), "weak_subnetwork"):
        found = pruned(method, budget=Budget(max_latency=0.6)).budget["latency"]
        assert "shares" not in found
    # the same share of the MACs may be more parameters
    found = pruned("magnitude", budget=Budget(max_latency=0.6, max_params=0.5))
    assert "shares" not in found.budget["latency"]
    assert size(trace(found.model, X)).params <= 0.5 * size(trace(net(), X)).params


def test_the_shares_are_taken_up_after_a_kill(tmp_path: Path, clocks: list[int]) -> None:
    budget, work = Budget(max_latency=0.5, threads=1), tmp_path / "work"
    first = pruned("magnitude", budget=budget, work=work)
    timed = len(clocks)
    again = pruned("magnitude", budget=budget, work=work)
    assert again.plans == first.plans
    assert again.method == first.method
    assert len(clocks) == timed  # the table was kept
