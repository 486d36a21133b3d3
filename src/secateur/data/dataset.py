"""A data set as the rest of the library sees it: three splits of examples with targets, in batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from secateur.arguments import checked
from secateur.core.surgery.forward import are_images
from secateur.data.order import Order, Split, known_split
from secateur.errors import DataError
from secateur.measure.forward import Device
from secateur.rules import AnySeed, Count
from secateur.spelling import setting_as
from secateur.tasks import Classification, Task
from secateur.typed import check_types


class Batches(ABC):
    """The batches of one pass over a split; iterating again repeats the same pass."""

    @abstractmethod
    def __len__(self) -> int:
        """How many batches this process gets."""

    @abstractmethod
    def __iter__(self) -> Iterator[Any]:
        """Yield batches as the task of the data takes them.

        For classification these are images, (N, C, H, W) float32 and normalised, with their labels, (N,) int64.
        """


class Source(ABC):
    """Where the images of a data set come from."""

    @abstractmethod
    def size(self, split: Split) -> int:
        """Return the number of images in a split."""

    @abstractmethod
    def batches(self, order: Order) -> Batches:
        """Return the batches of one pass."""

    @abstractmethod
    def first(self) -> Any:
        """Return the first validation example as a batch of one, on the CPU."""

    def at_hand(self, split: Split) -> Sequence[Any]:
        """Return batches of a split that can be looked at without reading any; none where that costs something."""
        return ()

    def under(self, data: Data, task: Task) -> Data:
        """Return the data set of this source with another task; sources whose batches depend on it make them anew."""
        return replace(data, task=task)


@checked
@dataclass(frozen=True, eq=False)
class Data:
    """A data set for a task, with training, validation and test splits.

    The validation split is always held out of the training images; the test split is not even read before
    it is asked for.

    Attributes:
        name: what reports call it.
        classes: number of labels; labels are 0..classes-1. None where targets are no classes.
        shape: channels, height and width of an image.
        mean: what was taken from each channel, for pixels in 0..1.
        std: what each channel was divided by after that.
        source: where the examples come from.
        task: what a network is to do with them.
        names: what the labels are called, in their order; empty where nobody has said.
    """

    name: str
    classes: Count | None
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: Source = field(repr=False)
    task: Task = field(default_factory=Classification)
    names: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        check_types(self)

    def batches(
        self,
        split: Split,
        batch_size: Count = 256,
        *,
        augment: str = "none",
        shuffle: bool = False,
        seed: AnySeed = 0,
        device: Device | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> Batches:
        """Return one pass over a split.

        Give each epoch its own seed. With several processes each gets every ``world``-th image of the same
        global batches that one process would see, augmented alike.

        Args:
            split: which images.
            batch_size: images in a global batch, over all processes together; 256 suits evaluation.
            augment: ``"none"``, ``"flip"``, ``"crop"`` or ``"crop_flip"``.
            shuffle: whether the seed permutes the images. Without it, training and held-out images come in a
                fixed order that mixes the classes, others in the order of their files.
            seed: fixes order and augmentation.
            device: where the batches shall be; the CPU if None.
            rank: this process, from 0.
            world: number of processes.

        Returns:
            An iterable with a length; it yields batches as the task takes them: for classification images, (N, C, H,
            W) float32, and labels, (N,) int64.

        Raises:
            DataError: if there is no such augmentation, or the numbers do not go together.
            SettingError: if there is no such split, or a number is out of range.
        """
        place = _indexed(torch.device("cpu" if device is None else device))
        return self.source.batches(Order(split, batch_size, augment, shuffle, seed, place, rank, world))

    def size(self, split: Split) -> int:
        """Return the number of images in a split.

        Raises:
            SettingError: if there is no such split.
        """
        return self.source.size(known_split(split))

    def example(self) -> Any:
        """Return what the network takes for one real validation example, on the CPU, such as (1, C, H, W) float32."""
        return example_of(self.task, self.source.first())


def example_of(task: Task, batch: Any) -> Any:
    """Return what the network takes for the first example of a batch, as a copy.

    Of inputs that are a list of images, as detectors take them, the first one is left.
    """
    return _cut(task.inputs(batch), task.count(batch))


def _cut(inputs: Any, count: int) -> Any:
    if isinstance(inputs, Tensor):
        return (inputs[:1] if inputs.dim() and len(inputs) == count else inputs).clone()
    if isinstance(inputs, Mapping):
        entries = cast("Mapping[Any, Any]", inputs)
        return {name: _cut(value, count) for name, value in entries.items()}
    if isinstance(inputs, list) and are_images(inputs):
        return [inputs[0].clone()]
    if isinstance(inputs, tuple | list):
        parts = [_cut(value, count) for value in cast("Sequence[Any]", inputs)]
        return tuple(parts) if isinstance(inputs, tuple) else parts
    return inputs


def of_classes(data: Data, classes: int | None) -> Data:
    """Return data of so many classes, where somebody says how many there are.

    Raises:
        DataError: if it has another number of them.
    """
    if classes is None or classes == data.classes:
        return data
    if data.classes is not None:
        raise DataError(
            f"{data.name} has {data.classes} classes, and {setting_as('classes', classes)} was said: leave that out"
        )
    return replace(data, classes=classes)


def constants(
    mean: tuple[float, ...], std: tuple[float, ...], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation, checked against the number of channels.

    Raises:
        DataError: if there is not one of each for every channel, or a deviation is not positive.
    """
    for what, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise DataError(f"{what} has {len(values)} value(s) for images of {channels} channel(s): give one for each")
    if not all(value > 0 for value in std):
        raise DataError(f"std must be positive in every channel, not {std}")
    return tuple(float(value) for value in mean), tuple(float(value) for value in std)


def check_labels(labels: Tensor, classes: int, where: str) -> None:
    """Check that labels, (N,) int64, lie in 0..classes-1.

    Raises:
        DataError: naming the label that does not.
    """
    if not len(labels):
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise DataError(f"{where} hold the label {wrong}, but {classes} classes have labels 0 to {classes - 1}")


def _indexed(device: torch.device) -> torch.device:
    """Return the device with its number, so that "cuda" and "cuda:0" share one copy of the images."""
    if str(device) == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return device
