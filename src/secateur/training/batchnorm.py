"""Batch-norm statistics estimated afresh, for a network that was changed without training."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from secateur.arguments import checked
from secateur.core.surgery import Inputs
from secateur.errors import DataError, TrainingError
from secateur.measure.forward import call, moved, yielded
from secateur.reading import written

CONSTANT = 1e-6
"""Share of the variance that was there below which nothing varies."""


@checked
def recalibrate(model: nn.Module, batches: Iterable[tuple[Inputs, Any]]) -> int:
    """Replace the running means and variances of the batch norms by the plain average over the batches.

    Weights, momentum, modes and everything else stay as they are. Only batch norms are in training mode while
    the batches run, so that dropout and the like are off. Batch norms that the batches do not reach keep what
    they have, and so do those that meet NaN or infinite values. A channel that is all but constant in the batches keeps
    its variance: divided by next to none, whatever else comes along would be blown up.

    Args:
        model: changed in place, on its own device.
        batches: (inputs, labels) as for training but best without augmentation; the inputs are what the network takes,
            the labels are not used.

    Returns:
        How many batch norms were re-estimated.

    Raises:
        DataError: if a batch is no pair; the same.
        TrainingError: if there are no batches; the statistics are then unchanged.
        ModelError: if the network does not run on them; the same.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return 0
    device = next(tensor for norm in norms for tensor in norm.buffers()).device
    seen = 0
    with _averaging(model, norms), torch.no_grad():
        for batch in yielded(batches, "the batches"):
            seen += 1
            if not isinstance(batch, tuple | list) or len(batch) != 2:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise DataError(f"batch {seen} must be a pair, inputs and labels, not {written(batch)}")
            call(model, moved(batch[0], device))
        if not seen:
            raise TrainingError("batch-norm statistics cannot be re-estimated without images; give at least one batch")
        return sum(_reached(norm) for norm in norms)


@contextmanager
def _averaging(model: nn.Module, norms: list[_BatchNorm]) -> Generator[None]:
    """Let the norms average what they see; those that see nothing, or all after an error, get theirs back."""
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    kept = [[buffer.clone() for buffer in norm.buffers()] for norm in norms]
    failed = True
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's word for a cumulative average
            norm.train()
        yield
        failed = False
    finally:
        for norm, momentum, buffers in zip(norms, momenta, kept, strict=True):
            norm.momentum = momentum  # pyright: ignore[reportAttributeAccessIssue]: torch's stub forgets None
            if failed or not _reached(norm):
                for buffer, old in zip(norm.buffers(), buffers, strict=True):
                    buffer.copy_(old)
            elif norm.running_var is not None:
                old = buffers[1]  # which follows the running mean
                norm.running_var.copy_(torch.where(norm.running_var < CONSTANT * old, old, norm.running_var))
        for module, mode in modes.items():
            module.training = mode


def _reached(norm: _BatchNorm) -> bool:
    """Tell whether a norm has met batches, and nothing in them that is not finite."""
    met = norm.num_batches_tracked is not None and int(norm.num_batches_tracked) > 0
    found = [it for it in (norm.running_mean, norm.running_var) if it is not None]
    return met and all(bool(it.isfinite().all()) for it in found)
