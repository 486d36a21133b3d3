"""A folder of pictures without labels, in whatever order and depth they lie there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from secateur.data.inputs import Wanted
from secateur.data.listing import pictures_below
from secateur.data.order import Order
from secateur.data.pictures import Files, FolderSource
from secateur.data.splits import mixed
from secateur.data.vision import picture_size, torchvision
from secateur.errors import DataError
from secateur.measure.forward import tensors

SMALL = 96
"""Pictures of one size up to this, in pixels, stay as they are where nothing asks for another size."""

_CHUNK = 128


def of_folder(
    folder: Path, wanted: Wanted, count: int, seed: int, size: tuple[int | None, int], workers: int | None
) -> tuple[Iterator[Tensor], str]:
    """Return pictures drawn by the seed; no others are read.

    Args:
        folder: searched to any depth; a folder ``train`` in it alone, where there is one.
        wanted: what the network takes.
        count: how many pictures to draw.
        seed: of the draw.
        size: height and width that were asked for, None if none were; and those to take where nothing else says it.
        workers: reading processes; chosen by the machine if None.

    Returns:
        The batches, and what they are in words.

    Raises:
        DataError: if there are no pictures, or the network takes something else.
    """
    root = folder / "train" if (folder / "train").is_dir() else folder
    paths = [os.path.join(here, name) for here, names in pictures_below(root, hidden=False) for name in names]
    if not paths:
        endings = ", ".join(torchvision().datasets.folder.IMG_EXTENSIONS)
        raise DataError(f"there are no pictures in '{root}' (known endings: {endings}): give another folder")
    rows: list[int] = mixed(len(paths), seed)[:count].tolist()
    chosen = tuple(paths[row] for row in rows)
    channels, side = _asked(wanted)
    final, resized = _size(chosen, side, *size)
    mean, std = wanted.scale(channels)
    if workers is None and max(final) <= SMALL:
        workers = 0  # small pictures are read sooner than processes start
    files = Files(chosen, torch.zeros(len(chosen), dtype=torch.int64))
    source = FolderSource({"test": files}, mean, std, final if resized else None, workers)
    done = f"{'resized to ' if resized else ''}{final[0]}x{final[1]} pixels"
    name = f"pictures in '{root}', {done}, normalised with {wanted.scaling()}"
    order = Order("test", _CHUNK, "none", False, seed, torch.device("cpu"), 0, 1)
    return (images for images, _ in source.batches(order)), name


def _asked(wanted: Wanted) -> tuple[int, tuple[int, int] | None]:
    """Return how many channels the pictures must have, and the size of the example, if there is one."""
    if wanted.example is None:
        return (3 if wanted.mean is None else len(wanted.mean)), None
    likes = list(tensors(wanted.example))
    if len(likes) != 1:
        raise DataError(
            f"a folder of pictures is one input, but the network takes {len(likes)}: give arrays or a loader"
        )
    like = likes[0]
    if like.dim() != 4 or like.shape[1] not in (1, 3) or not like.is_floating_point():
        shape, kind = tuple(like.shape), str(like.dtype).removeprefix("torch.")
        raise DataError(f"pictures have 1 or 3 channels, but the network takes {kind} of shape {shape}: give arrays")
    return like.shape[1], (like.shape[2], like.shape[3])


def _size(
    paths: tuple[str, ...], example: tuple[int, int] | None, asked: int | None, otherwise: int
) -> tuple[tuple[int, int], bool]:
    """Return the height and width that pictures get, and whether they must be resized for it."""
    if asked is not None:
        return (asked, asked), True
    one = picture_size(paths[0])
    fits = one == example or (example is None and max(one) <= SMALL)
    if fits and all(picture_size(path) == one for path in paths):
        return one, False
    return example or (otherwise, otherwise), True
