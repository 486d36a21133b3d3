"""The control: nothing but the seed decides."""

from __future__ import annotations

import torch
from torch import nn

from nets import images, make
from secateur.core.plan import Plan
from secateur.core.problem import Problem
from secateur.core.sizes.size import Target
from secateur.core.trace import trace
from secateur.methods.random_units import RandomUnits

NET = make("plain")
GRAPH = trace(NET, images(1))


def plan(seed: int, net: nn.Module = NET) -> Plan:
    rng = torch.Generator().manual_seed(seed)
    return RandomUnits().plan(Problem(net, GRAPH, Target(0.5, "units"), rng=rng))


def test_the_seed_decides() -> None:
    assert plan(1) == plan(1)
    assert len({plan(seed) for seed in range(8)}) == 8


def test_weights_do_not() -> None:
    other = make("plain")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(torch.rand(parameter.shape))
    assert plan(1, other) == plan(1)


def test_nor_does_the_global_generator() -> None:
    before = torch.get_rng_state()
    first = plan(1)
    torch.manual_seed(99)
    assert plan(1) == first
    torch.set_rng_state(before)


def test_every_group_loses_the_same_share() -> None:
    assert {name: len(units) for name, units in plan(3).dropped().items()} == {"0.0": 4, "2.0": 8}


def test_every_unit_goes_about_as_often() -> None:
    gone = torch.zeros(16)
    for seed in range(200):
        gone[list(plan(seed).dropped()["2.0"])] += 1
    # 100 expected, with a standard deviation of 7.1
    assert gone.min() > 70
    assert gone.max() < 130
