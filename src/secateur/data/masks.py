"""Masks: pictures whose pixels are class numbers, or colours that a table gives numbers to."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secateur import reading
from secateur.data.vision import class_map
from secateur.errors import DataError
from secateur.spelling import said, setting_as

TABLES = ("class_dict.csv", "label_colors.txt", "labelmap.txt")
"""Files beside the folders that say which colour is which class, each class on a line of its own."""

MOST_SCANNED = 2000
"""Masks that are looked at to find out how many classes there are."""

MOST_TRIED = 50
"""Masks that are looked at where a table says it, so that a wrong table is soon found."""

_MOST_TABLE = 2**20
_UNKNOWN = 255  # a number that no colour of a table has
_LINES = (
    re.compile(r"(?P<name>[^,;:#]+)[,:]\s*(?P<r>\d+)\s*,\s*(?P<g>\d+)\s*,\s*(?P<b>\d+)\b.*"),
    re.compile(r"(?P<r>\d+)\s+(?P<g>\d+)\s+(?P<b>\d+)\s+(?P<name>\S.*)"),
)


@dataclass(frozen=True)
class ColourTable:
    """Which colour is which class.

    Attributes:
        names: of the classes, in the order of their numbers.
        codes: red, green and blue of each in one number, in the same order.
    """

    names: tuple[str, ...]
    codes: tuple[int, ...]


def colour_table(root: Path) -> ColourTable | None:
    """Return the table of colours in a folder, None if there is none.

    Raises:
        DataError: if it cannot be read, or says nothing of use.
    """
    path = next((root / name for name in TABLES if (root / name).is_file()), None)
    if path is None:
        return None
    try:
        lines = [line.strip() for line in reading.text(path, _MOST_TABLE).splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the colours in '{path}' cannot be read ({reading.shown(error)}): repair the file") from None
    found = dict[int, str]()
    for number, line in enumerate(lines):
        match = next((match for pattern in _LINES if (match := pattern.fullmatch(line))), None)
        if match is None and (not line or line.startswith("#") or number == 0):
            continue
        parts = [] if match is None else [int(match[part]) for part in "rgb"]
        if match is None or max(parts) > 255 or _code(*parts) in found:
            raise DataError(
                f"line {number + 1} of '{path}' ({reading.shown(line)}) must be a class with a colour of its own, as in"
                " 'road,128,64,128'"
            )
        found[_code(*parts)] = match["name"].strip()
    if not 1 <= len(found) <= 255:
        raise DataError(f"'{path}' names {len(found)} colours, and 1 to 255 are wanted: write one class a line")
    return ColourTable(tuple(found.values()), tuple(found))


def read_mask(path: str, table: ColourTable | None) -> Any:
    """Return the class numbers of a mask, (H, W) uint8.

    Raises:
        DataError: naming the file, if it holds none.
    """
    found = class_map(path, coloured=table is not None)
    if found.ndim == 2:
        return found
    if table is None:
        if (found == found[..., :1]).all():  # grey in a format that has no grey
            return found[..., 0]
        raise DataError(
            f"the mask '{path}' holds colours, and nothing says which class each one is: write class numbers as pixel "
            f"values, or put a table {TABLES[0]} (name,r,g,b) into the folder"
        )
    numbers = _numbers_of(table)[_code(*(found[..., part].astype(np.int32) for part in range(3)))]
    strange = numbers == _UNKNOWN
    if strange.any():
        red, green, blue = found[strange][0].tolist()
        raise DataError(
            f"the mask '{path}' holds the colour {red},{green},{blue}, unknown to the table: add it, or remove the "
            "table if pixels are class numbers (of a palette)"
        )
    return numbers


@functools.lru_cache(maxsize=1)
def _numbers_of(table: ColourTable) -> Any:
    """Return the class of every colour there is, (2**24,) uint8, which is looked up sooner than searched for."""
    found = np.full(2**24, _UNKNOWN, np.uint8)
    found[list(table.codes)] = np.arange(len(table.codes))
    return found


def classes_in(paths: Sequence[str], table: ColourTable | None, ignore: int | None) -> int:
    """Return how many classes masks have: one more than the largest number that counts, in them or in a table.

    Of more than ``MOST_SCANNED`` masks, or ``MOST_TRIED`` with a table, so many are looked at, evenly spaced; what was
    seen is remembered.

    Raises:
        DataError: if a mask cannot be read, or they hold one class alone.
    """
    step = max(1, -(-len(paths) // (MOST_SCANNED if table is None else MOST_TRIED)))
    seen = set[int]().union(*(_values(path, table, _stamp(path)) for path in paths[::step]))
    if table is not None:
        seen.update(range(len(table.names)))
    counted = seen - {ignore}
    if max(counted, default=0) == 0:
        aside = f" beside {ignore}, which is ignored" if ignore in seen else ""
        raise DataError(
            f"the masks in '{os.path.dirname(paths[0])}' hold one class alone{aside}: write class numbers 0, 1, 2 and "
            f"so on as pixel values, or name another number that does not count ({_ignoring('...')})"
        )
    return max(counted) + 1


def check_numbers(mask: Any, path: str, classes: int, ignore: int | None) -> None:
    """Refuse a mask, (H, W) uint8, with a class that nobody knows.

    Raises:
        DataError: naming the file.
    """
    wrong = mask >= classes
    if ignore is not None:
        wrong &= mask != ignore
    if wrong.any():
        number = int(mask[wrong][0])
        raise DataError(
            f"the mask '{path}' holds the class {number}, but there are {classes} classes, 0 to {classes - 1}: say how "
            f"many there are ({setting_as('classes', number + 1)}), or which number does not count "
            f"({_ignoring(number)})"
        )


def _ignoring(number: object) -> str:
    """Return how a reader says which number does not count."""
    flag = f"segmentation?ignore={number}"
    return said(f"Segmentation(ignore={number})", f'--task "{flag}"', f'task = "{flag}"')


@functools.lru_cache(maxsize=2**16)
def _values(path: str, table: ColourTable | None, stamp: tuple[int, int]) -> frozenset[int]:
    numbers: list[int] = np.flatnonzero(np.bincount(read_mask(path, table).ravel(), minlength=256)).tolist()
    return frozenset(numbers)


def _stamp(path: str) -> tuple[int, int]:
    """Return what changes with the content of a file."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise DataError(f"the mask '{path}' cannot be read ({reading.shown(error)})") from None
    return found.st_mtime_ns, found.st_size


def _code(red: Any, green: Any, blue: Any) -> Any:
    return (red * 256 + green) * 256 + blue
