"""Known data sets that torchvision reads whole into memory."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from secateur.data.dataset import Data, check_labels, constants
from secateur.data.memory import MemorySource, Part, Store
from secateur.data.order import Split
from secateur.data.splits import first, holdout
from secateur.data.vision import torchvision
from secateur.errors import DataError
from secateur.reading import MIB, regular, shown
from secateur.spelling import said

MOST_BYTES = 512 * MIB
"""Of a file of a known data set; the largest, of SVHN, has a third of it."""


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


def known_set(
    name: str,
    root: Path,
    fraction: float,
    most: int | None,
    seed: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    download: bool,
) -> Data:
    """Make a data set of ``KNOWN``; the validation split is held out of the training images.

    Args:
        name: which one.
        root: where its files are.
        fraction: share of the training images to hold out, in (0, 1).
        most: train on so many of the images that are left; all of them if None.
        seed: fixes which are held out.
        mean: per channel, for pixels in 0..1; the usual one if None.
        std: the same.
        download: whether to fetch what is not there.

    Raises:
        DataError: if files are missing or damaged.
        SecateurError: if torchvision is not installed.
    """
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
