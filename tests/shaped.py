"""Trainings that a method shapes by what is zero in the network, on a network and images that take no time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kills import Killed
from secateur.core.method import Method
from secateur.core.problem import Problem
from secateur.core.sizes.size import Target
from secateur.core.trace import trace
from secateur.core.zeros.shaper import Shaper
from secateur.data import Data, from_arrays
from secateur.events import Event
from secateur.training import Settings, fit

IMAGES = torch.ones(1, 3, 6, 6)
Watch = Callable[[int, nn.Module], None]


def net(seed: int = 0) -> nn.Sequential:
    """Return a stem, three convolutions, a dropout and a classifier."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 10, 1),
            nn.ReLU(),
            nn.Conv2d(10, 5, 3, padding=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.25),
            nn.Linear(5, 3),
        )


def data(count: int = 24) -> Data:
    """Return pictures whose classes are shades."""
    labels = torch.arange(count) % 3
    pictures = torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(0)) + labels[:, None, None, None]
    return from_arrays((pictures, labels), (pictures[:6], labels[:6]), classes=3)


def settings(**changes: Any) -> Settings:
    """Return six epochs of three steps."""
    fixed = {"precision": "float32", "memory_format": "contiguous", "compile": "off", "device": "cpu"}
    return Settings(**{"epochs": 6, "batch_size": 8, "lr": 0.05, "augment": "none", **fixed, **changes})


def problem(model: nn.Module, keep: float | None = None, of: Any = "nonzero") -> Problem:
    """Return what a method is asked about a network of ``net``."""
    return Problem(model, trace(model, IMAGES), None if keep is None else Target(keep, of))


def shaped(
    method: Method | None,
    keep: float | None = None,
    *,
    model: nn.Module | None = None,
    path: Path | None = None,
    die: int = 0,
    watch: Watch | None = None,
    **changes: Any,
) -> nn.Module:
    """Return a network after the training that a method shapes.

    Args:
        method: None for a plain training.
        keep: target in nonzero.
        model: another network than ``net()``.
        path: of the checkpoint.
        die: the epoch in which the training is killed.
        watch: looks at the network after every step.
        changes: of the settings.
    """
    model = net() if model is None else model

    def tell(event: Event) -> None:
        if die and event.values.get("epoch") == die:
            raise Killed

    def run(shaper: Shaper | None) -> None:
        if shaper is not None and watch is not None:
            after = shaper.after_step

            def watched(step: int) -> None:
                after(step)
                watch(step, model)

            shaper.after_step = watched  # type: ignore[method-assign]
        fit(model, data(), settings(**changes), shaper=shaper, checkpoint=path, seed=5, tell=tell)

    if method is None:
        run(None)
    else:
        with method.shaping(problem(model, keep)) as shaper:
            run(shaper)
    return model


def values(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all tensors of a network."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def zeros(model: nn.Module) -> dict[str, int]:
    """Return how many weights of each layer are zero."""
    return {
        name.removesuffix(".weight"): int((tensor == 0).sum())
        for name, tensor in model.named_parameters()
        if tensor.dim() > 1
    }


def same(one: nn.Module, other: nn.Module) -> bool:
    """Tell whether two networks agree bit for bit."""
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
