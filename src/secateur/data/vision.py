"""The one place that imports torchvision and PIL, which are optional and slow to import."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Generator
from typing import Any

from secateur.errors import DataError, SecateurError
from secateur.reading import Unfit, regular, shown

MOST_PIXELS = 2**26
"""Of one picture; the largest photographs of ImageNet have 61 million."""

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")


def torchvision() -> Any:
    """Return the module torchvision.

    Raises:
        SecateurError: if it is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except ImportError as error:
        raise SecateurError('this data set needs torchvision: pip install "secateur[vision]"') from error


def picture_size(path: str) -> tuple[int, int]:
    """Return height and width of a picture file, in pixels, from its header alone.

    Raises:
        DataError: if it cannot be read.
    """
    with _opened(path) as picture:
        return picture.size[1], picture.size[0]


def picture(path: str) -> Any:
    """Return a picture in colour, as PIL's.

    Raises:
        DataError: if it cannot be read, or has more than ``MOST_PIXELS``.
    """
    with _opened(path) as found:
        return found.convert("RGB")


def _images() -> Any:
    return importlib.import_module("PIL.Image")


@functools.cache
def _formats() -> tuple[str, ...]:
    """Return those of the formats that PIL can read here."""
    images = _images()
    images.init()
    return tuple(name for name in FORMATS if name in images.OPEN)


@contextlib.contextmanager
def _opened(path: str) -> Generator[Any]:
    """Open a picture file by its header; of other formats than those of photographs PIL starts programs to read some.

    Raises:
        DataError: if it is none, or anything goes wrong while it is used.
    """
    torchvision()  # brings PIL, or says what to install
    try:
        regular(path)
        with _images().open(path, formats=_formats()) as found:
            width, height = found.size
            if width * height > MOST_PIXELS:
                raise Unfit(f"{width} x {height} pixels are more than the {MOST_PIXELS:,} that are read")
            yield found
    except MemoryError:
        raise
    except Exception as error:  # damaged files make the readers raise almost anything
        raise unreadable(path, error) from error


def unreadable(path: str, error: Exception) -> DataError:
    """Return the error that names a picture which cannot be read."""
    return DataError(f"the image '{path}' cannot be read ({shown(error)}): repair or remove it")
