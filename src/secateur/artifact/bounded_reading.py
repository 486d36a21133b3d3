"""The text files of an artifact as anybody may have made them: bounded, and every trouble named after its file."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, cast

import torch

from secateur import reading
from secateur.errors import ArtifactError, SecateurError

ADVICE = "restore it, or run the recipe again"
MOST = 32 * reading.MIB
"""Bytes of a JSON document."""

MOST_PREDICTIONS = 2 * reading.MIB
"""Bytes of the answers of two networks, with pictures."""

MOST_PLAN = 128 * reading.MIB
"""Bytes of a plan, most of them the mask of single weights: four bytes for every three times eight weights."""


@contextlib.contextmanager
def naming(path: Path) -> Generator[None]:
    """Turn whatever goes wrong while a file is used into one sentence that names it.

    Raises:
        ArtifactError: with the error as its cause. A lack of memory and an interruption are left as they are.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except SecateurError as error:
        if isinstance(error, ArtifactError) and str(path) in str(error):
            raise
        said = str(error).removeprefix(f"{path}: ")
        raise ArtifactError(f"{path} cannot be used: {reading.line(said)}") from error
    except OSError as error:
        if str(error.filename) != str(path):  # which may be the number of a file
            raise ArtifactError(f"{path} cannot be used: {reading.wrong(error)}; {ADVICE}") from error
        raise ArtifactError(_unread(path, error)) from error
    except Exception as error:
        raise ArtifactError(f"{path} is damaged: {reading.wrong(error)}; {ADVICE}") from error


def _unread(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no file {path}; check the path, or {ADVICE}"
    return f"cannot read {path}: {reading.wrong(error)}; check the path, or {ADVICE}"


def text_of(path: Path, most: int) -> str:
    """Return a text file of an artifact.

    Raises:
        ArtifactError: if it is missing, no regular file, too large or no text.
    """
    with naming(path):
        return reading.text(path, most)


def table_of(path: Path, most: int = MOST) -> dict[str, Any]:
    """Return the JSON object in a file of an artifact.

    Raises:
        ArtifactError: if it is missing, too large, no JSON, or another value.
    """
    with naming(path):
        content: Any = reading.values(reading.text(path, most))
        if not isinstance(content, dict):
            raise reading.Unfit("it holds no table")
        return cast("dict[str, Any]", content)


def whole_number(entries: Mapping[str, Any], name: str) -> int:
    """Return an entry that must be a whole number of at least 0.

    Raises:
        reading.Unfit: if it is another value.
        KeyError: if there is none.
    """
    value = entries[name]
    if type(value) is not int or not 0 <= value < 2**63:
        raise reading.Unfit(f"'{name}' is {reading.written(value)} and not a whole number")
    return value


def entry(entries: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an entry that must be a table.

    Raises:
        reading.Unfit: if it is another value.
        KeyError: if there is none.
    """
    value = entries[name]
    if not isinstance(value, Mapping):
        raise reading.Unfit(f"'{name}' is {reading.written(value)} and not a table")
    return cast("Mapping[str, Any]", value)
