"""The loss of a task with its gradients, for methods that look at them, and nothing of the network changed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.surgery.forward import in_evaluation, modes_kept, spread
from secateur.core.surgery.training_mode_check import in_training
from secateur.measure.forward import device_of, moved
from secateur.tasks import Task
from secateur.tasks.contract import checked_loss


def loss_with_gradient(model: nn.Module, batch: Any, task: Task) -> Tensor:
    """Return the loss of a network on a batch, a scalar with gradients, on the network's device.

    The network runs in evaluation mode, but for tasks that have a loss in training mode alone: then all but its norms
    and dropouts trains meanwhile.
    """
    device, steady = device_of(model), in_evaluation if task.judges_loss else in_training
    batch = moved(batch, device)
    inputs = moved(task.inputs(batch, training=not task.judges_loss), device)
    with modes_kept(model, steady), torch.enable_grad():
        try:
            returned = spread(model, inputs)
        except Exception as error:
            task.check_network(model, batch, error)
            raise
        return checked_loss(task, task.output(returned), batch)
