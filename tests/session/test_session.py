"""A network that a session prunes while somebody trains it ends as the same steps by hand would leave it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import secateur
from nets import Head, conv, lived_in
from secateur.core.surgery import relative_difference, run
from secateur.errors import ArtifactError, ModelError, PlanError, SecateurError, SettingError, TargetError
from secateur.session import Session

STEPS = 3


def network() -> nn.Module:
    torch.manual_seed(0)
    return lived_in(nn.Sequential(conv(3, 16), conv(16, 24), conv(24, 16), Head(16))).train()


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(6, 3, 8, 8, generator=draw), torch.randint(0, 5, (6,), generator=draw)


def train(net: Callable[..., Any], optimizer: torch.optim.Optimizer, seed: int) -> None:
    x, y = batch(seed)
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(x), y).backward()
    optimizer.step()


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda net: torch.optim.SGD(
        [
            {"params": [p for p in net.parameters() if p.dim() > 1], "weight_decay": 1e-3},
            {"params": [p for p in net.parameters() if p.dim() <= 1], "lr": 0.02},
        ],
        lr=0.05,
        momentum=0.9,
        nesterov=True,
    ),
    "adamw": lambda net: torch.optim.AdamW(net.parameters(), 0.01, amsgrad=True),
    "adafactor": lambda net: torch.optim.Adafactor(net.parameters(), 0.01),
}


def image() -> torch.Tensor:
    return batch(99)[0][:2]


def open_session(net: nn.Module, **more: Any) -> Session:
    given: dict[str, Any] = {"keep": 0.5, "steps": STEPS, "limits": secateur.Limits(multiple=1)}
    return Session(net, image(), "magnitude", **{**given, **more})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_session_does_what_the_same_steps_by_hand_do(name: str) -> None:
    def begin() -> tuple[nn.Module, torch.optim.Optimizer, Any, AveragedModel]:
        net = network()
        optimizer = OPTIMIZERS[name](net)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)
        return net, optimizer, scheduler, AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)

    def epoch(net: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any, average: Any, number: int) -> None:
        for seed in range(2):
            train(net, optimizer, 10 * number + seed)
            average.update_parameters(net)
        scheduler.step()

    net, optimizer, scheduler, average = begin()
    whole = secateur.size(secateur.trace(net, image())).macs
    session = open_session(net)
    for number in range(STEPS + 1):
        epoch(net, optimizer, scheduler, average, number)
        session.step(optimizer, scheduler, average)

    hand, steered, timer, mean = begin()
    for number in range(STEPS + 1):
        epoch(hand, steered, timer, mean, number)
        if number < STEPS:
            left = secateur.size(secateur.trace(hand, image())).macs
            keep = 0.5 ** ((number + 1) / STEPS) * whole / left
            limits = secateur.Limits(multiple=1)
            steered.zero_grad()
            result = secateur.prune(hand, image(), "magnitude", keep, limits=limits, repair=(), latency=False)
            graph, plan = result.graph, result.plans[0]
            secateur.migrate_optimizer(steered, hand, result.model, graph, plan)
            mean.module = secateur.apply(mean.module, graph, plan)
            hand = result.model

    for one, other in ((net, hand), (average.module, mean.module)):
        assert one.state_dict().keys() == other.state_dict().keys()
        assert all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())
    assert optimizer.param_groups[0]["lr"] == steered.param_groups[0]["lr"]
    assert session.kept <= 0.5
    assert session.finished
