"""Folders of images with what is wanted of each: another image, or numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from secateur.data import layouts
from secateur.data.dataset import Data
from secateur.data.folder_settings import AS_THEY_ARE, SPLITS, FolderSettings, split_folders
from secateur.data.image_pairs import CroppedSource, ImagePairs, check_sizes, factor_of
from secateur.data.number_table import TABLE, numbers_in
from secateur.data.order import Split
from secateur.data.pictures import Files, FolderSource
from secateur.errors import DataError
from secateur.tasks import Regression, Restoration

NAMES = (("input", "target"), ("inputs", "targets"), ("lr", "hr"), ("noisy", "clean"))
FACTORS = (2, 8)
"""The smallest and the largest scale of super-resolution; the first is taken if nothing is said."""
_ASKED = re.compile(r"\?\s*scale\b")
_OPTION = re.compile(r"(?P<folder>.*)\?scale=(?P<scale>\d{1,3})")


def pair_folder(root: Path, settings: FolderSettings) -> Data:
    """Make a data set of images and wanted images, or of images and wanted numbers where there is a ``targets.csv``.

    Missing splits are held out of the training images, see ``FolderSettings.completed``.

    Raises:
        DataError: if files are missing or do not fit together.
        SecateurError: if torchvision is not installed.
    """
    layouts.there(root)
    tables = dict[Split, Path]()
    for split, words in SPLITS.items():
        path = next((path for word in words if (path := root / word / TABLE).is_file()), None)
        if path is not None:
            tables[split] = path
    if not tables and (root / TABLE).is_file():
        tables["train"] = root / TABLE
    if tables:
        return _numbers(root, tables, settings)
    pairs = layouts.paired(root, NAMES)
    parts: dict[Split, ImagePairs] = {split: ImagePairs(*layouts.taken(pairs, split)) for split in pairs}
    return _images(root, parts, factor_of(parts), settings)


def superresolution_folder(root: Path, settings: FolderSettings) -> Data:
    """Make a data set of pictures and smaller copies of them, made by bicubic interpolation as they are read.

    Args:
        root: holds ``train`` and, if there are any, ``val`` and ``test``, or pictures; ``?scale=3`` may follow, by how
            much the pictures are larger than their copies, 2 if nothing is said.
        settings: how it is read.

    Raises:
        DataError: if there are no pictures, or the scale is out of range.
        SecateurError: if torchvision is not installed.
    """
    root, scale = split_scale(str(root))
    if not FACTORS[0] <= scale <= FACTORS[1]:
        raise DataError(f"scale={scale} is out of range: pictures can be {FACTORS[0]} to {FACTORS[1]} times as large")
    layouts.there(root)
    parts: dict[Split, ImagePairs] = {split: _alone(folder, scale) for split, folder in split_folders(root).items()}
    if "train" not in parts:
        if parts:
            raise DataError(f"'{root}' holds no folder 'train': put the pictures to train on there")
        parts["train"] = _alone(root, scale)
    return _images(root, parts, scale, settings)


def split_scale(folder: str) -> tuple[Path, int]:
    """Return a folder and what is said of the scale behind its name.

    Raises:
        DataError: if it is no whole number.
    """
    match = _OPTION.fullmatch(folder)
    if match is None and _ASKED.search(folder):
        raise DataError(
            f"the scale in '{folder}' must be a whole number, {FACTORS[0]} to {FACTORS[1]}, as in 'DIR?scale=2'"
        )
    return (Path(match["folder"]), int(match["scale"])) if match else (Path(folder), FACTORS[0])


def _alone(folder: Path, scale: int) -> ImagePairs:
    found = tuple(layouts.pictures_in(folder))
    if not found:
        raise DataError(f"there are no pictures in '{folder}': put some there")
    return ImagePairs(None, found, scale)


def _images(root: Path, found: Mapping[Split, ImagePairs], scale: int, settings: FolderSettings) -> Data:
    parts = settings.completed(found)
    side = settings.image_size // scale
    if not side:
        raise DataError(
            f"crops of {settings.image_size} pixels are too small at a scale of {scale}: name a larger size"
        )
    parts["train"] = replace(parts["train"], side=side)
    constants = settings.scale(AS_THEY_ARE)
    for split in ("train", "val"):
        check_sizes(parts[split], scale)
    source = CroppedSource(parts, *constants, settings.workers, side, scale)
    task = settings.task or Restoration(border=scale if scale > 1 else 0)
    return Data(root.resolve().name, None, (len(constants[0]), side, side), *constants, source, task)


def _numbers(root: Path, tables: Mapping[Split, Path], settings: FolderSettings) -> Data:
    found: dict[Split, Files] = {split: numbers_in(path) for split, path in tables.items()}
    if "train" not in found:
        raise DataError(f"'{root}' holds no 'train/{TABLE}': put the images to train on there")
    widths = {split: files.targets.shape[1] for split, files in found.items()}
    if len(set(widths.values())) > 1:
        raise DataError(f"the tables in '{root}' have {', '.join(map(str, widths.values()))} numbers for each image")
    scale = settings.scale()
    source = FolderSource(settings.completed(found), *scale, settings.image_size, settings.workers)
    shape = (len(scale[0]), settings.image_size, settings.image_size)
    return Data(root.resolve().name, None, shape, *scale, source, settings.task or Regression())
