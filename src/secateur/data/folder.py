"""Image folders: one folder a split, in it one folder a class."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from secateur.data.dataset import Data
from secateur.data.folder_settings import GREY, IMAGENET, FolderSettings
from secateur.data.grouped import GroupedSource
from secateur.data.listing import pictures_below
from secateur.data.order import Split
from secateur.data.picture_source import with_channels
from secateur.data.pictures import Files, FolderSource
from secateur.data.vision import torchvision
from secateur.errors import DataError
from secateur.tasks import Retrieval

__all__ = ["GREY", "IMAGENET", "image_folder", "retrieval_folder", "with_channels"]


def image_folder(root: Path, settings: FolderSettings) -> Data:
    """Make a data set of a folder with ``train`` and, if there are any, ``val`` and ``test`` class folders.

    Missing splits are held out of the training images, see ``FolderSettings.completed``.

    Args:
        root: holds the folders of the splits, which hold one folder a class.
        settings: how it is read.

    Raises:
        DataError: if folders are missing or do not fit together.
        SecateurError: if torchvision is not installed.
    """
    classes = _class_names(root)
    parts = settings.completed({split: _files(root / split, classes) for split in _present(root)})
    scale = settings.scale()
    source = FolderSource(parts, *scale, settings.image_size, settings.workers)
    shape = (len(scale[0]), settings.image_size, settings.image_size)
    return Data(root.resolve().name, len(classes), shape, *scale, source, names=tuple(classes))


def retrieval_folder(root: Path, settings: FolderSettings) -> Data:
    """Make a data set for retrieval of class folders as for ``image_folder``.

    Splits may have other classes than the training images. Shuffled training batches hold several images of each class.

    Raises:
        DataError: if folders are missing.
        SecateurError: if torchvision is not installed.
    """
    _class_names(root)
    splits = _present(root)
    classes = sorted({name for split in splits for name in _folders(root / split)})
    parts = settings.completed({split: _files(root / split, classes, every=False) for split in splits})
    scale = settings.scale()
    source = GroupedSource(parts, *scale, settings.image_size, settings.workers)
    shape = (len(scale[0]), settings.image_size, settings.image_size)
    task = settings.task or Retrieval()
    return Data(root.resolve().name, None, shape, *scale, source, task, tuple(classes))


def _present(root: Path) -> list[Split]:
    splits: tuple[Split, ...] = ("train", "val", "test")
    return [split for split in splits if (root / split).is_dir()]


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


def _files(folder: Path, classes: list[str], *, every: bool = True) -> Files:
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
    if not found or (every and folder.name == "train" and bool(empty.any())):
        where = folder / classes[int(empty.int().argmax())] if found else folder
        raise DataError(f"'{where}' holds no images (known endings: {', '.join(endings)})")
    return Files(tuple(path for path, _ in found), labels)
