"""Saying in a few words what came out of a network where something else was wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor

_SHOWN = 4


def described(value: Any) -> str:
    """Return what a value is: the shape of a tensor, the parts of a container, the name of another class."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        entries = cast("Mapping[Any, Any]", value)
        return f"a table of {_listed([f'{name!s}' for name in entries])}"
    if isinstance(value, list | tuple):
        parts = cast("Sequence[Any]", value)
        return f"a {type(value).__name__} of {_listed([described(part) for part in parts])}"
    return "nothing" if value is None else f"a {type(value).__name__}"


def _listed(parts: Sequence[str]) -> str:
    shown = ", ".join(parts[:_SHOWN])
    return f"{shown} and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else shown or "nothing"
