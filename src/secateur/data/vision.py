"""The one place that imports torchvision and PIL, which are optional and slow to import."""

from __future__ import annotations

import importlib
from typing import Any

from secateur.errors import DataError, SecateurError


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
    torchvision()  # brings PIL, or says what to install
    try:
        with importlib.import_module("PIL.Image").open(path) as picture:
            width, height = picture.size
    except Exception as error:  # what is damaged can end in anything
        raise unreadable(path, error) from error
    return int(height), int(width)


def unreadable(path: str, error: Exception) -> DataError:
    """Return the error that names a picture which cannot be read."""
    return DataError(f"the image '{path}' cannot be read ({error}): repair or remove it")
