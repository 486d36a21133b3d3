"""What came out of a network or a data set where something else was wanted, in a few words; and what fits together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor

_SHOWN = 4
_DEEPEST = 5  # containers in containers


def described(value: Any, depth: int = 0) -> str:
    """Return what a value is: the shape of a tensor, the parts of a container, the name of another class."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        entries = cast("Mapping[Any, Any]", value)
        return f"a table of {_listed([f'{name!s}' for name in entries], len(entries))}"
    if isinstance(value, list | tuple) and depth < _DEEPEST:  # one may hold itself
        parts = cast("Sequence[Any]", value)
        words = [described(part, depth + 1) for part in parts[:_SHOWN]]
        return f"a {type(value).__name__} of {_listed(words, len(parts))}"
    return "nothing" if value is None else f"a {type(value).__name__}"


def is_real(value: Any) -> TypeGuard[Tensor]:
    """Tell whether a value is a tensor of floating-point numbers."""
    return isinstance(value, Tensor) and value.is_floating_point()


def is_whole(value: Any) -> TypeGuard[Tensor]:
    """Tell whether a value is a tensor of whole numbers, as classes are."""
    return isinstance(value, Tensor) and not value.is_floating_point() and not value.is_complex()


def at_least_single(tensor: Tensor) -> Tensor:
    """Return numbers in float32, or in float64 where they are: sums of halves overflow."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def cheap_to_read(tensor: Tensor) -> bool:
    """Tell whether values of a tensor can be looked at without waiting for an accelerator."""
    return tensor.device.type == "cpu"


def _listed(parts: Sequence[str], count: int) -> str:
    shown = ", ".join(parts[:_SHOWN])
    return f"{shown} and {count - _SHOWN} more" if count > _SHOWN else shown or "nothing"
