"""Shares of zeros by hand, where they are counted, and what goes by them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from nets import make
from secateur import check_method
from secateur.checks.networks import SHAPE, networks
from secateur.core.plan import Plan
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.core.surgery import apply, run
from secateur.core.trace import trace
from secateur.errors import DataError, SettingError, TargetError
from secateur.measure.unit_sites import Position
from secateur.measure.unit_statistics import activity
from secateur.methods.apoz import Apoz

ANY = Limits(multiple=1)
PIXELS = torch.arange(-5.0, 5.0).reshape(1, 1, 2, 5) + 0.5  # five negative numbers and five positive ones


def shares(*zeros: float, act: type[nn.Module] = nn.ReLU, pool: bool = False) -> nn.Sequential:
    """A layer whose units are zero for these shares of the pixels."""
    net = nn.Sequential(nn.Conv2d(1, len(zeros), 1), act(), nn.Conv2d(len(zeros), 2, 1))
    if pool:
        net.insert(2, nn.MaxPool2d((1, 5)))
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].bias.copy_(torch.tensor([5.0 - 10 * share for share in zeros]))
    return net.eval()


def problem(net: nn.Module, target: Target | None = None, images: Tensor = PIXELS, **more: Any) -> Problem:
    return Problem(net, trace(net, images[:1]), target, images=[images], limits=ANY, **more)


def zeros(method: Apoz, asked: Problem) -> list[float]:
    (values,) = method.scores(asked).values()
    return (1 - values).tolist()


@pytest.mark.parametrize("pool", [False, True])
def test_zeros_are_counted_behind_the_rectifier_and_before_the_pool(pool: bool) -> None:
    assert zeros(Apoz(), problem(shares(0.9, 0.5, 0.5, 0.2, pool=pool))) == pytest.approx([0.9, 0.5, 0.5, 0.2])


@pytest.mark.parametrize(("place", "expected"), [("made", 0.0), ("rectified", 0.9)])
def test_before_the_rectifier_nothing_is_zero(place: Position, expected: float) -> None:
    net = shares(0.9, 0.9)
    graph = trace(net, PIXELS)
    found = activity(net, graph, [PIXELS], {place: torch.ones(2, dtype=torch.bool)})
    assert found.zeros.tolist() == pytest.approx([expected, expected])


def test_the_rule_of_deviation_by_hand() -> None:
    """Mean 0.6 and deviation 0.1732 of (.9, .5, .5, .5) make a threshold of 0.7732."""
    values = torch.tensor([0.9, 0.5, 0.5, 0.5])
    assert float(values.mean() + values.std(correction=0)) == pytest.approx(0.7732, abs=5e-5)
    asked = problem(shares(0.9, 0.5, 0.5, 0.5))
    assert Apoz(rule="deviation").plan(asked).dropped() == {"0": (0,)}
    assert Apoz(rule="deviation", deviations=1.74).plan(asked) == Plan()  # 0.9 is 1.732 deviations above the mean


def test_no_more_than_the_most_of_a_layer_goes() -> None:
    asked = problem(shares(0.9, 0.8, 0.7, 0.1, 0.1, 0.1))
    assert Apoz(rule="deviation", deviations=0.3, most=1.0).plan(asked).dropped() == {"0": (0, 1, 2)}
    assert Apoz(rule="deviation", deviations=0.3, most=0.34).plan(asked).dropped() == {"0": (0, 1)}


def test_the_layers_of_the_highest_mean_are_trimmed() -> None:
    net = nn.Sequential(*list(shares(0.9, 0.1, 0.1, 0.1))[:2], nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        net[2].weight.zero_()
        net[2].bias.copy_(torch.tensor([-1.0, 1.0, 1.0, -1.0]))
    asked = problem(net)
    one, both = (Apoz(rule="deviation", deviations=0.9, layers=layers).plan(asked) for layers in (1, 0))
    assert one.dropped() == {"2": (0, 3)}
    assert both.dropped() == {"0": (0,), "2": (0, 3)}


@pytest.mark.parametrize("rule", ["rank", "deviation"])
def test_a_target_takes_the_units_of_the_most_zeros(rule: Any) -> None:
    asked = problem(shares(0.5, 0.9, 0.1, 0.7, 0.6), Target(0.6, "units"))
    assert Apoz(rule=rule).plan(asked).dropped() == {"0": (1, 3)}


def test_units_that_are_always_zero_go_first_and_nobody_misses_them() -> None:
    net = make("plain")
    with torch.no_grad():
        net[0][1].bias[[2, 5]] = -100.0
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    asked = problem(net, images=images)
    assert (1 - Apoz().scores(asked)["0.0"]).tolist().count(1.0) == 2
    plan = Apoz(keeps=(("0.0", 0.75),)).plan(asked)
    assert plan.dropped() == {"0.0": (2, 5)}
    torch.testing.assert_close(run(apply(net, asked.graph, plan), images), run(net, images))


def test_units_without_a_rectifier_are_refused_or_counted_when_near_zero() -> None:
    net = shares(0.5, 0.5, act=nn.Tanh)
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1e-5, 1.0]).reshape(2, 1, 1, 1))
        net[0].bias.zero_()
    with pytest.raises(SettingError, match="the units of '0' pass no rectifier"):
        Apoz().plan(problem(net, Target(0.5, "units")))
    assert zeros(Apoz(near=0.001), problem(net)) == [1.0, 0.0]


def test_batches_of_any_size_count_the_same() -> None:
    images = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    net = make("squeeze and excite")
    graph = trace(net, images[:1])
    whole, parts = (Apoz(near=0.1).scores(Problem(net, graph, images=it)) for it in ([images], images.split(5)))
    for name, values in whole.items():
        torch.testing.assert_close(values, parts[name])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"most": 0.0}, r"must be in \(0, 1\], not 0.0"),
        ({"near": 1.0}, r"must be in \[0, 1\), not 1.0"),
        ({"layers": -1}, "layers must be at least 0"),
        ({"rule": "deviation", "keeps": (("0", 0.5),)}, "leave out keeps and allocate"),
        ({"rule": "taste"}, "must be one of rank, deviation"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        Apoz(**settings)


def test_what_it_needs_is_said() -> None:
    net = shares(0.9, 0.5)
    with pytest.raises(TargetError, match="say how much to keep"):
        Apoz().plan(problem(net))
    with pytest.raises(DataError, match="apoz counts zeros on images"):
        Apoz().plan(Problem(net, trace(net, PIXELS), Target(0.5, "units")))
    with torch.no_grad():
        net[0].weight[0] = float("nan")
    with pytest.raises(SettingError, match="contain NaN"):
        Apoz(rule="deviation").plan(problem(net))


def test_the_rule_of_deviation_keeps_its_promises() -> None:
    chain = networks()["chain"]
    check_method(Apoz(rule="deviation", most=0.9), networks={"chain": (chain, torch.randn(2, *SHAPE))})


def test_a_run_trims_round_by_round_without_a_target_or_labels() -> None:
    net, images = shares(0.9, 0.8, 0.5, 0.5, 0.5, 0.5), PIXELS * torch.linspace(1.0, 1.1, 64).reshape(-1, 1, 1, 1)
    method = Apoz(rule="deviation", layers=1)
    result = secateur.prune(
        net, PIXELS, method, calibrate=images, rounds=2, latency=False, repair=(), limits=ANY
    )  # of (.9, .8, .5 ...) both go, then no unit stands out
    assert [plan.dropped() for plan in result.plans] == [{"0": (0, 1)}, {}]
