from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.sizes.limits import Limits
from secateur.core.trace import trace
from secateur.measure.alignment import measured_limits, worth_timing
from secateur.measure.forecast import Forecast
from secateur.measure.layer_table import LayerShape, LayerTable

WIDTHS = (64, 128, 256, 24)


class Chain(nn.Sequential):
    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        pairs = zip((3, *widths), (*widths, 5), strict=True)
        super().__init__(*(layer for i, o in pairs for layer in (nn.Conv2d(i, o, 3, padding=1), nn.ReLU())))


def forecast_of(model: nn.Module) -> tuple[Graph, Forecast]:
    image = torch.randn(1, 3, 6, 6)
    graph = trace(model.eval(), image)
    return graph, Forecast.of(model, graph, image, LayerTable("eager", 1), 1.0)


def staircase(block: int) -> Callable[[LayerTable, LayerShape], float]:
    """Let a layer cost as much as the next multiples of its outputs and inputs would."""
    return lambda self, shape: float(math.prod(math.ceil(width / block) * block for width in shape.weight[:2]))


@pytest.mark.parametrize(
    ("block", "found"),
    [
        (16, {"0": 16, "2": 16, "4": 16, "6": 8}),  # the rule
        (8, {"0": 8, "2": 16, "4": 16, "6": 8}),  # a group of 64 has few multiples of 16, and 8 costs nothing
        (1, {"0": 8, "2": 16, "4": 16, "6": 2}),  # smooth: as fine as small groups can use
        (64, {"0": 16, "2": 32, "4": 16, "6": 8}),  # doubled where four are left and a step is worth a tenth
    ],
)
def test_multiples_follow_the_blocks_that_are_measured(
    monkeypatch: pytest.MonkeyPatch, block: int, found: dict[str, int]
) -> None:
    monkeypatch.setattr(LayerTable, "_measure", staircase(block))
    graph, forecast = forecast_of(Chain())
    limits = measured_limits(forecast, Limits())
    assert {group.name: limits.multiple_of(group) for group in graph.free} == found
    assert "layers timed in eager on" in limits.note(graph)


def test_noise_of_a_few_per_cent_leaves_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, turn = staircase(16), iter(range(10**6))
    monkeypatch.setattr(
        LayerTable, "_measure", lambda self, shape: exact(self, shape) * (1 + 0.03 * math.sin(next(turn) * 1.7))
    )
    graph, forecast = forecast_of(Chain())
    limits = measured_limits(forecast, Limits())
    assert [limits.multiple_of(group) for group in graph.free] == [Limits().multiple_of(group) for group in graph.free]


def test_numbers_and_narrow_networks_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: LayerTable, shape: LayerShape) -> float:
        raise AssertionError("nothing was to be timed")

    monkeypatch.setattr(LayerTable, "_measure", never)
    _, forecast = forecast_of(Chain())
    assert measured_limits(forecast, Limits(multiple=4)) == Limits(multiple=4)
    graph, forecast = forecast_of(Chain((8, 12, 15)))
    assert not worth_timing(graph)
    assert measured_limits(forecast, Limits()) == Limits()
