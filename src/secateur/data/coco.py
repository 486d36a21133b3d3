"""Boxes in COCO's JSON: which file belongs to which split, and what it says of each image."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard, cast

from secateur import reading
from secateur.data.folder_settings import SPLITS
from secateur.data.order import Split
from secateur.errors import DataError
from secateur.events import ignore, warn_once
from secateur.rules import LARGEST

MOST = 1024 * reading.MIB
"""Bytes of a file; that of COCO itself has half of it."""

OWN = "_annotations.coco.json"
"""What Roboflow calls the file in the folder of a split."""


@dataclass(frozen=True, eq=False)
class Boxed:
    """An image with its boxes.

    Attributes:
        path: of the image.
        size: width and height in pixels.
        boxes: x1, y1, x2, y2 of each in pixels; no tensors, of which workers could not be given so many.
        labels: one for each, from 1.
        crowds: for each whether it is a crowd, several things in one box; empty where none is.
    """

    path: str
    size: tuple[int, int]
    boxes: tuple[tuple[float, ...], ...]
    labels: tuple[int, ...]
    crowds: tuple[bool, ...] = ()


def files_of(root: Path) -> dict[Split, Path]:
    """Return the file of each split that there is.

    Raises:
        DataError: if there is none for training.
    """
    found = dict[Split, Path]()
    for split, words in SPLITS.items():
        path = next((path for word in words for path in _candidates(root, word)), None)
        if path is not None:
            found[split] = path
    if "train" not in found:
        raise DataError(
            f"'{root}' holds no COCO file for training: call it train.json, annotations/instances_train.json or "
            f"train/{OWN}"
        )
    return found


def read(path: Path, root: Path, split: Split) -> tuple[list[Boxed], dict[Any, str]]:
    """Return the images of a file with their boxes, and the names of its categories by id, sorted by id.

    Labels are 1, 2 and so on in the order of the ids, 0 being the background. Boxes are clipped to the image; what has
    no area then is dropped, with one warning.

    Raises:
        DataError: if the file cannot be read, contradicts itself, or belongs to other images.
    """
    table = _table(path)
    names = _categories(table, path)
    numbers = {name: number for number, name in enumerate(names, start=1)}
    entries = _by_id(table["images"], path, "images")
    boxes: dict[Any, list[tuple[tuple[float, ...], int, bool]]] = {key: [] for key in entries}
    dropped = outside = 0
    for key, entry in _by_id(table["annotations"], path, "annotations").items():
        image, category = entry.get("image_id"), entry.get("category_id")
        for what, value, known in (("image", image, entries), ("category", category, numbers)):
            if not _is_id(value) or value not in known:
                raise _wrong(
                    path, f"annotation {reading.shown(key)} is of the {what} {reading.shown(value)}, unknown there"
                )
        box = _corners(entry.get("bbox"), key, path)
        clipped, inside = _clipped(box, _size(entries[image], path))
        outside += 2 * inside < _area(box)
        if _area(clipped) > 0:
            boxes[image].append((tuple(clipped), numbers[category], bool(entry.get("iscrowd"))))
        else:
            dropped += 1
    total = dropped + sum(map(len, boxes.values()))
    if 2 * outside > total:
        raise _wrong(path, f"{outside} of {total} boxes lie mostly outside of their images: it belongs to other ones")
    if dropped:
        warn_once(f"'{path}' has {dropped} boxes without area on their images, which are left out", ignore)
    places = _images(path, root, split, [_name(entry, path) for entry in entries.values()])
    found = [
        _boxed(place, _size(entries[key], path), own) for place, (key, own) in zip(places, boxes.items(), strict=True)
    ]
    return found, names


def _boxed(place: str, size: tuple[int, int], boxes: Sequence[tuple[tuple[float, ...], int, bool]]) -> Boxed:
    corners, labels, crowds = zip(*boxes, strict=True) if boxes else ((), (), ())
    return Boxed(place, size, corners, labels, crowds if any(crowds) else ())


def _candidates(root: Path, word: str) -> Iterator[Path]:
    """Yield the files that may be those of a split, the likeliest first."""
    fixed = [root / f"{word}.json", root / "annotations" / f"{word}.json", root / word / OWN]
    notes = root / "annotations"
    listed = sorted(notes.iterdir()) if notes.is_dir() else []
    named = [path for path in listed if path.suffix == ".json" and path.name.startswith(f"instances_{word}")]
    inside = sorted((root / word).glob("*.json")) if (root / word).is_dir() else []
    yield from (path for path in [*fixed, *named, *inside[: len(inside) == 1]] if path.is_file())


def _table(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(reading.data(path, MOST))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"the boxes in '{path}' cannot be read ({reading.shown(error)}): repair the file") from None
    parts = ("images", "annotations", "categories")
    if not isinstance(found, dict) or not all(isinstance(found.get(part), list) for part in parts):
        raise _wrong(path, "it is no COCO file, which has lists of images, annotations and categories")
    if not found["images"]:
        raise _wrong(path, "it has no images")
    return cast("dict[str, Any]", found)


def _by_id(entries: Sequence[Any], path: Path, what: str) -> dict[Any, Mapping[str, Any]]:
    found = dict[Any, Mapping[str, Any]]()
    for entry in entries:
        key = cast("Mapping[str, Any]", entry).get("id") if isinstance(entry, Mapping) else None
        if not _is_id(key):
            raise _wrong(path, f"one of the {what} has no id")
        if key in found:
            raise _wrong(path, f"two of the {what} have the id {reading.shown(key)}")
        found[key] = cast("Mapping[str, Any]", entry)
    return found


def _categories(table: Mapping[str, Any], path: Path) -> dict[Any, str]:
    found = _by_id(table["categories"], path, "categories")
    if not found:
        raise _wrong(path, "it has no categories")
    try:
        keys = sorted(found)
    except TypeError:
        raise _wrong(path, "the ids of its categories are neither all numbers nor all texts") from None
    return {key: str(found[key].get("name", key)) for key in keys}


def _is_id(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def _name(entry: Mapping[str, Any], path: Path) -> str:
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        raise _wrong(path, f"the image {reading.shown(entry['id'])} has no file_name")
    return name


def _size(entry: Mapping[str, Any], path: Path) -> tuple[int, int]:
    wide, high = entry.get("width"), entry.get("height")
    if not (_is_number(wide) and _is_number(high) and wide > 0 and high > 0):
        raise _wrong(path, f"the image {reading.shown(entry['id'])} has no width and height in pixels")
    return int(wide), int(high)


def _corners(box: Any, key: object, path: Path) -> list[float]:
    """Return x1, y1, x2, y2 of a box that is given as x, y, width and height."""
    numbers = cast("list[Any]", box) if isinstance(box, list) else []
    sound = len(numbers) == 4 and all(_is_number(each) for each in numbers)
    if not sound:
        raise _wrong(
            path, f"the bbox of annotation {reading.shown(key)} ({reading.shown(box)}) is not four finite numbers"
        )
    x, y, wide, high = map(float, numbers)
    return [x, y, x + wide, y + high]


def _clipped(box: Sequence[float], size: tuple[int, int]) -> tuple[list[float], float]:
    """Return a box without what lies outside of an image, and the area that is left."""
    wide, high = size
    x1, y1, x2, y2 = box
    inner = [min(max(x1, 0.0), wide), min(max(y1, 0.0), high), min(max(x2, 0.0), wide), min(max(y2, 0.0), high)]
    inner = array("f", inner).tolist()  # as they are used: what has no area then has none
    return inner, _area(inner)


def _area(box: Sequence[float]) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _images(path: Path, root: Path, split: Split, names: Sequence[str]) -> list[str]:
    """Return the paths of the images that a file names: all in that folder which has the first of them."""
    words = SPLITS[split]
    years = [root / path.stem.removeprefix("instances_")]  # train2017 beside annotations/instances_train2017.json
    folders = [path.parent, *(root / word for word in words), *years, *(root / "images" / word for word in words)]
    folders += [root / "images" / years[0].name, *(root / word / "images" for word in words), root / "images", root]
    folder = next((folder for folder in folders if os.path.isfile(folder / names[0])), None)
    if folder is None:
        raise _wrong(
            path, f"there is no image '{names[0]}' in '{path.parent}', '{root / 'images'}' or '{root / words[0]}'"
        )
    found = [os.path.join(folder, name) for name in names]
    missing = [place for place in found if not os.path.isfile(place)]
    if missing:
        raise _wrong(path, f"it names {len(missing)} images that are not there, the first '{missing[0]}'")
    return found


def _wrong(path: Path, what: str) -> DataError:
    return DataError(f"the COCO file '{path}' does not fit: {what}; repair it, or name another folder")
