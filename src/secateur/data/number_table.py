"""Tables of images with the numbers that are wanted of each."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import torch

from secateur import reading
from secateur.data.pictures import Files
from secateur.errors import DataError

TABLE = "targets.csv"
"""In a split's folder: the name of a file, relative to that folder, and one number or several on each line."""

_MOST = 64 * reading.MIB


def numbers_in(path: Path) -> Files:
    """Return the files that a table names, with their numbers, (N, numbers) float32.

    A first line of words is a heading. An image that is named twice with the same numbers counts twice.

    Raises:
        DataError: naming the line that is not as described, whose image is not there, or has other numbers elsewhere.
    """
    try:
        rows = list(csv.reader(reading.text(path, _MOST).splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the table '{path}' cannot be read ({reading.shown(error)}): repair it") from None
    paths, found, known = list[str](), list[list[float]](), dict[str, tuple[int, list[float]]]()
    for line, row in enumerate(rows, start=1):
        numbers = [_number(text) for text in row[1:]]
        if not row or (line == 1 and not any(map(_is_number, row[1:]))):
            continue
        if not numbers or not all(abs(number) <= torch.finfo(torch.float32).max for number in numbers):
            raise DataError(f"line {line} of '{path}' must be the name of a file and finite numbers, as in 'a.png,0.5'")
        if found and len(numbers) != len(found[0]):
            raise DataError(f"line {line} of '{path}' has {len(numbers)} numbers and the ones before {len(found[0])}")
        place = path.parent / row[0].strip()
        if not place.is_file():
            raise DataError(f"line {line} of '{path}' names '{place}', which is not there: add it, or remove the line")
        before, wanted = known.setdefault(os.path.normpath(place), (line, numbers))
        if wanted != numbers:
            name = row[0].strip()
            raise DataError(f"line {line} of '{path}' has other numbers for '{name}' than line {before}: remove one")
        paths.append(str(place))
        found.append(numbers)
    if not found:
        raise DataError(f"the table '{path}' is empty: write a file and its numbers on each line, as in 'a.png,0.5'")
    zeros = torch.zeros(len(paths), dtype=torch.int64)
    return Files(tuple(paths), zeros, torch.tensor(found, dtype=torch.float32))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _is_number(text: str) -> bool:
    return text.strip().lower() == "nan" or not math.isnan(_number(text))
