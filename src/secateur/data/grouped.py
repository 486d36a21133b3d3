"""Training batches that hold several images of each of their classes, as losses over pairs of images need them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateur.data.order import Order
from secateur.errors import DataError
from secateur.tasks import Retrieval, Task

TOGETHER = 4
"""Images of one class in a batch, as Hermans et al. 2017 take."""


def wants_groups(task: Task) -> bool:
    """Tell whether training batches of a task are made of groups."""
    return isinstance(task, Retrieval)


@dataclass(frozen=True, eq=False)
class Groups:
    """Shuffled training batches that are made of groups of ``TOGETHER`` images of one class.

    Each pass goes through every class in turns until its images are used up; what fills no group waits for another
    pass, and a class of fewer images shows some of them again. Incomplete batches are left out.

    Attributes:
        labels: the class of each training image, (N,) int64.
    """

    labels: Tensor

    def shares(self, order: Order) -> list[slice]:
        """Return, for each batch, which places of the pass belong to this process.

        Raises:
            DataError: if there are not two classes.
        """
        size, each = self._groups(order)
        whole = self._there(size) // each * each
        return replace(order, batch_size=each * size).shares(whole * size)

    def rows(self, order: Order, rng: torch.Generator) -> Tensor:
        """Return which image each place of the pass shows, (N,) int64.

        Raises:
            DataError: if there are not two classes.
        """
        size, each = self._groups(order)
        turns = list[tuple[int, float, Tensor]]()
        for label in self.labels.unique().tolist():
            own = torch.nonzero(self.labels == label).flatten()
            own = own[torch.randperm(len(own), generator=rng)]
            groups = own[: len(own) // size * size] if len(own) >= size else own.repeat(size)[:size]
            places = torch.rand(len(groups) // size, generator=rng).tolist()
            turns += [(turn, places[turn], group) for turn, group in enumerate(groups.split(size))]
        turns.sort(key=lambda entry: entry[:2])
        rows = torch.stack([group for _, _, group in turns])
        batches = rows[: len(rows) // each * each].view(-1, each, size)
        # Every world-th image of a batch is one process's: groups lie across, so that they stay together.
        return batches.transpose(1, 2).reshape(-1)

    def _groups(self, order: Order) -> tuple[int, int]:
        """Return how many images a group has, and how many groups a batch."""
        if len(self.labels.unique()) < 2:
            raise DataError("retrieval is learned from images of two classes or more, and there is one")
        size = max(2, min(TOGETHER, order.batch_size // 2))
        each = max(2, order.world, order.batch_size // size // order.world * order.world)
        return size, min(each, max(2, self._there(size) // order.world * order.world))

    def _there(self, size: int) -> int:
        """Return how many groups of so many images a pass has."""
        images = torch.bincount(self.labels)
        return int(torch.where(images > 0, (images // size).clamp(min=1), 0).sum())
