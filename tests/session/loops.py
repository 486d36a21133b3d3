"""A small training loop, for the tests of sessions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import secateur
from nets import Head, conv, lived_in
from secateur.session import Session

STEPS = 3


def network(widths: tuple[int, int, int] = (16, 24, 16)) -> nn.Module:
    torch.manual_seed(0)
    one, two, three = widths
    return lived_in(nn.Sequential(conv(3, one), conv(one, two), conv(two, three), Head(three))).train()


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(6, 3, 8, 8, generator=draw), torch.randint(0, 5, (6,), generator=draw)


def image() -> torch.Tensor:
    return batch(99)[0][:2]


def train(net: Callable[..., Any], optimizer: torch.optim.Optimizer, seed: int) -> None:
    x, y = batch(seed)
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(x), y).backward()
    optimizer.step()


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)


def opened(net: nn.Module, method: Any = "magnitude", **more: Any) -> Session:
    given: dict[str, Any] = {"keep": 0.5, "steps": STEPS, "limits": secateur.Limits(multiple=1)}
    return Session(net, image(), method, **{**given, **more})


def same(one: nn.Module, other: nn.Module) -> bool:
    """Tell whether two networks hold the same numbers, bit by bit."""
    here, there = one.state_dict(), other.state_dict()
    return here.keys() == there.keys() and all(torch.equal(value, there[key]) for key, value in here.items())
