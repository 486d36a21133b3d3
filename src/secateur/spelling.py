"""How a remedy is spelt where its reader can follow it: in a call of Python, on the command line, or in a recipe."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

Surface = Literal["python", "flags", "recipe"]

_surface: Surface = "python"


@contextmanager
def spelt_for(surface: Surface) -> Generator[None]:
    """Let messages speak to somebody who gives flags, or has written a recipe; all threads of the process follow.

    Args:
        surface: what the reader of messages has written.
    """
    global _surface
    before, _surface = _surface, surface
    try:
        yield
    finally:
        _surface = before


def said(python: str, flags: str, recipe: str | None = None) -> str:
    """Return the words for whoever reads the message.

    Args:
        python: of a call.
        flags: on the command line.
        recipe: in a recipe; None: as on the command line, for what a recipe does not say.
    """
    return {"python": python, "flags": flags, "recipe": flags if recipe is None else recipe}[_surface]


def setting(name: str) -> str:
    """Return the name of a setting that has one name everywhere, such as ``data=``, ``--data``, ``'data'``."""
    return said(f"{name}=", f"--{name.replace('_', '-')}", f"'{name}' in the recipe")


def setting_as(name: str, value: object) -> str:
    """Return how such a setting is given a value, such as ``data=3``, ``--data 3``, ``data = 3``."""
    return said(f"{name}={value}", f"--{name.replace('_', '-')} {value}", f"{name} = {value}")


def elsewhere() -> str:
    """Return what to do where a folder cannot be written."""
    return said("choose another folder", "choose another --out")
