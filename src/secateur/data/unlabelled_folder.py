"""A folder of pictures without labels, in whatever order and depth they lie there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from secateur.data.folder import GREY
from secateur.data.inputs import Wanted
from secateur.data.listing import pictures_below
from secateur.data.picture_source import readers
from secateur.data.pictures import Files, FolderSource, Item
from secateur.data.splits import mixed
from secateur.data.vision import picture_size, torchvision
from secateur.errors import DataError
from secateur.measure.forward import tensors
from secateur.spelling import said

SMALL = 96
"""Pictures of one size up to this, in pixels, stay as they are where nothing asks for another size."""

_CHUNK = 128


def of_folder(
    folder: Path,
    wanted: Wanted,
    count: int,
    seed: int,
    size: tuple[int | None, int],
    workers: int | None,
    lost: list[str],
) -> tuple[Iterator[Tensor], str, Wanted, str]:
    """Return pictures drawn by the seed; no others are read, but for those that cannot be: others take their places.

    Args:
        folder: searched to any depth; a folder ``train`` in it alone, where there is one.
        wanted: what the network takes.
        count: how many pictures to draw.
        seed: of the draw.
        size: height and width that were asked for, None if none were; and those to take where nothing else says it.
        workers: reading processes; chosen by the machine if None.
        lost: takes the names of the pictures that cannot be read, while the others are.

    Returns:
        The batches, what they are in words, what was wanted with the constants that they are normalised with, and what
        is doubtful about their size, empty for nothing.

    Raises:
        DataError: if there are no pictures, none can be read, or the network takes something else.
    """
    root = folder / "train" if (folder / "train").is_dir() else folder
    paths = [os.path.join(here, name) for here, names in pictures_below(root, hidden=False) for name in names]
    if not paths:
        endings = ", ".join(torchvision().datasets.folder.IMG_EXTENSIONS)
        raise DataError(f"there are no pictures in '{root}' (known endings: {endings}): give another folder")
    rows: list[int] = mixed(len(paths), seed).tolist()
    drawn = tuple(paths[row] for row in rows)
    channels, side = _asked(wanted)
    final, resized = _size(drawn[:count], side, *size)
    if channels == 1 and wanted.mean is None:
        wanted = replace(wanted, mean=GREY[0], std=GREY[1])
    mean, std = wanted.scale(channels)
    if workers is None and max(final) <= SMALL:
        workers = 0  # small pictures are read sooner than processes start
    files = Files(drawn, torch.zeros(len(drawn), dtype=torch.int64))
    source = FolderSource({"test": files}, mean, std, final if resized else None, workers)
    done = f"{'resized to ' if resized else ''}{final[0]}x{final[1]} pixels"
    name = f"pictures in '{root}', {done}, normalised with {wanted.scaling()}"
    doubt = _enlarged(root, drawn[:count], final) if resized and side is None and size[0] is None else ""
    return _read(source, count, None if resized else final, lost), name, wanted, doubt


def _read(source: FolderSource, count: int, only: tuple[int, int] | None, lost: list[str]) -> Iterator[Tensor]:
    """Yield so many pictures, in their order, without those that cannot be read.

    Args:
        source: all that there are.
        count: how many are wanted.
        only: height and width that those which stand in for others must have; None for any.
        lost: takes the names of the others.
    """
    paths, at = source.parts["test"].paths, 0
    while count and at < len(paths):
        rows = range(at, min(at + count, len(paths)))
        keys = [(row, 0) for row in rows if not at or only in (None, _size_of(paths[row]))]
        at = rows.stop
        loader: DataLoader[Any] = DataLoader(
            source.pictures("test", "none"),
            batch_size=_CHUNK,
            sampler=keys,  # pyright: ignore[reportArgumentType]
            num_workers=min(readers(source.workers), -(-len(keys) // _CHUNK)),
            collate_fn=_sorted,
            generator=torch.Generator(),  # or the loader would draw from the caller's random numbers
        )
        for pictures, errors in loader:
            lost += errors
            if pictures is not None:
                count -= len(pictures)
                yield source.scaled(pictures, torch.device("cpu"))


def _sorted(items: list[Item | DataError]) -> tuple[Tensor | None, list[str]]:
    """Return the pictures in one tensor, None if there are none, and what is wrong with the others."""
    found = [item[0] for item in items if not isinstance(item, DataError)]
    return torch.stack(found) if found else None, [str(item) for item in items if isinstance(item, DataError)]


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
    sizes = (_size_of(path) for path in paths)
    one = next((size for size in sizes if size is not None), None) or picture_size(paths[0])  # or what is wrong with it
    fits = one == example or (example is None and max(one) <= SMALL)
    if fits and all(size in (one, None) for size in sizes):
        return one, False
    return example or (otherwise, otherwise), True


def _enlarged(root: Path, paths: tuple[str, ...], final: tuple[int, int]) -> str:
    """Say that most pictures are smaller than the size to which they are resized unasked; empty if they are not."""
    first = _size_of(paths[0])
    if first is None or min(first) >= min(final):  # as photographs are, whose sizes need not be read
        return ""
    sizes = {path: size for path in paths if (size := _size_of(path)) is not None}
    small = [size for size in sizes.values() if min(size) < min(final)]
    if 2 * len(small) <= len(sizes):
        return ""
    differ = ", and of different sizes," if len(set(sizes.values())) > 1 else ""
    name = said("secateur.data.load_calibration(..., image_size=)", "--image-size", "'image_size' in the recipe")
    return (
        f"the pictures in '{root}' are smaller{differ} than the {final[0]}x{final[1]} pixels to which they are resized"
        f": name the size that the network was trained on ({name}) unless it is that"
    )


def _size_of(path: str) -> tuple[int, int] | None:
    """Return height and width of a picture, None if it cannot be read."""
    try:
        return picture_size(path)
    except DataError:
        return None
