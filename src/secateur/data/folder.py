"""Image folders: one folder a split, in it one folder a class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from secateur.data.dataset import Data, constants
from secateur.data.listing import pictures_below
from secateur.data.order import Split
from secateur.data.pictures import Files, FolderSource
from secateur.data.splits import first, holdout, mixed
from secateur.data.vision import torchvision
from secateur.errors import DataError

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey, of ITU-R 601."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def grey(values: Sequence[float]) -> tuple[float, ...]:
    """Return the mean, or the deviation, of grey pictures from that of their colours, which rise and fall together."""
    return (sum(weight * value for weight, value in zip(LUMA, values, strict=True)),)


GREY = grey(IMAGENET[0]), grey(IMAGENET[1])
"""Mean and deviation of pictures that are read in grey, where none are named."""


def image_folder(
    root: Path,
    *,
    seed: int = 0,
    val_fraction: float = 0.1,
    train_images: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int = 224,
    workers: int | None = None,
) -> Data:
    """Make a data set of a folder with ``train`` and, if there are any, ``val`` and ``test`` class folders.

    With all three each is what its name says. With two, the second is the test split (as the validation
    images of ImageNet are) and the validation split is held out of the training images. With ``train`` alone
    both are.

    Args:
        root: holds the folders of the splits, which hold one folder a class.
        seed: fixes which images are held out.
        val_fraction: share of the training images to hold out for each missing split, in (0, 1).
        train_images: train on so many of the images that are left, drawn by the seed; all of them if None.
        mean: per channel, for pixels in 0..1; a single one makes the images grey; ImageNet's if None.
        std: the same.
        image_size: height and width of the images, in pixels.
        workers: reading processes; as many as there are processor cores, at most 8, if None.

    Raises:
        DataError: if folders are missing or do not fit together.
        SecateurError: if torchvision is not installed.
    """
    classes = _class_names(root)
    parts: dict[Split, Files] = {split: _files(root / split, classes) for split in _present(root)}
    train = parts["train"]
    if "test" not in parts and "val" in parts:
        parts["test"] = parts.pop("val")
    missing: tuple[Split, ...] = ("test", "val")
    for split in missing:
        if split not in parts:
            kept, held = holdout(train.labels, val_fraction, seed)
            parts[split], train = train.take(held), train.take(kept)
    parts["train"] = train.take(first(mixed(len(train.paths), seed), train_images))  # folders list class after class
    channels = 1 if mean is not None and len(mean) == 1 else 3
    checked = constants(tuple(mean or IMAGENET[0]), tuple(std or IMAGENET[1]), channels)
    source = FolderSource(parts, *checked, image_size, workers)
    return Data(root.resolve().name, len(classes), (channels, image_size, image_size), *checked, source)


def with_channels(data: Data, channels: int) -> Data:
    """Return the same pictures in grey, 1 channel, or in colour, 3; mean and deviation follow.

    Args:
        data: of ``image_folder``.
        channels: 1 or 3.
    """
    source = data.source
    if not isinstance(source, FolderSource) or channels == len(data.mean):
        return data
    mean, std = (grey(it) if channels == 1 else it * channels for it in (data.mean, data.std))
    again = FolderSource(source.parts, mean, std, source.image_size, source.workers)
    return replace(data, shape=(channels, *data.shape[1:]), mean=mean, std=std, source=again)


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


def _files(folder: Path, classes: list[str]) -> Files:
    """List the images of a split; labels follow the training folder's class names."""
    datasets = torchvision().datasets.folder
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
    if not found or (folder.name == "train" and bool(empty.any())):
        where = folder / classes[int(empty.int().argmax())] if found else folder
        raise DataError(f"'{where}' holds no images (known endings: {', '.join(datasets.IMG_EXTENSIONS)})")
    return Files(tuple(path for path, _ in found), labels)
