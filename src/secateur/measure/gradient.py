"""The loss of a task with its gradients, for methods that look at them, and nothing of the network changed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateur.measure.forward import device_of, moved, spread
from secateur.tasks import Task

_STEADY = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)  # pyright: ignore[reportPrivateUsage]


def loss_with_gradient(model: nn.Module, batch: Any, task: Task) -> Tensor:
    """Return the loss of a network on a batch, a scalar with gradients, on the network's device.

    The network runs in evaluation mode, but for tasks that have a loss in training mode alone: then all but its norms
    and dropouts trains meanwhile.
    """
    device = device_of(model)
    batch = moved(batch, device)
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        if not task.judges_loss:
            for module in model.modules():
                module.training = not isinstance(module, _STEADY)
        inputs = moved(task.inputs(batch, training=not task.judges_loss), device)
        with torch.enable_grad():
            return task.loss(task.output(spread(model, inputs)), batch)
    finally:
        for module, mode in modes:
            module.training = mode
