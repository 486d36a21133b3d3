"""Small data sets for every task, and networks whose answers can be foretold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.data import Data
from secateur.data.loaders import from_loaders
from secateur.predictions import answers, drawn, painter_of, some_batches
from secateur.tasks import Classification, Detection, Regression, Restoration, Retrieval, Segmentation, Task

CLASSES = 4
TASKS: tuple[Task, ...] = (
    Classification(),
    Classification(multi_label=True),
    Detection(),
    Regression(),
    Restoration(),
    Retrieval(),
    Segmentation(),
)


_SEEN = Counter[int]()


class Answers(nn.Module):
    """Returns what a function says of the images.

    Args:
        say: takes the images.
    """

    def __init__(self, say: Callable[[Any], Any]) -> None:
        super().__init__()
        _SEEN[id(self)] = 0
        self.say = say

    @property
    def seen(self) -> int:
        """How many images it has met."""
        return _SEEN[id(self)]

    def forward(self, images: Any) -> Any:
        _SEEN[id(self)] += len(images)  # its own attributes are put back by whoever measures it
        return self.say(images)


def scene(count: int, side: int = 32) -> Tensor:
    """Return images, (N, 3, side, side) in 0..1: the n-th has a square of the brightness n / count on a ramp."""
    ramp = torch.linspace(0, 1, side)
    images = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side), 0.5 * torch.ones(side, side)])
    found = images.repeat(count, 1, 1, 1)
    for number in range(count):
        found[number, :, side // 4 : side // 2, side // 4 : side // 2] = number / count
    return found


def level(images: Tensor) -> Tensor:
    """Return the brightness of each square, (N,), which tells the images of ``scene`` apart."""
    side = images.shape[-1]
    return images[:, 0, side // 3, side // 3]


def targets_of(task: Task, images: Tensor) -> Any:
    """Return what is wanted of images."""
    labels = torch.arange(len(images)) % CLASSES
    if isinstance(task, Classification):
        return nn.functional.one_hot(labels, CLASSES) if task.multi_label else labels
    if isinstance(task, Detection):
        boxes = torch.tensor([[8.0, 8, 16, 16]])
        return [{"boxes": boxes, "labels": 1 + label[None]} for label in labels]
    if isinstance(task, Regression):
        return level(images)
    if isinstance(task, Restoration):
        return images
    return labels if isinstance(task, Retrieval) else masks_of(images)


def masks_of(images: Tensor) -> Tensor:
    """Return masks, (N, H, W): the class 1 in the upper half, with a frame that does not count."""
    masks = torch.zeros(len(images), *images.shape[2:], dtype=torch.int64)
    masks[:, : masks.shape[1] // 2] = 1
    masks[:, :2] = 255
    return masks


def data_of(task: Task, count: int = 20, side: int = 32, batch: int = 8) -> Data:
    """Return a data set whose test images are those of ``scene``, in their order."""
    images = scene(count, side)
    targets = targets_of(task, images)
    inputs: Any = list(images) if isinstance(task, Detection) else images
    batches = [(inputs[at : at + batch], targets[at : at + batch]) for at in range(0, count, batch)]
    classes = CLASSES if isinstance(task, Classification) else None
    return from_loaders(batches, batches, batches, classes, task=task)


def network_of(task: Task, wrong: Callable[[Tensor], Tensor]) -> Answers:
    """Return a network that is right but for what ``wrong`` adds for the brightness of each square, (N,)."""

    def say(given: Any) -> Any:
        images = torch.stack(list(given)) if isinstance(given, list) else given
        off = wrong(level(images))
        labels = (level(images) * 20).round().long() % CLASSES
        scores = 3 * nn.functional.one_hot(labels, CLASSES).float()
        if isinstance(task, Classification):
            return scores + off[:, None] * scores.roll(1, dims=1)
        if isinstance(task, Detection):
            return [_boxes(1 + int(label), float(each)) for label, each in zip(labels, off, strict=True)]
        if isinstance(task, Regression):
            return level(images) + off
        if isinstance(task, Restoration):
            return images + off[:, None, None, None] * images
        if isinstance(task, Retrieval):
            return scores + off[:, None] * scores.roll(1, dims=1) + 0.01 * level(images)[:, None]
        upper = (torch.linspace(0, 1, images.shape[2])[None, :, None] < 0.5 - off[:, None, None] / 4).float()
        return torch.stack([1 - upper, upper], dim=1).expand(-1, -1, -1, images.shape[3])

    return Answers(say)


def _boxes(label: int, off: float) -> dict[str, Tensor]:
    """Return the right box, and in a network that is wrong others in proportion."""
    more = round(off * 4)
    boxes = [[8.0, 8, 16, 16], *([20.0, 2.0 + 6 * at, 28.0, 7.0 + 6 * at] for at in range(more))]
    return {
        "boxes": torch.tensor(boxes),
        "scores": torch.tensor([0.9] + [0.8] * more),
        "labels": torch.full((len(boxes),), label),
    }


def right(levels: Tensor) -> Tensor:
    """Return no error."""
    return 0 * levels


def compared(data: Data, dense: nn.Module, pruned: nn.Module) -> dict[str, Any]:
    """Return the document of two networks on a data set."""
    painter, batches = painter_of(data.task, data), some_batches(data)
    assert painter is not None
    found: Sequence[Any] = [answers(model, batches, painter) for model in (dense, pruned)]
    return drawn(painter, batches, *found)
