"""Folders for segmentation: images, and masks of class numbers under the same names."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.data import layouts
from secateur.data.dataset import Data
from secateur.data.folder_settings import FolderSettings
from secateur.data.joint import Joint
from secateur.data.masks import ColourTable, check_numbers, classes_in, colour_table, read_mask
from secateur.data.order import Split
from secateur.data.picture_source import PictureSource, Reader
from secateur.data.vision import picture
from secateur.errors import DataError
from secateur.tasks import Segmentation, Task

NAMES = tuple(("images", masks) for masks in ("masks", "labels", "annotations"))
BESIDE = ("annot", "_labels", "_masks", "_annotations")


@dataclass(frozen=True, eq=False)
class MaskFiles:
    """The images of one split with their masks.

    Attributes:
        images: one file an image.
        masks: one file for each.
    """

    images: tuple[str, ...]
    masks: tuple[str, ...]

    @property
    def labels(self) -> Tensor:
        """Zeros: nothing tells one image from another."""
        return torch.zeros(len(self.images), dtype=torch.int64)

    def take(self, rows: Tensor) -> MaskFiles:
        """Return some of them, in the order of ``rows``, (M,) int64."""
        chosen: list[int] = rows.tolist()
        return MaskFiles(tuple(self.images[row] for row in chosen), tuple(self.masks[row] for row in chosen))


@dataclass(frozen=True)
class Numbering:
    """What the numbers in masks mean.

    Attributes:
        classes: how many there are.
        ignore: the number of pixels that do not count; None if all do.
        table: which colour is which class; None where pixels are class numbers.
        asked: how many classes there are as the user says; None if they were counted.
        counted: the masks that they are counted in.
    """

    classes: int
    ignore: int | None
    table: ColourTable | None
    asked: int | None
    counted: tuple[str, ...]

    def under(self, task: Task) -> Numbering:
        """Return what masks mean for a task.

        Raises:
            DataError: if they do not say how many classes there are.
        """
        ignore = task.ignore if isinstance(task, Segmentation) else None
        classes = classes_in(self.counted, self.table, ignore) if self.asked is None else self.asked
        return replace(self, classes=classes, ignore=ignore)


class MaskSource(PictureSource):
    """Splits that are lists of images with masks.

    Args:
        parts: the files of each split.
        mean: per channel, for pixels in 0..1; a single one asks for grey images.
        std: per channel.
        image_size: height and width to which images and masks are resized.
        workers: reading processes; chosen by the machine if None.
        numbers: what masks mean.
    """

    parts: dict[Split, MaskFiles]

    def __init__(
        self,
        parts: Mapping[Split, MaskFiles],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        image_size: int,
        workers: int | None,
        numbers: Numbering,
    ) -> None:
        super().__init__(parts, mean, std, workers)
        self.image_size = image_size
        self.numbers = numbers

    def pictures(self, split: Split, augment: str) -> MaskReader:
        """Return what reads the single images of a split."""
        return MaskReader(self.parts[split], augment, self.image_size, len(self.mean), self.numbers)

    def collated(self, items: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Return images, (N, C, S, S) uint8, with masks, (N, S, S) int64."""
        images, masks = super().collated(items)
        return images, masks.long()

    def under(self, data: Data, task: Task) -> Data:
        """Return the same images for another task, whose ignored number decides how many classes there are."""
        numbers = self.numbers.under(task)
        again = copy.copy(self)
        again.numbers = numbers
        return replace(data, task=task, classes=numbers.classes, source=again)


class MaskReader(Reader):
    """Reads, resizes and augments single images with their masks."""

    def __init__(self, files: MaskFiles, augment: str, image_size: int, channels: int, numbers: Numbering) -> None:
        self.files = files
        self.channels = channels
        self.numbers = numbers
        self.joint = Joint(augment, image_size, numbers.ignore)

    def opened(self, row: int) -> tuple[Any, Any]:
        """Return a picture with its class numbers."""
        path, other = self.files.images[row], self.files.masks[row]
        found, mask = picture(path, self.channels), read_mask(other, self.numbers.table)
        high, wide = mask.shape
        if found.size != (wide, high):
            raise DataError(
                f"the mask '{other}' has {wide} x {high} pixels and its image '{path}' {found.size[0]} x "
                f"{found.size[1]}: they must be alike"
            )
        check_numbers(mask, other, self.numbers.classes, self.numbers.ignore)
        return found, mask

    def changed(self, found: tuple[Any, Any], row: int) -> tuple[Tensor, Tensor]:
        """Return an image, (C, S, S) uint8, with its mask of whole numbers, (S, S)."""
        return self.joint.masked(*found)


def mask_folder(root: Path, settings: FolderSettings) -> Data:
    """Make a data set of images and masks, see ``layouts.paired`` and ``layouts.voc`` for how they may lie.

    Missing splits are held out of the training images, see ``FolderSettings.completed``.

    Raises:
        DataError: if files are missing or do not fit together.
        SecateurError: if torchvision is not installed.
    """
    layouts.there(root)
    pairs = layouts.voc(root) or layouts.paired(root, NAMES, BESIDE)
    found: dict[Split, MaskFiles] = {split: MaskFiles(*layouts.taken(pairs, split)) for split in pairs}
    parts = settings.completed(found)
    task = settings.task or Segmentation()
    table = colour_table(root)
    own = ("train", "val") if "test" in found else ("train",)  # nothing is read of what tests
    masks = tuple(mask for split, files in found.items() if split in own for mask in files.masks)
    numbers = Numbering(0, None, table, settings.classes, masks).under(task)
    scale = settings.scale()
    source = MaskSource(parts, *scale, settings.image_size, settings.workers, numbers)
    shape = (len(scale[0]), settings.image_size, settings.image_size)
    names = table.names[: numbers.classes] if table else ()
    return Data(root.resolve().name, numbers.classes, shape, *scale, source, task, names)
