"""The text of recipes and comparisons: a file to TOML, with one sentence for what is wrong with it and where."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from secateur.errors import SettingError

T = TypeVar("T")


def parsed(text: str) -> dict[str, Any]:
    """Return what a TOML text says.

    Raises:
        SettingError: if it is not TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"the recipe is not valid TOML: {error}; correct it there") from None


def read(path: str | Path, parse: Callable[[str], T]) -> T:
    """Return what ``parse`` makes of a file.

    Raises:
        SettingError: if the file cannot be read, or what ``parse`` raised; the message names the file.
    """
    try:
        return parse(Path(path).read_text("utf-8"))
    except OSError as error:
        raise SettingError(f"cannot read the recipe {path}: {error.strerror}; check the path") from None
    except UnicodeDecodeError:
        raise SettingError(f"the recipe {path} is not a text file in UTF-8; check the path") from None
    except SettingError as error:
        raise SettingError(f"{path}: {error}") from None
