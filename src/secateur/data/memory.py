"""Data sets that fit in memory: raw pixels stay as they are, each batch is made from them when needed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateur.data.augment import augmented, draw, normalise, scaling
from secateur.data.dataset import Batches, Data, Source
from secateur.data.grouped import Groups, wants_groups
from secateur.data.order import Order, Split
from secateur.tasks import Task

RESIDENT = 2 << 30
"""Sets of up to this many bytes are copied whole to an accelerator; larger ones travel batch by batch."""


class Store:
    """Raw images with labels, and their copies on accelerators.

    Args:
        images: (N, C, H, W), uint8 or floating point, on the CPU.
        labels: (N,) int64, on the CPU.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels
        self._copies: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return images and labels where batches for this device are best made; a copy is made only once."""
        if device.type == "cpu" or self.images.nbytes > RESIDENT:
            return self.images, self.labels
        if device not in self._copies:
            self._copies[device] = (self.images.to(device), self.labels.to(device))
        return self._copies[device]


@dataclass(frozen=True, eq=False)
class Part:
    """One split of a set in memory.

    Attributes:
        store: returns the images; called when the split is first needed, and expected to remember.
        rows: which images belong to the split, in its order, (N,) int64; None for all of them.
    """

    store: Callable[[], Store]
    rows: Tensor | None = None

    def indices(self) -> Tensor:
        """Return the rows of the store in this split's order, (N,) int64."""
        return torch.arange(len(self.store().labels)) if self.rows is None else self.rows


class MemorySource(Source):
    """Splits that are rows of sets in memory; for retrieval shuffled training batches hold several images of a class.

    Args:
        parts: the three splits.
        mean: per channel, for pixels in 0..1.
        std: per channel.
    """

    grouped = False
    classes: int | None = None  # as long as a task that has none of them hides it

    def __init__(self, parts: Mapping[Split, Part], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.parts = dict(parts)
        self.mean = mean
        self.std = std

    def size(self, split: Split) -> int:
        """Return the number of images in a split."""
        return len(self.parts[split].indices())

    def batches(self, order: Order) -> Batches:
        """Return the batches of one pass."""
        return MemoryBatches(self.parts[order.split], order, self.mean, self.std, self.grouped)

    def under(self, data: Data, task: Task) -> Data:
        """Return the same images for another task, which decides how batches are made and whether classes count."""
        again = copy.copy(self)
        again.grouped, again.classes = wants_groups(task), data.classes or self.classes
        return replace(data, task=task, classes=None if again.grouped else again.classes, source=again)

    def first(self) -> tuple[Tensor, Tensor]:
        """Return the first validation image, (1, C, H, W) float32, normalised, with its label, (1,) int64."""
        part = self.parts["val"]
        store, rows = part.store(), part.indices()[:1]
        raw = store.images[rows]
        return normalise(raw, *scaling(self.mean, self.std, raw.dtype, raw.device)), store.labels[rows]


class MemoryBatches(Batches):
    """One pass over a set in memory."""

    def __init__(
        self, part: Part, order: Order, mean: tuple[float, ...], std: tuple[float, ...], grouped: bool
    ) -> None:
        self.part = part
        self.order = order
        self.mean = mean
        self.std = std
        self.rows = part.indices()
        self.groups = Groups(part.store().labels[self.rows]) if grouped and order.learns else None
        self.shares = order.shares(len(self.rows)) if self.groups is None else self.groups.shares(order)

    def __len__(self) -> int:
        """How many batches this process gets."""
        return len(self.shares)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalised images with their labels."""
        device = self.order.device
        images, labels = self.part.store().on(device)
        rng = self.order.rng()
        order, count = self.order, len(self.rows)
        places = order.positions(count, rng) if self.groups is None else self.groups.rows(order, rng)
        rows = self.rows[places].to(images.device)
        draws = draw(self.order.augment, len(rows), rng).to(images.device)
        scales = scaling(self.mean, self.std, images.dtype, device)
        for share in self.shares:
            chosen = rows[share]
            raw = augmented(images.index_select(0, chosen), draws, share).to(device)
            yield normalise(raw, *scales), labels.index_select(0, chosen).to(device)
