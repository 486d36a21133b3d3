"""The text of recipes and comparisons: a file to TOML, with one sentence for what is wrong with it and where."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from secateur import reading
from secateur.errors import SettingError

MOST = reading.MIB // 4
"""Bytes of a recipe."""

DEEPEST = 32
"""Tables in tables of a recipe at most; what Python does to read them grows with the square of this."""

T = TypeVar("T")

_PART = r"""(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+"""
_DEEP = re.compile(rf"(?<![^\s{{\[,])(?:{_PART}\.[ \t]*+){{{DEEPEST}}}")


def parsed(text: str) -> dict[str, Any]:
    """Return what a TOML text says.

    Raises:
        SettingError: if it is not TOML.
    """
    if _DEEP.search(text):
        raise SettingError(f"the recipe has a key of more than {DEEPEST} parts; correct it there")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise SettingError("the recipe is not valid TOML: it is nested too deeply; correct it there") from None
    except ValueError as error:  # that of TOML, and that of numbers with thousands of digits
        raise SettingError(f"the recipe is not valid TOML: {reading.shown(error)}; correct it there") from None


def read(path: str | Path, parse: Callable[[str], T]) -> T:
    """Return what ``parse`` makes of a file.

    Raises:
        SettingError: if the file cannot be read, or what ``parse`` raised; the message names the file.
    """
    try:
        return parse(reading.text(path, MOST))
    except OSError as error:
        raise SettingError(f"cannot read the recipe {path}: {error.strerror}; check the path") from None
    except UnicodeDecodeError:
        raise SettingError(f"the recipe {path} is not a text file in UTF-8; check the path") from None
    except MemoryError:
        raise
    except Exception as error:
        said = error if isinstance(error, SettingError) else reading.wrong(error)
        raise SettingError(reading.line(f"{path}: {said}")) from error
