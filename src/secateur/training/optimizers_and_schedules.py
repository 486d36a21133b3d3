"""The optimizer and the learning-rate schedule that the settings ask for, from torch's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, LRScheduler, MultiStepLR, SequentialLR

from secateur.training.settings import Settings


def optimizer(parameters: Sequence[nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    """Return the optimizer over all given parameters, with weight decay on every one of them.

    The fused kernels of torch are used where all parameters allow it: one call instead of one per parameter.
    """
    kinds = {(p.device.type, p.is_floating_point()) for p in parameters}
    fused = kinds <= {("cpu", True)} or kinds <= {("cuda", True)}
    common: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay, "fused": fused}
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **common)
    nesterov = settings.nesterov and settings.momentum > 0
    return torch.optim.SGD(parameters, momentum=settings.momentum, nesterov=nesterov, **common)


def schedule(optimizer: torch.optim.Optimizer, settings: Settings, steps_per_epoch: int) -> LRScheduler:
    """Return the schedule, to be stepped once after every optimizer step.

    Warm-up starts at ``lr`` divided by its number of steps and rises by as much each step; what follows
    counts from its end, except milestones, which count from the start of training.

    Args:
        optimizer: whose rates are set; the schedule changes them at once to those of the first step.
        settings: epochs, schedule and warm-up.
        steps_per_epoch: optimizer steps, not batches.
    """
    warmup = settings.warmup_epochs * steps_per_epoch
    rest = settings.epochs * steps_per_epoch - warmup
    if settings.schedule == "cosine":
        main: LRScheduler = CosineAnnealingLR(optimizer, T_max=max(rest, 1))
    elif settings.schedule == "step":
        milestones = [epoch * steps_per_epoch - warmup for epoch in settings.milestones]
        main = MultiStepLR(optimizer, milestones, gamma=settings.gamma)
    else:
        main = LinearLR(optimizer, start_factor=1.0, total_iters=1)
    if not warmup:
        return main
    rise = LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup)
    return SequentialLR(optimizer, [rise, main], milestones=[warmup])


def lasting(optimizer: torch.optim.Optimizer, settings: Settings, share: Callable[[], float]) -> LRScheduler:
    """Return the schedule of a training that lasts for a time: its epochs are laid over whatever it lasts for.

    Args:
        optimizer: whose rates are set, at once and after every optimizer step.
        settings: epochs, schedule and warm-up.
        share: returns how much of the training is over, in [0, 1].
    """

    def factor(_: int) -> float:
        place, warmup = share() * settings.epochs, settings.warmup_epochs
        if place < warmup:
            return max(place / warmup, 1e-3)  # a step without any rate would be one for nothing
        if settings.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (place - warmup) / max(settings.epochs - warmup, 1)))
        return settings.gamma ** sum(place >= mark for mark in settings.milestones)

    return LambdaLR(optimizer, factor)
