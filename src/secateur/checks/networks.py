"""Tiny classifiers, one for each common way in which channels are coupled."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SHAPE = (3, 8, 8)
CLASSES = 4


class Sum(nn.Module):
    """The input and what a network makes of it, added: their channels can only go together.

    Args:
        inner: keeps the shape of its input.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W)."""
        return x + self.inner(x)


class Join(nn.Module):
    """The outputs of several networks side by side: channels of the next layer move up.

    Args:
        parts: networks that take the same input.
    """

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, sum of the parts' channels, H, W)."""
        return torch.cat([part(x) for part in self.parts], 1)


def networks() -> dict[str, nn.Module]:
    """Return the networks by name; they map (N, 3, 8, 8) to (N, 4) and are the same every time.

    Some of their modules train and some evaluate, and some parameters are frozen, so that a method that does not
    leave these as they are is found out.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: dict[str, nn.Module] = {
            "chain": nn.Sequential(_conv(3, 8), nn.MaxPool2d(2), _conv(8, 12), *_head(12)),
            "residual": nn.Sequential(_conv(3, 8), Sum(nn.Sequential(_conv(8, 6), _conv(6, 8))), *_head(8)),
            "concat": nn.Sequential(Join(_conv(3, 8), _conv(3, 6, 1)), _conv(14, 8), *_head(8)),
            "depthwise": nn.Sequential(_conv(3, 8), _conv(8, 8, groups=8), _conv(8, 10, 1), *_head(10)),
            "linear": nn.Sequential(
                nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 10), nn.ReLU(), nn.Linear(10, CLASSES)
            ),
        }
        for net in made.values():
            _lived_in(net)
    return made


def _conv(inputs: int, outputs: int, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _head(width: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES)


def _lived_in(net: nn.Module) -> None:
    """Give norms the statistics, scales and shifts of a trained network, freeze one vector, and mix the modes."""
    net.train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    next(parameter for parameter in net.parameters() if parameter.dim() == 1).requires_grad_(False)
    next(net.children()).eval()
