"""An optimizer that is carried over goes on as one that had only ever known the thin network."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from nets import Head, conv, lived_in
from secateur.core.plan import Block, DropUnits, Plan, Regroup, ZeroWeights
from secateur.core.surgery import apply, hold, masked, migrate_optimizer, relative_difference, run
from secateur.core.trace import trace
from secateur.errors import ModelError, PlanError

PLAN = Plan((DropUnits("0.0", (1, 4, 5)), DropUnits("1.0", (0, 3))))
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, centered=True, momentum=0.5),
}


def network() -> nn.Module:
    return lived_in(nn.Sequential(conv(3, 8), conv(8, 6), Head(6))).train()


def images(seed: int) -> torch.Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def step(net: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    optimizer.zero_grad()
    net(images(seed)).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_moments_lose_what_the_weights_lose(name: str) -> None:
    net = network()
    optimizer = OPTIMIZERS[name](list(net.parameters()))
    for seed in range(3):
        step(net, optimizer, seed)
    graph = trace(net, images(9))
    thin = apply(net, graph, PLAN)
    before = {id(p): copy.deepcopy(dict(optimizer.state[p])) for p in net.parameters()}
    migrate_optimizer(optimizer, net, thin, graph, PLAN)
    dense, left = dict(net.named_parameters()), dict(thin.named_parameters())
    assert [p for group in optimizer.param_groups for p in group["params"]] == list(left.values())
    rows = {"0.0": [0, 2, 3, 6, 7], "1.0": [1, 2, 4, 5]}
    for key, value in before[id(dense["1.0.weight"])].items():
        found = optimizer.state[left["1.0.weight"]][key]
        if isinstance(value, torch.Tensor) and value.dim():
            assert torch.equal(found, value[rows["1.0"]][:, rows["0.0"]])
        else:
            assert found == value
    for seed in range(3, 6):
        step(thin, optimizer, seed)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_if_the_removed_channels_had_never_been_read(name: str) -> None:
    """Without batch norm, a silenced network and the thin one get the same gradients for what is left."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), Head(6)).double()
    optimizer = OPTIMIZERS[name](list(net.parameters()))
    data = [images(seed).double() for seed in range(6)]

    def go(model: nn.Module, using: torch.optim.Optimizer, x: torch.Tensor) -> None:
        using.zero_grad()
        model(x).square().mean().backward()
        using.step()

    for x in data[:3]:
        go(net, optimizer, x)
    graph = trace(net, data[0])
    plan = Plan((DropUnits("0", (1, 4, 5)), DropUnits("2", (0, 3))))
    thin = apply(net, graph, plan)
    other = OPTIMIZERS[name](list(net.parameters()))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    fresh = copy.deepcopy(thin)
    forgetful = OPTIMIZERS[name](list(fresh.parameters()))
    migrate_optimizer(optimizer, net, thin, graph, plan)
    for x in data[3:]:
        with torch.no_grad():  # what reads the removed channels, silenced by hand
            net[2].weight[:, [1, 4, 5]] = 0.0
            net[4].fc.weight[:, [0, 3]] = 0.0
        go(net, other, x)
        go(thin, optimizer, x)
        go(fresh, forgetful, x)
    assert torch.allclose(thin[0].weight, net[0].weight[[0, 2, 3, 6, 7]], rtol=1e-9)
    assert torch.allclose(thin[2].weight, net[2].weight[[1, 2, 4, 5]][:, [0, 2, 3, 6, 7]], rtol=1e-9)
    assert not torch.allclose(fresh[0].weight, thin[0].weight, rtol=1e-6)  # the moments matter


def test_schedulers_go_on_with_the_same_optimizer() -> None:
    net = network()
    optimizer = OPTIMIZERS["sgd"](list(net.parameters()))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    step(net, optimizer, 0)
    scheduler.step()
    graph = trace(net, images(1))
    thin = apply(net, graph, PLAN)
    migrate_optimizer(optimizer, net, thin, graph, PLAN)
    step(thin, optimizer, 1)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05 / 4)


def test_an_average_of_the_weights_thins_by_the_same_plan() -> None:
    net = network()
    average = AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    optimizer = OPTIMIZERS["sgd"](list(net.parameters()))
    for seed in range(2):
        step(net, optimizer, seed)
        average.update_parameters(net)
    graph = trace(net, images(9))
    thin_average = apply(average.module, graph, PLAN)
    with masked(average.module, graph, PLAN):
        expected = run(average.module, images(3))
    assert relative_difference(expected, run(thin_average, images(3))) < 1e-5
    average.module = thin_average
    average.update_parameters(apply(net, graph, PLAN))


def test_moments_of_silenced_weights_are_zero() -> None:
    net = network()
    optimizer = OPTIMIZERS["sgd"](list(net.parameters()))
    step(net, optimizer, 0)
    graph = trace(net, images(1))
    mask = torch.rand(6, 8, 3, 3) > 0.5
    plan = Plan((*PLAN.edits, ZeroWeights.of("1.0.weight", mask)))
    thin = apply(net, graph, plan)
    migrate_optimizer(optimizer, net, thin, graph, plan)
    shaper = hold(thin, graph, plan)
    gone = ~mask[[1, 2, 4, 5]][:, [0, 2, 3, 6, 7]]
    weight = dict(thin.named_parameters())["1.0.weight"]
    assert not optimizer.state[weight]["momentum_buffer"][gone].any()
    step(thin, optimizer, 1)
    shaper.after_step(1)
    assert not weight[gone].any()


def test_frozen_parameters_stay_frozen_and_are_carried() -> None:
    net = network()
    net[0].requires_grad_(False)
    optimizer = OPTIMIZERS["adamw"](list(net.parameters()))
    step(net, optimizer, 0)
    graph = trace(net, images(1))
    thin = apply(net, graph, PLAN)
    migrate_optimizer(optimizer, net, thin, graph, PLAN)
    before = thin[0][0].weight.clone()
    step(thin, optimizer, 1)
    assert torch.equal(before, thin[0][0].weight)
    assert not thin[0][0].weight.requires_grad


def test_what_cannot_be_carried_is_refused_and_nothing_changes() -> None:
    net = network()
    graph = trace(net, images(1))
    thin = apply(net, graph, PLAN)
    stranger = OPTIMIZERS["sgd"]([nn.Parameter(torch.zeros(2))])
    with pytest.raises(ModelError, match="not the model's"):
        migrate_optimizer(stranger, net, thin, graph, PLAN)
    optimizer = OPTIMIZERS["sgd"](list(net.parameters()))
    step(net, optimizer, 0)
    first = next(iter(net.parameters()))
    optimizer.state[first]["history"] = torch.zeros(7)
    held = list(optimizer.param_groups[0]["params"])
    with pytest.raises(ModelError, match="'history' of shape"):
        migrate_optimizer(optimizer, net, thin, graph, PLAN)
    assert all(a is b for a, b in zip(held, optimizer.param_groups[0]["params"], strict=True))
    regroup = Plan((Regroup("1.0", (Block(tuple(range(6)), (0, 1)),)),))
    with pytest.raises(PlanError, match="regrouped"):
        migrate_optimizer(optimizer, net, thin, graph, regroup)
