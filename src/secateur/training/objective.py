"""The loss: that of the task, and, where there is a teacher, the distance from what it returns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.task import nothing_to_imitate
from secateur.data import Data
from secateur.data.pictures import FolderSource
from secateur.errors import DataError
from secateur.events import Tell, warn_once
from secateur.spelling import setting_as
from secateur.tasks import Task
from secateur.tasks.contract import checked_loss
from secateur.training.settings import Settings


class Outputs(nn.Module):
    """A stand-in for the network that returns what matters to its task, whatever it returns itself.

    What accelerate hangs on a prepared module (a wrapped ``forward``, marks) stays on the stand-in, so that
    the caller's network comes back clean.
    """

    def __init__(self, network: nn.Module, task: Task) -> None:
        super().__init__()
        self.network, self.task = network, task

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the output of the network for what it takes, such as class scores (N, classes) for images.

        Raises:
            ModelError: if it is nothing that the task can use.
        """
        return self.task.output(self.network(*args, **kwargs))


def loss_of(task: Task, output: Any, batch: Any, taught: Any, settings: Settings) -> Tensor:
    """Return the mean loss of a batch, a scalar.

    With a teacher it is ``(1 - distill) * loss + distill * imitation``, see ``Task.imitation``.

    Args:
        task: with the labels smoothed as the settings say.
        output: of the network that learns, from ``Task.output``.
        batch: one of the data, on the same device.
        taught: the same of the teacher; None for the targets alone.
        settings: distill and temperature.
    """
    hard = checked_loss(task, output, batch)
    if taught is None:
        return hard
    soft = task.imitation(output, taught, settings.temperature)
    return (1 - settings.distill) * hard + settings.distill * soft


def check_lesson(data: Data, settings: Settings | None) -> None:
    """Refuse settings that a task has no use for, and examples that teach nothing, as far as they are at hand.

    Raises:
        SettingError: if labels are to be smoothed, or a teacher imitated, where there are none.
        DataError: if nothing can be learned from any of the training batches.
    """
    if settings is None:
        return
    task = data.task
    task.smoothed(settings.label_smoothing)
    if settings.distill and not task.imitates:
        raise nothing_to_imitate(task)
    vain = ""
    for batch in data.source.at_hand("train"):
        vain = task.in_vain(batch)
        if not vain:
            break
    if vain:
        raise DataError(f"nothing can be learned from any of the training batches: in the last one {vain}")


def warn_of_numbers(data: Data, settings: Settings, tell: Tell) -> None:
    """Warn where pictures are cut out or mirrored at random, and the numbers that are wanted of them stay."""
    source = data.source
    if isinstance(source, FolderSource) and source.parts["train"].numbers is not None and settings.augment != "none":
        warn_once(
            f"the pictures of {data.name} are moved at random ({setting_as('augment', settings.augment)}) and their "
            "numbers are not: that is right only for what depends neither on place nor on size nor on what is cut off; "
            f"else choose {setting_as('augment', 'none')}",
            tell,
        )


def first_not_finite(losses: Tensor) -> int:
    """Return the place of the first loss in (n,) that is nan or infinite, or -1; waits for the device."""
    bad = torch.isfinite(losses).logical_not_()
    return int(bad.to(torch.uint8).argmax()) if bool(bad.any()) else -1
