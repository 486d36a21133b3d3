"""How folders are read into data sets: what a user may choose, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from secateur.data.dataset import constants
from secateur.data.order import Split
from secateur.data.picture_source import Listed, grey
from secateur.data.splits import first, holdout, mixed
from secateur.errors import DataError
from secateur.tasks import Task

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
AS_THEY_ARE = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Mean and deviation that leave pixels in 0..1."""

GREY = grey(IMAGENET[0]), grey(IMAGENET[1])
"""Mean and deviation of pictures that are read in grey, where none are named."""

SPLITS: Mapping[Split, tuple[str, ...]] = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}
"""What the folder or list of each split may be called."""

Part = TypeVar("Part", bound=Listed)


def split_folders(root: Path) -> dict[Split, Path]:
    """Return the folder of each split that lies in one."""
    found = dict[Split, Path]()
    for split, words in SPLITS.items():
        place = next((root / word for word in words if (root / word).is_dir()), None)
        if place is not None:
            found[split] = place
    return found


@dataclass(frozen=True)
class FolderSettings:
    """How a folder is read.

    Attributes:
        seed: fixes which examples are held out.
        val_fraction: share of the training examples to hold out for each missing split, in (0, 1).
        train_images: train on so many of the examples that are left, drawn by the seed; all of them if None.
        mean: per channel, for pixels in 0..1; a single one makes the images grey; the usual ones if None.
        std: the same.
        image_size: height and width of the images, in pixels.
        workers: reading processes; as many as there are processor cores, at most 8, if None.
        channels: 1 for grey and 3 for coloured images; None for as many as there are means, else 3.
        classes: how many there are; None to find out.
        task: what the examples are for; None for what the kind of folder is usually for.
    """

    seed: int = 0
    val_fraction: float = 0.1
    train_images: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    image_size: int = 224
    workers: int | None = None
    channels: int | None = None
    classes: int | None = None
    task: Task | None = None

    def scale(
        self, usual: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation, one for each channel that the images get.

        Raises:
            DataError: if those that were named do not fit the channels.
        """
        named = None if self.mean is None else len(self.mean)
        channels = self.channels or (1 if named == 1 else 3)
        mean, std = usual if channels == 3 else (grey(usual[0]), grey(usual[1]))
        return constants(tuple(self.mean or mean), tuple(self.std or std), channels)

    def completed(self, parts: Mapping[Split, Part], *, paired: bool = False) -> dict[Split, Part]:
        """Return three splits of those that a folder has.

        With all three each is what its name says. With two, the second is the test split (as the validation images of
        ImageNet are) and the validation split is held out of the training examples. With ``train`` alone both are.

        Args:
            parts: the splits that there are.
            paired: whether examples are to be found by others of their class, so that a split needs several of each.

        Raises:
            DataError: if there are too few training examples.
        """
        found = dict(parts)
        train = found["train"]
        if "test" not in found and "val" in found:
            found["test"] = found.pop("val")
        wanted: tuple[Split, ...] = ("test", "val")
        missing: list[Split] = [split for split in wanted if split not in found]
        for number, split in enumerate(missing):
            later = len(missing) - number if paired else 0
            try:
                kept, held = holdout(train.labels, self.val_fraction, self.seed, paired=later)
            except DataError as error:
                raise DataError(f"the {split} split is missing and cannot be held out: {error}") from None
            found[split], train = train.take(held), train.take(kept)
        # folders list class after class
        found["train"] = train.take(first(mixed(len(train.labels), self.seed), self.train_images))
        return found
