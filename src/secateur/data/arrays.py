"""Data sets from arrays that the caller already has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from secateur.arguments import checked
from secateur.data.dataset import Data, check_labels, constants
from secateur.data.memory import MemorySource, Part, Store
from secateur.data.order import Split
from secateur.data.splits import holdout, mixed
from secateur.errors import DataError, first_line
from secateur.rules import Count, Seed

Array = Tensor | np.ndarray[Any, Any] | Sequence[Any]
Layout = Literal["auto", "NCHW", "NHWC"]
CHANNELS = (1, 3, 4)  # what an image's channels are when nobody says where they are


@checked
def from_arrays(
    train: tuple[Array, Array],
    test: tuple[Array, Array],
    val: tuple[Array, Array] | None = None,
    *,
    name: str = "arrays",
    classes: Count | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    layout: Layout = "auto",
    val_fraction: float = 0.1,
    seed: Seed = 0,
) -> Data:
    """Make a data set of images and labels in memory.

    Arrays are shared with the caller, not copied, where their type and layout allow it.

    Args:
        train: images, (N, C, H, W), (N, H, W, C) or (N, H, W), uint8 or floating point, with integer labels,
            (N,).
        test: the same for the test split.
        val: the same for the validation split; None to hold it out of the training images.
        name: what reports call the data set.
        classes: number of labels; one more than the largest training label if None.
        mean: per channel; uint8 pixels count as 0..1, floating-point ones as they are. Computed from the
            training split if None.
        std: the same for the standard deviation.
        layout: where the channels are; ``"auto"`` looks for the axis of length 1, 3 or 4.
        val_fraction: share of the training images to hold out, in (0, 1).
        seed: fixes which images are held out, and the order of training images that nobody shuffles.

    Raises:
        DataError: if the arrays do not fit together or a setting is out of range.

    Example:
        >>> data = from_arrays((images, labels), (test_images, test_labels), name="moths")
    """
    stores = {"train": _store(train, "training", layout), "test": _store(test, "test", layout)}
    if val is not None:
        stores["val"] = _store(val, "validation", layout)
    first = stores["train"]
    count = int(first.labels.max()) + 1 if classes is None else classes
    for split, store in stores.items():
        check_labels(store.labels, count, f"the {split} labels")
        _check_alike(split, store, first)
    if val is None:
        kept, held = holdout(first.labels, val_fraction, seed)
        parts: dict[Split, Part] = {"train": Part(lambda: first, kept), "val": Part(lambda: first, held)}
    else:
        parts = {
            "train": Part(lambda: first, mixed(len(first.labels), seed)),
            "val": Part(lambda: stores["val"]),
        }
    parts["test"] = Part(lambda: stores["test"])
    channels, height, width = first.images.shape[1:]
    if mean is None or std is None:
        found = statistics(first.images, parts["train"].indices())
        mean, std = found[0] if mean is None else mean, found[1] if std is None else std
    checked = constants(tuple(mean), tuple(std), channels)
    return Data(name, count, (channels, height, width), *checked, MemorySource(parts, *checked))


def statistics(images: Tensor, rows: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel over some images, without a copy of them all.

    Args:
        images: (N, C, H, W); uint8 pixels count as 0..1.
        rows: which images, (M,) int64.

    Returns:
        Two tuples of C numbers; the deviation of a constant channel is given as 1.

    Raises:
        DataError: if pixels are not finite numbers.
    """
    total = torch.zeros(images.shape[1], dtype=torch.float64)
    squares = total.clone()
    for at in range(0, len(rows), 256):
        pixels = images[rows[at : at + 256]].transpose(0, 1).flatten(1).double()
        total += pixels.sum(1)
        squares += pixels.square().sum(1)
    count = len(rows) * images.shape[2] * images.shape[3]
    full = 255.0 if images.dtype == torch.uint8 else 1.0
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    if not bool(torch.isfinite(mean).all() and torch.isfinite(std).all()):
        raise DataError("the training images hold numbers that are not finite: remove or replace them")
    std = torch.where(std > 1e-6 * mean.abs().clamp(min=1e-6), std / full, 1.0)
    return tuple(float(value) for value in mean / full), tuple(float(value) for value in std)


