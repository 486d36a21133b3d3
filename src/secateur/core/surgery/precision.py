"""Run a network in float64 without a copy of it: every call gets its numbers widened, one call at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from secateur.core.torch_modes import FunctionMode


def widened(inputs: Any) -> Any:
    """Return example inputs with their floating-point tensors in float64."""
    return tree_map(
        lambda leaf: leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, inputs
    )


class InDouble(FunctionMode):
    """While active, floating-point tensors are computed with, made and converted to in float64.

    Parameters and buffers keep their dtype, and so do views of them; what a call writes into one of them is rounded
    to it.
    """

    def _called(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("__get__", "__set__"):  # attributes, such as a shape
            return func(*args, **named)
        if name in ("float", "half", "bfloat16"):
            func = Tensor.double
        wide = _Widened()
        result = func(*tree_map(wide.of, args), **tree_map(wide.of, named))
        if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")) or "out" in named:
            return tree_map(wide.written, result if name != "__setitem__" else args[0])
        if any(wide.shares(leaf) for leaf in tree_leaves(result)):
            return func(*args, **named)
        return tree_map(wide.of, result)


class _Widened:
    """The tensors of one call, each widened once."""

    def __init__(self) -> None:
        self._pairs: dict[int, tuple[Tensor, Tensor]] = {}

    def of(self, value: Any) -> Any:
        """Return a tensor or dtype in float64 where it is another floating-point one, all else as it is."""
        if isinstance(value, torch.dtype):
            return torch.float64 if value.is_floating_point else value
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == torch.float64:
            return value
        if id(value) not in self._pairs:
            self._pairs[id(value)] = (value, value.double())
        return self._pairs[id(value)][1]

    def written(self, value: Any) -> Any:
        """Round what a call wrote into a widened tensor into the tensor itself, and return that."""
        for narrow, wide in self._pairs.values():
            if value is wide or value is narrow:
                narrow.copy_(wide)
                return narrow
        return value

    def shares(self, value: Any) -> bool:
        """Tell whether a tensor lies in the memory of a widened one."""
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            return False
        place = value.untyped_storage().data_ptr()
        return any(place == wide.untyped_storage().data_ptr() for _, wide in self._pairs.values())
