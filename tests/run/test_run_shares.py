"""Shares by error curves in a run, with curves and clocks made up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.budget import Budget
from secateur.checks.curves import error_curves
from secateur.core.method import Method
from secateur.core.problem import Problem
from secateur.core.selection.error_curves import ErrorCurve
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.errors import SettingError
from secateur.measure import Latency, SideBySide
from secateur.measure.layer_table import LayerShape, LayerTable
from secateur.methods.magnitude import Magnitude
from secateur.methods.reconstruction import Reconstruction
from secateur.report.limits import kept
from secateur.run import headline_speed, latency_aware_methods, latency_search, layer_times, prune, speed_forecast
from secateur.run.budget_terms import Settled
from secateur.run.round import Round

X = torch.randn(1, 3, 8, 8)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    end = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 5))
    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), *end).eval()


def milliseconds(model: nn.Module) -> float:
    """Return the time of a network on a machine that computes channels in blocks of 4 and is slow at linear layers."""
    return sum(cost(tuple(m.weight.shape)) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear))


def cost(weight: tuple[int, ...]) -> float:
    return math.ceil(weight[0] / 4) * math.ceil(weight[1] / 4) * math.prod(weight[2:] or (20,))


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def whole(networks: dict[str, nn.Module], inputs: Any, runtime: Any, **options: Any) -> SideBySide:
        times = {name: milliseconds(model) for name, model in networks.items()}
        latencies = {name: Latency(time, 0.0, 1, 1, 1, "cpu", runtime) for name, time in times.items()}
        return SideBySide(runtime, latencies, {n: (t,) * 11 for n, t in times.items()}, dict.fromkeys(times, 0.0))

    def layer(self: LayerTable, shape: LayerShape) -> float:
        return cost(shape.weight)

    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(LayerTable, "_measure", layer)
    for module in (layer_times, latency_search, headline_speed, speed_forecast):
        monkeypatch.setattr(module, "side_by_side", whole)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[set[str] | None]:
    """Make up error curves; return a list of what was asked for."""
    found: list[set[str] | None] = []
    problem = Round.problem

    def with_curves(self: Round, *arguments: Any) -> Problem:
        made = problem(self, *arguments)

        def errors(scores: Mapping[str, Tensor] | None) -> list[ErrorCurve]:
            found.append(None if scores is None else set(scores))
            return error_curves(made.graph, scores)

        return replace(made, errors=errors)

    monkeypatch.setattr(Round, "problem", with_curves)
    return found


def pruned(method: Any, **options: Any) -> Any:
    return prune(net(), X, method, **{"latency": False, "limits": Limits(multiple=1), **options})


@pytest.mark.parametrize("method", [Magnitude(allocate="reconstruction"), Reconstruction()])
def test_a_run_says_what_error_is_predicted(method: Method, asked: list[set[str] | None]) -> None:
    result = pruned(method, target=Target(0.5))
    assert result.after.counts.macs <= 0.5 * result.before.counts.macs
    blind, predicted, widths = result.plans[0].notes
    assert blind.startswith("there are no images, so ")
    assert predicted.startswith("layers are predicted to lose ")
    assert widths.startswith("widths that are cut are any number")
    assert asked == [{"0", "2", "6"} if isinstance(method, Magnitude) else None]


def test_without_images_weights_say_what_is_lost() -> None:
    for method in (Magnitude(allocate="reconstruction"), Reconstruction()):
        result = pruned(method, target=Target(0.5))
        assert result.after.counts.macs <= 0.5 * result.before.counts.macs
        assert result.plans[0].notes[0].startswith("there are no images, so ")


def test_the_speed_is_foretold_for_even_shares_and_no_curve_is_measured_for_it(
    clocks: None, asked: list[set[str] | None]
) -> None:
    for count, method in enumerate((Magnitude(allocate="reconstruction"), Reconstruction()), 1):
        result = pruned(method, target=Target(0.5), latency=True, tell=lambda event: None)
        assert result.foretold["evenly"]
        assert len(asked) == count


def test_a_limit_of_latency_takes_the_shares_that_leave_less(clocks: None, asked: list[set[str] | None]) -> None:
    result = pruned(Reconstruction(), budget=Budget(max_latency=0.5))
    latency = result.budget["latency"]
    shares = latency["shares"]
    assert shares["by"] == "predicted variance that layers keep"
    assert shares["taken"] == "latency"
    assert shares["worth"]["latency"] > shares["worth"]["scope"]
    assert latency["measured"] <= 0.5 * 1.05
    assert result.method == Reconstruction(shares="latency")
    [_, sentence] = kept({"budget": result.budget})
    assert "predicted variance that layers keep; the method's own have" in sentence


def test_only_shares_that_nobody_has_chosen_are_questioned() -> None:
    settled = Settled(Target(0.5), Limits(), {}, "latency")
    assert settled.method(Reconstruction()) == Reconstruction(shares="latency")
    assert settled.method(Magnitude()) == Magnitude(allocate="latency")
    for chosen in (Reconstruction(shares="uniform"), Magnitude(allocate="reconstruction")):
        assert latency_aware_methods.latency_aware(chosen) is None
        assert settled.method(chosen) == chosen


def test_shares_by_latency_are_refused_where_nothing_may_be_timed() -> None:
    with pytest.raises(SettingError, match="sharing out by latency needs the times of layers, but nothing may be"):
        pruned(Reconstruction(shares="latency"), target=Target(0.5))
