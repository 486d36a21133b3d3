"""Image folders: one folder a split, in it one folder a class."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from secateur.data.dataset import Data
from secateur.data.folder_settings import GREY, IMAGENET, FolderSettings, split_folders
from secateur.data.grouped import Groups, wants_groups
from secateur.data.listing import pictures_below
from secateur.data.order import Order, Split
from secateur.data.picture_source import with_channels
from secateur.data.pictures import Files, FolderSource, Size
from secateur.data.splits import PAIR
from secateur.data.vision import torchvision
from secateur.errors import DataError
from secateur.tasks import CLASSIFICATION, Retrieval, Task

__all__ = ["GREY", "IMAGENET", "image_folder", "retrieval_folder", "with_channels"]


class ClassSource(FolderSource):
    """Class folders; for retrieval shuffled training batches hold several images of each class, see ``Groups``.

    Args:
        parts: the files of each split.
        mean: per channel, for pixels in 0..1; a single one asks for grey images.
        std: per channel.
        image_size: of the images.
        workers: reading processes; chosen by the machine if None.
        classes: how many there are.
        strange: a class that they do not show; empty where they show every one.
    """

    grouped = False

    def __init__(
        self,
        parts: Mapping[Split, Files],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        image_size: Size,
        workers: int | None,
        classes: int,
        strange: str,
    ) -> None:
        super().__init__(parts, mean, std, image_size, workers)
        self.classes = classes
        self.strange = strange

    def under(self, data: Data, task: Task) -> Data:
        """Return the same images for another task, which decides how batches are made and whether classes count.

        Raises:
            DataError: if it needs training images of every class, and they do not show one, or several images of a
                class in each split, and one has none.
        """
        grouped = wants_groups(task)
        if self.strange and not grouped:
            raise DataError(
                f"the class '{self.strange}' of {data.name} has no training images, which {task.name} needs of every "
                "class: add some, or leave the class out"
            )
        if grouped:
            self._check_findable(data.name)
        again = copy.copy(self)
        again.grouped = grouped
        return replace(data, task=task, classes=None if grouped else self.classes, source=again)

    def _check_findable(self, name: str) -> None:
        held_out: tuple[Split, ...] = ("val", "test")
        for split in held_out:
            labels = self.parts[split].labels
            if len(labels) and int(torch.bincount(labels).max()) < PAIR:
                raise DataError(
                    f"no class has two of the {len(labels)} {split} images of {name}, so that none can be found by "
                    f"another: put {PAIR} or more of a class into '{split}', or leave it out, and it is held out of "
                    "the training images"
                )

    def shares(self, order: Order) -> list[slice]:
        """Return, for each batch, which places of the pass belong to this process."""
        return self._groups().shares(order) if self.grouped and order.learns else super().shares(order)

    def rows(self, order: Order, rng: torch.Generator) -> Tensor:
        """Return which image each place of the pass shows, (N,) int64."""
        return self._groups().rows(order, rng) if self.grouped and order.learns else super().rows(order, rng)

    def _groups(self) -> Groups:
        return Groups(self.parts["train"].labels)


def image_folder(root: Path, settings: FolderSettings) -> Data:
    """Make a data set of a folder with ``train`` and, if there are any, ``val`` and ``test`` class folders.

    Missing splits are held out of the training images, see ``FolderSettings.completed``. For retrieval splits may have
    other classes than the training images.

    Args:
        root: holds the folders of the splits, which hold one folder a class.
        settings: how it is read.

    Raises:
        DataError: if folders are missing or do not fit together.
        SecateurError: if torchvision is not installed.
    """
    task, known = settings.task or CLASSIFICATION, _class_names(root)
    places, open_set = split_folders(root), wants_groups(task)
    names = sorted({name for place in places.values() for name in _folders(place)}) if open_set else known
    found: dict[Split, Files] = {
        split: _files(place, split, names, every=not open_set) for split, place in places.items()
    }
    shown = torch.bincount(found["train"].labels, minlength=len(names)) > 0
    strange = next((name for name, there in zip(names, shown.tolist(), strict=True) if not there), "")
    scale = settings.scale()
    parts = settings.completed(found, paired=open_set)
    source = ClassSource(parts, *scale, settings.image_size, settings.workers, len(names), strange)
    shape = (len(scale[0]), settings.image_size, settings.image_size)
    return source.under(Data(root.resolve().name, None, shape, *scale, source, task, tuple(names)), task)


def retrieval_folder(root: Path, settings: FolderSettings) -> Data:
    """Make a data set of class folders as ``image_folder`` does, for retrieval where no other task is named.

    Raises:
        DataError: if folders are missing.
        SecateurError: if torchvision is not installed.
    """
    return image_folder(root, replace(settings, task=settings.task or Retrieval()))


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _class_names(root: Path) -> list[str]:
    if not root.is_dir():
        raise DataError(f"there is no folder '{root}': it should hold train/CLASS/IMAGE files")
    if not (root / "train").is_dir():
        found = ", ".join(_folders(root)[:5]) or "no folders"
        raise DataError(f"'{root}' holds no folder 'train' (it holds {found}): put the images in train/CLASS/IMAGE")
    names = _folders(root / "train")
    if not names:
        raise DataError(f"'{root / 'train'}' holds no class folders: put the images in train/CLASS/IMAGE")
    return names


def _files(folder: Path, split: Split, classes: list[str], *, every: bool) -> Files:
    """List the images of a split; labels follow the class names, of which training needs every one if asked to."""
    endings = torchvision().datasets.folder.IMG_EXTENSIONS
    foreign = sorted(set(_folders(folder)) - set(classes))
    if foreign:
        raise DataError(f"'{folder}' has a class '{foreign[0]}' that the training images do not have")
    numbers = {name: number for number, name in enumerate(classes)}
    present = {name: numbers[name] for name in _folders(folder)}
    found = [
        (os.path.join(here, picture), label)
        for name, label in sorted(present.items())
        for here, pictures in sorted(pictures_below(folder / name, hidden=True))
        for picture in pictures
    ]
    labels = torch.tensor([label for _, label in found], dtype=torch.int64)
    empty = torch.bincount(labels, minlength=len(classes)) == 0
    if not found or (every and split == "train" and bool(empty.any())):
        where = folder / classes[int(empty.int().argmax())] if found else folder
        raise DataError(f"'{where}' holds no images (known endings: {', '.join(endings)})")
    return Files(tuple(path for path, _ in found), labels)
