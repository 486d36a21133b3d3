"""The images on which candidates compete: once in memory, in one order, whatever looks at them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.errors import DataError
from secateur.measure.forward import device_of, dtype_of
from secateur.spelling import setting

BATCH = {"cpu": 64, "cuda": 1024}
"""Images at a time: few enough that the maps of a small network stay in the cache of a CPU core."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Labelled images.

    Attributes:
        images: (N, ...), of the network's type and on its device.
        labels: (N,) int64, on the same device.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.labels)

    @staticmethod
    def of(batches: Iterable[tuple[Tensor, Tensor]] | None, model: nn.Module) -> HeldOut:
        """Gather batches of ``(images, labels)`` where the network can use them.

        Raises:
            DataError: if there are none.
        """
        place, dtype = device_of(model), dtype_of(model)
        pairs = [(x.to(place, dtype), y.to(place)) for x, y in batches if len(y)] if batches is not None else []
        if not pairs:
            raise DataError(f"candidates are compared on validation images, and there are none; give {setting('data')}")
        return HeldOut(torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs]).long())

    def sampled(self, most: int) -> HeldOut:
        """Return at most so many of the images, of each label its share, spread evenly over its images."""
        if len(self) <= most:
            return self
        by_label = self.labels.argsort(stable=True)
        places = ((torch.arange(most, dtype=torch.float64) + 0.5) * len(self) / most).long().to(by_label.device)
        chosen = by_label[places].sort().values
        return HeldOut(self.images[chosen], self.labels[chosen])

    @property
    def example(self) -> Tensor:
        """The first image, (1, ...)."""
        return self.images[:1]

    @property
    def batch(self) -> int:
        """How many images are looked at in one go; every candidate stops at multiples of it."""
        return BATCH.get(self.images.device.type, BATCH["cuda"])

    def stop(self, images: int) -> int:
        """Return the first place at or after so many images at which candidates stop."""
        return min(len(self), -(-max(1, images) // self.batch) * self.batch)
