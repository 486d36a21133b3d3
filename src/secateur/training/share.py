"""A process's share of the data: all of it, or an equal part of every batch in each of several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from secateur.measure import quality
from secateur.tasks import Classification
from secateur.training.settings import Settings

if TYPE_CHECKING:
    from accelerate import Accelerator

    from secateur.data import Batches, Data


def number_of(seed: int, epoch: int, *stream: int) -> int:
    """Return the number in [0, 2**31) that the randomness of an epoch is drawn from.

    Args:
        seed: of the training.
        epoch: counted from 1.
        stream: whose randomness, so that one does not repeat the other's; none for order, augmentation and dropout.
    """
    return int(np.random.SeedSequence([seed, epoch], spawn_key=stream).generate_state(1)[0] >> 1)


def trained_on(data: Data) -> str:
    """Return what a checkpoint tells data apart by."""
    name = f"{data.name}/{data.size('train')}"
    return name if isinstance(data.task, Classification) else f"{name}/{data.task.name}"


class Share:
    """The batches of this process.

    Args:
        data: the whole data; it divides every batch among the processes.
        settings: batch size and augmentation.
        seed: of order and augmentation.
        accelerator: says which of how many processes this is, and its device.
    """

    def __init__(self, data: Data, settings: Settings, seed: int, accelerator: Accelerator) -> None:
        self.data, self.settings, self.seed, self.accelerator = data, settings, seed, accelerator
        self.world = accelerator.num_processes
        self.task = data.task.smoothed(settings.label_smoothing)

    def train(self, epoch: int) -> Batches:
        """Return the training batches of an epoch, shuffled and augmented."""
        return self._train(epoch, self.settings.augment, self.accelerator.process_index, self.world)

    def plain(self) -> Batches:
        """Return training batches without augmentation, the same ones in all processes."""
        return self._train(0, "none", 0, 1)

    def _train(self, epoch: int, augment: str, rank: int, world: int) -> Batches:
        return self.data.batches(
            "train",
            self.settings.batch_size,
            augment=augment,
            shuffle=True,
            seed=number_of(self.seed, epoch),
            device=self.accelerator.device,
            rank=rank,
            world=world,
        )

    def validate(self, model: nn.Module) -> tuple[float | None, float | None]:
        """Return loss and metric on the validation examples of all processes; None without such examples."""
        examples = self.data.size("val")
        if not examples:
            return None, None
        device = self.accelerator.device
        # a metric that is no mean needs all of them at once; and nobody may stay without any
        shared = self.data.task.metric_is_mean and examples >= self.world
        rank, world = (self.accelerator.process_index, self.world) if shared else (0, 1)
        batches = self.data.batches("val", self.settings.batch_size, device=device, rank=rank, world=world)
        found = quality(model, batches, self.data.task, device=device)
        if world == 1:
            return found.loss, found.value
        sums = torch.tensor([found.loss or 0.0, found.value, 1.0], dtype=torch.float64, device=device)
        total: Any = self.accelerator.reduce(sums * found.examples, "sum")
        loss = None if found.loss is None else float(total[0] / total[2])
        return loss, float(total[1] / total[2])
