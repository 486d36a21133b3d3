from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

from secateur.training.optimizers_and_schedules import optimizer, schedule
from secateur.training.settings import Settings


def _rates(settings: Settings, steps_per_epoch: int) -> list[float]:
    weight = nn.Parameter(torch.zeros(1))
    rule = optimizer([weight], settings)
    rates = schedule(rule, settings, steps_per_epoch)
    found: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(settings.epochs * steps_per_epoch):
            found.append(rule.param_groups[0]["lr"])
            weight.grad = torch.ones(1)
            rule.step()
            rates.step()
    return found


def test_cosine_falls_to_nothing_by_steps() -> None:
    expected = [0.1 * 0.5 * (1 + math.cos(math.pi * step / 12)) for step in range(12)]
    assert _rates(Settings(epochs=3, lr=0.1), 4) == pytest.approx(expected)


def test_warmup_rises_to_the_rate_and_the_schedule_follows() -> None:
    found = _rates(Settings(epochs=3, lr=0.1, warmup_epochs=1), 4)
    assert found[:5] == pytest.approx([0.025, 0.04375, 0.0625, 0.08125, 0.1])
    assert found[5:] == pytest.approx([0.1 * 0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(1, 8)])


@pytest.mark.parametrize("warmup", [0, 1])
def test_milestones_count_from_the_start(warmup: int) -> None:
    settings = Settings(epochs=5, lr=1.0, schedule="step", milestones=(2, 4), gamma=0.5, warmup_epochs=warmup)
    found = _rates(settings, 2)
    assert found[2 * warmup :] == pytest.approx([1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25][2 * warmup :])


def test_constant_stays() -> None:
    assert _rates(Settings(epochs=2, lr=0.3, schedule="constant"), 3) == pytest.approx([0.3] * 6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_optimizer_is_torchs(name: str, net: Callable[[int], nn.Module]) -> None:
    settings = Settings(optimizer=name, lr=0.1, momentum=0.8, weight_decay=0.01)
    ours, theirs = net(0), net(0)
    reference = (
        torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.8, weight_decay=0.01, nesterov=True, fused=False)
        if name == "sgd"
        else torch.optim.AdamW(theirs.parameters(), lr=0.1, weight_decay=0.01, fused=False)
    )
    for rule, network in ((optimizer(list(ours.parameters()), settings), ours), (reference, theirs)):
        for _ in range(3):
            for number, weight in enumerate(network.parameters()):
                weight.grad = torch.full_like(weight, 0.1 * (number + 1))
            rule.step()
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_no_momentum_needs_no_nesterov() -> None:
    rule = optimizer([nn.Parameter(torch.zeros(1))], Settings(momentum=0))
    assert rule.param_groups[0]["nesterov"] is False
