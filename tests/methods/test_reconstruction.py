from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nets import Plain
from secateur.core.graph import Graph
from secateur.core.problem import Problem
from secateur.core.selection.costs import Times, TimeTerm
from secateur.core.selection.error_curves import ErrorCurve
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, size
from secateur.core.trace import trace
from secateur.errors import DataError, SettingError, TargetError
from secateur.methods.reconstruction import Reconstruction


def problem(model: nn.Module, target: Target | None, curves: list[ErrorCurve] | None, **options: Any) -> Problem:
    graph = trace(model, torch.randn(1, 3, 8, 8))
    asked: list[None] = []

    def errors(scores: Mapping[str, Tensor] | None) -> list[ErrorCurve]:
        assert scores is None
        assert curves is not None
        assert not asked, "asked twice"
        asked.append(None)
        return curves

    options = {"limits": Limits(multiple=1), **options}
    return Problem(model, graph, target, errors=None if curves is None else errors, **options)


def chain() -> nn.Sequential:
    """Return a network with two groups of four units, each read by a convolution of one pixel."""
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))


CURVES = [
    ErrorCurve("0", (2, 0, 3, 1), (0.0, 0.01, 0.03, 0.06, 1.0)),
    ErrorCurve("2", (1, 3, 0, 2), (0.0, 0.02, 0.2, 0.5, 1.0)),
]


def test_the_least_error_by_hand() -> None:
    # two units go: (2, 0) leaves 0.03, (1, 1) 0.03 as well, (0, 2) 0.2; three: (3, 0) 0.06, (2, 1) 0.05, (1, 2) 0.21
    plan = Reconstruction().plan(problem(chain(), Target(0.75, "units"), CURVES))
    assert sum(len(units) for units in plan.dropped().values()) == 2
    plan = Reconstruction().plan(problem(chain(), Target(0.625, "units"), CURVES))
    assert plan.dropped() == {"0": (0, 2), "2": (1,)}
    assert plan.notes == (
        "layers are predicted to lose 0.05 of the variance of what they put out once they are fitted anew, "
        "and more without a fit, "
        "added up over 2 groups: "
        "0.03 in 0, 0.02 in 2",
    )
    even = Reconstruction(shares="uniform").plan(problem(chain(), Target(0.5, "units"), CURVES))
    assert even.dropped() == {"0": (0, 2), "2": (1, 3)}


@pytest.mark.parametrize("of", ["macs", "params", "nonzero", "units"])
def test_the_norm_of_a_unit_says_nothing_and_every_measure_is_met(of: Any) -> None:
    model = chain()
    with torch.no_grad():
        model[0].weight[2] *= 1000  # large, and yet the first that the others make up for
    made = problem(model, Target(0.8, of), CURVES)
    plan = Reconstruction().plan(made)
    assert size(made.graph, plan).of(of) <= 0.8 * size(made.graph).of(of)
    assert 2 in plan.dropped()["0"]


def test_shares_by_latency_save_time_first() -> None:
    model = chain()
    graph = trace(model, torch.randn(1, 3, 8, 8))

    def time(name: str, each: float) -> TimeTerm:
        first = graph.offsets[name]
        return TimeTerm(frozenset([name]), lambda keep: each * int(keep[first : first + 4].sum()))

    times = Times((time("0", 0.01), time("2", 1.0)))
    made = problem(model, Target(0.75, "units"), CURVES, time=lambda: times)
    assert Reconstruction(shares="latency").plan(made).dropped() == {"2": (1, 3)}
    with pytest.raises(SettingError, match="needs the times of layers"):
        Reconstruction(shares="latency").plan(problem(model, Target(0.75, "units"), CURVES))


def test_what_cannot_be_done_is_said_before_anything_is_fitted() -> None:
    def never(scores: object) -> list[ErrorCurve]:
        raise AssertionError("fitted for nothing")

    model = Plain().eval()
    graph: Graph = trace(model, torch.randn(1, 3, 8, 8))
    with pytest.raises(TargetError, match=r"cannot keep only 0\.001 of the macs"):
        Reconstruction().plan(Problem(model, graph, Target(0.001), errors=never))
    assert Reconstruction().plan(Problem(model, graph, Target(1.0), errors=never)).edits == ()
    with pytest.raises(TargetError, match="say how much to keep"):
        Reconstruction().check(None)
    with pytest.raises(DataError, match="fits layers anew on a few hundred images"):
        Reconstruction().plan(Problem(model, graph, Target(0.5)))
    with pytest.raises(SettingError, match="'shares' must be one of errors, latency, uniform"):
        Reconstruction(shares="even")  # type: ignore[arg-type]