def _store(pair: tuple[Array, Array], which: str, layout: Layout) -> Store:
    images, labels = images_of(tensor_of(pair[0]), which, layout), _labels(tensor_of(pair[1]), which)
    if len(images) != len(labels):
        raise DataError(f"the {which} arrays hold {len(images)} images but {len(labels)} labels: give one for each")
    if not len(images):
        raise DataError(f"the {which} arrays are empty")
    return Store(images, labels)


def is_bare(value: object) -> bool:
    """Tell whether a value is a tensor without numbers at each of its places: on the device meta, or sparse."""
    return isinstance(value, Tensor) and (value.is_meta or value.layout is not torch.strided)


def tensor_of(array: Array) -> Tensor:
    """Return an array as a tensor on the CPU, without a copy where that is possible.

    Raises:
        DataError: if it does not hold numbers of one type and shape.
    """
    if isinstance(array, Tensor):
        if is_bare(array):
            raise DataError("a tensor has no values (device 'meta') or is sparse: give a dense one with values")
        return array.detach().cpu()
    try:
        values = np.asarray(array)
        values = values.astype(values.dtype.newbyteorder("="), copy=False)  # torch knows no other order of bytes
        # torch can only share memory that may be written and is walked forwards.
        shared = values.flags.writeable and all(step >= 0 for step in values.strides)
        return torch.as_tensor(values if shared else values.copy())
    except (TypeError, ValueError) as error:
        raise DataError(f"an array cannot be read as numbers of one type and shape: {first_line(error)}") from error


def images_of(images: Tensor, which: str, layout: Layout) -> Tensor:
    """Return images, (N, C, H, W), (N, H, W, C) or (N, H, W), as (N, C, H, W).

    Args:
        images: uint8 or floating point.
        which: what errors call them.
        layout: where the channels are; ``"auto"`` looks for the axis of length 1, 3 or 4.

    Raises:
        DataError: if they are of another type or shape, or nothing tells channels from pixels.
    """
    if images.dtype != torch.uint8 and not images.dtype.is_floating_point:
        kind = str(images.dtype).removeprefix("torch.")
        raise DataError(f"the {which} images are {kind}: give uint8 (0 to 255) or floating-point pixels")
    if images.ndim == 3:
        return images.unsqueeze(1).contiguous()
    if images.ndim != 4:
        raise DataError(
            f"the {which} images have shape {tuple(images.shape)}: give (N, C, H, W), (N, H, W, C) or (N, H, W)"
        )
    if layout == "auto":
        layout = _layout(images, which)
    return (images.permute(0, 3, 1, 2) if layout == "NHWC" else images).contiguous()


def _layout(images: Tensor, which: str) -> Layout:
    first, last = images.shape[1] in CHANNELS, images.shape[3] in CHANNELS
    if first == last:
        raise DataError(
            f"the {which} images have shape {tuple(images.shape)}, which does not tell channels from pixels: "
            'say layout="NCHW" or layout="NHWC"'
        )
    return "NCHW" if first else "NHWC"


def _labels(labels: Tensor, which: str) -> Tensor:
    if labels.ndim != 1 or labels.dtype.is_floating_point or labels.dtype.is_complex:
        kind = str(labels.dtype).removeprefix("torch.")
        raise DataError(f"the {which} labels are {kind} of shape {tuple(labels.shape)}: give one whole number an image")
    return labels.long()


def _check_alike(split: str, store: Store, train: Store) -> None:
    if store.images.shape[1:] != train.images.shape[1:] or store.images.dtype != train.images.dtype:
        mine, theirs = (
            f"{tuple(one.images.shape[1:])} {str(one.images.dtype).removeprefix('torch.')}" for one in (store, train)
        )
        raise DataError(f"the {split} images are {mine}, the training images {theirs}: they must be alike")
